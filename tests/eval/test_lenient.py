"""The forgiving reader: what base models and chat models write where the grammar asks for tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.lenient import lenient_answer
from rewards.grading.verify import Outcome, verify
from rewards.response import MAX_ANSWER_CHARS, TAGS, boxes, render

FORMS = [
    # the grammar's tags, in any state
    (render("It purrs.", "B"), "B"),
    ("<ANSWER>B</ANSWER>", "B"),
    ("<think>a</think><answer>B", "B"),
    ("< answer >B</ answer>", "B"),
    ("<answer>A</answer> no <answer>B</answer>", "B"),
    ("<answer>7</answer>\n<answer>", "7"),
    ("<answer>The final answer is **7**.</answer>", "7"),
    ("<answer>$7$.</answer>", "7"),
    ("<answer>St. Louis</answer> is it.", "St. Louis"),
    ("<answer>B. rock\nRocks are hard.</answer> So.", "B. rock"),
    ("<Think>Not 5.</Think>\n7", "7"),
    ("<think>Is it \\boxed{1}? The answer is 5.</think>\n7", "7"),
    ("<think>The answer is 5.", "5"),
    # boxes
    (r"We get $\boxed{\frac{1}{2}}$, which is a half.", r"\frac{1}{2}"),
    (r"So \boxed{1} and then \boxed{2}. I hope this answer is clear.", "2"),
    (r"\boxed{\text{(B)}}", r"\text{(B)}"),
    ("\\[\n\\boxed{\n7\n}\n\\]", "7"),
    (r"\boxed 5", "5"),
    (r"The area is $\boxed 72$.", "72"),
    (r"$\boxed\frac12$", r"\frac12"),
    (r"\fbox{12}", "12"),
    (r"So \boxed{\boxed{3}}.", "3"),
    (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
    (r"\boxed{7} and \boxed{", "7"),
    (r"The answer is $\boxed{42$.", "42"),
    (r"Write it in \boxed{}. The answer is 7.", "7"),
    (r"Write it in \boxed format. The answer is 7.", "7"),
    # "answer is", "answer:" and their like
    ("**Answer: B**", "B"),
    ("Answer: **B**", "B"),
    ("**Answer:** B\n", "B"),
    ("It purrs. The answer is: B", "B"),
    ("Answer:\n7", "7"),
    ("**Answer:**\n\n$$\n7\n$$", "7"),
    ("The answer is\n\\[\n7\n\\]", "7"),
    ("Answer：7", "7"),
    ("### Final Answer\n\n`7`\n", "7"),
    ("The answer is 7. I hope it is correct.", "7"),
    ("Final Answer: The final answer is $7$. I hope it is correct.", "7"),
    (r"the correct answer is: $\frac12$.", r"\frac12"),
    (r"The answer is \(x = 5\).", "x = 5"),
    ("Final Answer: 42", "42"),
    ("Ans: 42", "42"),
    ("The answer to 3 + 4 is 7.", "7"),
    ("Answer (in cm): 12 cm", "12 cm"),
    ("The answer is 12 cm. The side is 4 cm.", "12 cm"),
    ("The answer is 3.5.", "3.5"),
    ("The answer is 1,000.", "1,000"),
    ("The answer is 7.I hope so.", "7"),
    ("The answer is 7, because 3 + 4 = 7.", "7"),
    ("The answer is 2**3.", "2**3"),
    ("The answer is $5.", "$5"),
    ("The answer is 3 + 4 = 7.", "7"),
    ("The answer is Dr. Smith.", "Dr. Smith"),
    ("The answer must be -5", "-5"),
    ("It must be 5, so the answer should be 5.\nWait, no. The answer is 7.", "7"),
    ("The answer is not 5, it is 7.", "7"),
    ("The answer is 7. The answer is not 5.", "7"),
    ("The answer is not given.", "not given"),
    ("The answer is not 5.\nLet me add.\n7", "7"),
    ("The answer is the sample in which it is hot.", "the sample in which it is hot"),
    ("The answer is 3 ** 4.", "3 ** 4"),
    (r"The answer is \(a\) and \(b\).", r"\(a\) and \(b\)"),
    ("The answer is 7. I checked that the answer is correct.", "7"),
    ("Is the answer is 5? No.\nThe answer is 7.", "7"),
    ("The answer is 7.\n\nExplanation: The answer is found by adding.", "7"),
    ("Sure.\nExplanation: we add, so the answer is 7.", "7"),
    ("The answer is as follows:\n\n**7**", "7"),
    ("The answer could be about $7$.", "7"),
    ('{"answer": "B"}', "B"),
    # letters and their options
    ("Answer: B) rock", "B) rock"),
    ("The answer is (B).", "(B)"),
    ("The correct option is B, not A.", "B"),
    ("The answer is option B.", "B"),
    ("B. rock", "B. rock"),
    ("(B) rock", "(B) rock"),
    ("B. rock\nRocks are harder than wood.", "B. rock"),
    ("B\n\nExplanation: Rocks are harder.", "B"),
    ("B. rock because it is harder than wood", "B"),
    ("B. I hope it is correct.", "B"),
    ("Answer: B. It is 3.5 times as hard.", "B"),
    ("Answer B. The rock is hard.", "B"),
    ("(B) is the correct answer. Rocks are hard.", "B"),
    ("B is correct because it is hard.", "B"),
    ("A. wood\nB. rock\nThe answer is B.", "B"),
    # GSM8K's, and prompts with examples
    ("48 / 2 = 24\n48 + 24 = 72\n#### 72", "72"),
    ("#### 1,000\n\nTom has 3 apples.\n#### 3", "1,000"),
    ("48 + 24 = 72 #### 72", "72"),
    ("A: Let's think step by step.\nWe add.\n3 + 4 = 7", "7"),
    ("#### Step 1: add\n3 + 4 = 7\n#### Conclusion\nThe answer is 7.", "7"),
    (" 7\n\nQuestion: What is 5 + 5?\nAnswer: 10", "7"),
    (" The answer is 7.\n\nQ: What is 5 + 5?\nA: The answer is 10.", "7"),
    ("A: 7\n\nQ: What is 3 + 3?\nA: 6", "7"),
    ("Q: What is 3 + 4?\nA: 7\n\nQ: What is 3 + 3?\nA: 6", "7"),
    ("Question: What is 3 + 4?\nAnswer: 7", "7"),
    ("7<|im_end|>\n<|im_start|>user\nThe answer is 8", "7"),
    # no answer by name: the last line
    ("It purrs.\n\nB<|im_end|>", "B"),
    ("We add.\nTherefore, x = 5.", "x = 5"),
    ("She has 48/2 = 24 and 48+24 = 72 clips.", "72 clips"),
    ("x^2+y^2=1", "x^2+y^2=1"),
    ("7\nDoes that help?", "7"),
    ("7\n\nExplanation: we add 3 and 4.", "7"),
    ("It is hard to say.", "It is hard to say"),
    ("does not conduct", "does not conduct"),
    ("the sample in which it is hot", "the sample in which it is hot"),
    ("Therefore, the total is 72.", "72"),
    ("It purrs, so it must be (B).", "(B)"),
    ("7 because 3 + 4 = 7.", "7"),
    ("1. Add.\n2. Done: 7", "2. Done: 7"),
    ("It floats.\n...", "It floats"),
    ("...", "..."),
    ("<think>It purrs.</think>", ""),
    ("", ""),
    ("\n \n", ""),
]


@pytest.mark.parametrize(("text", "answer"), FORMS)
def test_an_answer_is_found_in_the_usual_forms(text: str, answer: str) -> None:
    assert lenient_answer(text) == answer


CHOICES = ["wood", "rock", "the stone which floats"]


@pytest.mark.parametrize(
    ("text", "gold", "choices"),
    [
        ("Answer: B) rock", "B", CHOICES),
        ("**Answer: B. rock**\n\nWood is soft.", "B", CHOICES),
        ("(B) rock", "rock", CHOICES),
        ("C. the stone which floats", "C", CHOICES),
        ("The answer is (C) because it floats.", "C", CHOICES),
        ("<ANSWER>B</ANSWER>", "B", None),
        ("#### 72", "72", None),
        (r"So $\boxed{\dfrac{1}{2}}$ is left.", "0.5", None),
        ("The answer is 12 cm.", "12 cm", None),
        ("Therefore, x = 5.", "5", None),
        ("The answer is $x^2 + 1$. I hope it is correct.", "1+x^2", None),
    ],
)
def test_what_is_found_can_be_read_by_the_verifier(text: str, gold: str, choices: list[str] | None) -> None:
    assert verify(lenient_answer(text), gold, None, choices) is Outcome.CORRECT


def test_a_letter_with_another_options_text_is_no_answer() -> None:
    assert verify(lenient_answer("Answer: B. wood"), "B", None, CHOICES) is Outcome.UNPARSEABLE


PIECES = [
    *TAGS,
    "\\boxed{",
    "\\boxed",
    "\\",
    "{",
    "}",
    "$",
    "**",
    "answer is ",
    "Answer:",
    "#### ",
    "B. ",
    "7",
    ".",
    "?",
]
PIECES += ["\n", " ", "Q:", "not ", "=", "(", ")", "because", "<|im_end|>", "\ud800", "\0", "é", "Explanation"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_text_has_a_short_answer_or_none(text: str) -> None:
    answer = lenient_answer(text)
    assert answer == answer.strip()
    assert len(answer) <= MAX_ANSWER_CHARS


def test_a_long_last_line_is_cut() -> None:
    assert lenient_answer("We see.\n" + "word " * 1000) == ("word " * 1000)[:MAX_ANSWER_CHARS].strip()


UNITS = [
    "answer is ",
    "answer",
    "answer ",
    "\\boxed{",
    "{",
    "\\",
    "\\boxed ",
    "<answer>",
    "< answer",
    "\n",
    "#",
    "Answer:\n",
]
UNITS += [
    "\n#### 7 a",
    "7",
    "(",
    "$",
    "**",
    "not ",
    "Q:\n",
    "\nQ: ",
    "B. ",
    "\nB. ",
    "because ",
    "= ",
    "3+",
    "</think>",
]
UNITS += [".", "answer is not 5 ", "7 is the ", "`", "therefore ", "<|im_end|>", "\\boxed{7} ", "is 7", "\\("]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", UNITS)
def test_hostile_text_is_read_in_linear_time(unit: str) -> None:
    """A quadratic look at 200,000 characters would take minutes, and the test's limit is seconds."""
    for ends in ("", "}" * 100_000, " is", "\n\nAnswer:"):
        text = unit * (100_000 // len(unit)) + ends
        assert len(lenient_answer(text)) <= MAX_ANSWER_CHARS
        assert sum(len(box or "") for box in boxes(text)) <= len(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (render("It purrs.", "B"), "B"),
        ("<think>Not <answer>A</answer>.</think><answer>B", "B"),
        ("<answer>A</answer> no <answer>B</answer>", "B"),
        ("<think>\\boxed{1}</think>So \\boxed{2} and then \\boxed{3}.", "3"),
        ("It purrs. The answer is: B", "B"),
        ("**Answer:** B\n", "B"),
        ("It purrs.\n\nB<|im_end|>", "B"),
        ("<think>It purrs.</think>", ""),
        ("", ""),
    ],
)
def test_a_forgiving_reader_finds_an_answer_where_the_grammar_has_none(text: str, answer: str) -> None:
    assert lenient_answer(text).strip("* ") == answer


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["answer is " * 10**5, "answer" + " " * 10**6, "\\boxed{" * 10**5, "<answer>" * 10**5])
def test_a_forgiving_reader_takes_linear_time(text: str) -> None:
    assert len(lenient_answer(text)) <= MAX_ANSWER_CHARS
