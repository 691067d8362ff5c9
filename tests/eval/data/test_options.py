"""Options in every way that data writes them, which of them an answer names, and what can be no answer."""

from typing import Any

import pytest

from eval.data.images import BadRow
from eval.data.options import chosen, options, reference

PETS = ["dog", "cat", "cow"]


@pytest.mark.parametrize(
    "value",
    [
        PETS,
        tuple(PETS),
        "['dog', 'cat', 'cow']",
        '["dog", "cat", "cow"]',
        "('dog', 'cat', 'cow')",
        "dog\ncat\n\ncow\n",
        "A. dog\nB. cat\nC. cow",
        "(A) dog\n(B) cat\n(C) cow",
        "A. dog B. cat C. cow",
        "A) dog B) cat C) cow",
        "A. dog, B. cat, C. cow",
        "A. dog B. cat\nC. cow",
        ["A.dog", "B.cat", "C.cow"],
        ["1) dog", "2) cat", "3) cow"],
        {"B": "cat", "A": "dog", "C": "cow"},
        [{"id": "A", "text": "dog"}, {"id": "B", "text": "cat"}, {"id": "C", "text": "cow"}],
        ["A. dog", "B. cat", "C. cow"],
        ["(a) dog", "(b) cat", "(c) cow"],
        {"A": "dog", "B": "cat", "C": "cow"},
        {"a": "dog", "b": "cat", "c": "cow"},
        {"A": "dog", "B": "cat", "C": "cow", "D": None, "E": None},
        '{"A": "dog", "B": "cat", "C": "cow"}',
        {"text": PETS, "label": ["A", "B", "C"]},
        {"label": ["1", "2", "3"], "text": PETS},
        [{"label": "A", "text": "dog"}, {"label": "B", "text": "cat"}, {"label": "C", "text": "cow"}],
        [{"key": "A", "value": "dog"}, {"key": "B", "value": "cat"}, {"key": "C", "value": "cow"}],
    ],
    ids=repr,
)
def test_options_are_read_however_they_are_written(value: Any) -> None:
    assert options(value)[0] == PETS


@pytest.mark.parametrize(
    "value", [None, "", [], "[]", {}, {"A": None}, {"text": None, "label": None}, "  \n"], ids=repr
)
def test_a_question_may_have_none(value: Any) -> None:
    assert options(value)[0] is None


def test_letters_are_taken_off_once_and_only_where_all_have_their_own() -> None:
    assert options(["A. A. Milne", "B. B. King"])[0] == ["A. Milne", "B. King"]
    with pytest.raises(BadRow, match="the options begin with B, A, and not with A, B, C"):
        options(["B. King", "A. Milne"])
    assert options(["A. Milne", "King"])[0] == ["A. Milne", "King"]
    assert options(["1", 2, 2.5])[0] == ["1", "2", "2.5"]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (5, "row_shape"),
        ("a dog", "choices"),
        ("dog, cat, cow", "choices"),
        (["dog", None], "row_shape"),
        (["dog", float("nan")], "row_shape"),
        (["dog", ["cat"]], "row_shape"),
        (["dog"], "choices"),
        (["dog", " "], "choices"),
        ([*map(str, range(27))], "choices"),
        ({"first": "dog", "second": "cat"}, "choices"),
        ({"text": ["dog", "cat"], "label": ["A"]}, "choices"),
        (b"dog", "row_shape"),
        ("Choices:\nA. dog\nB. cat", "choices"),
        ("[dog,\ncat]", "choices"),
        ("{'text': array(['dog', 'cat'], dtype=object)}", "choices"),
        (["A. dog", "B. cat", "D. cow"], "choices"),
        (["B. dog", "A. cat"], "choices"),
        ({"text": ["dog", "cat"], "label": ["A", "A"]}, "choices"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_options_is_refused(value: Any, code: str) -> None:
    with pytest.raises(BadRow) as caught:
        options(value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("answer", "choices", "named"),
    [
        ("B", PETS, "B"),
        ("b", PETS, "B"),
        ("(B)", PETS, "B"),
        ("cat", PETS, "cat"),
        (" Cat ", PETS, "cat"),
        ("B. cat", PETS, "cat"),
        ("1", PETS, "B"),
        (1, PETS, "B"),
        ("1", ["0", "1", "2"], "1"),  # both readings name one option
        ("6", ["5", "6"], "6"),  # no index
        ("B", ["A", "B"], "B"),
        ("cow bell", PETS, "cow bell"),  # of none: refused where it is compared
    ],
)
def test_an_answer_with_one_reading_is_read(answer: Any, choices: list[str], named: str) -> None:
    assert chosen(answer, choices, [], None) == named


@pytest.mark.parametrize(
    ("answer", "choices", "said"),
    [
        ("0", ["3", "0", "1", "2"], "index '3' or text '0'"),
        (2, ["1", "2", "3", "4"], "index '3' or text '2'"),
        ("A", ["C", "A", "B"], "letter 'C' or text 'A'"),
        ("b", ["b", "a"], "letter 'a' or text 'b'"),
        ("3", ["0", "3", "6", "9"], "index '9' or text '3'"),
        ("2", ["2", "4", "8"], "index '8' or text '2'"),
    ],
)
def test_an_answer_with_two_readings_is_refused_with_both_until_it_is_said_which(
    answer: Any, choices: list[str], said: str
) -> None:
    with pytest.raises(BadRow, match=said) as caught:
        chosen(answer, choices, [], None)
    assert caught.value.code == "answer_is"
    assert "answer_is:" in str(caught.value)
    by_text = chosen(answer, choices, [], "text")
    assert choices["ABCD".index(by_text)] == str(answer) if by_text in "ABCD" else by_text == str(answer)
    other = "index" if str(answer).isdigit() else "letter"
    place = int(answer) if other == "index" else "ABCD".index(answer.upper())
    assert chosen(answer, choices, [], other) == "ABCD"[place]  # type: ignore[arg-type]


def test_labels_say_what_answers_are() -> None:
    """ARC numbers some of its options from 1."""
    texts, labels = options({"text": PETS, "label": ["1", "2", "3"]})
    assert chosen("2", texts or [], labels, None) == "B"
    with pytest.raises(BadRow, match="is no index of its 3 choices"):
        chosen("3", PETS, [], "index")


@pytest.mark.parametrize("choices", [["1 cm", "2 cm"], ["$1$", "$2$"], ["1.0", "2.0"], ["x=1", "x=2"], ["01", "02"]])
def test_an_option_that_says_the_number_is_a_reading_too(choices: list[str]) -> None:
    with pytest.raises(BadRow, match="may be the index"):
        chosen("1", choices, [], None)
    assert chosen("1", choices, [], "index") == "B"
    assert chosen("1", choices, [], "text") == choices[0]


@pytest.mark.parametrize("answer", ["B. dog", "(C) cat"])
def test_a_letter_beside_the_text_of_another_option_is_refused(answer: str) -> None:
    with pytest.raises(BadRow, match="has the letter of another of its choices"):
        chosen(answer, PETS, [], None)


@pytest.mark.parametrize("answer", ["D", "Z"])
def test_a_letter_beyond_the_options_is_refused(answer: str) -> None:
    with pytest.raises(BadRow, match="is no letter of its 3 choices"):
        chosen(answer, PETS, [], None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<answer> 3 </answer>", "3"),
        ("\n<answer>\n$x$\n</answer>\n", "$x$"),
        ("<think>One, two.</think><answer>2</answer>", "2"),
        (" 7 ", "7"),
        (7, "7"),
        (0.5, "0.5"),
        (None, ""),
        (True, "True"),
        ("<ANSWER>5</ANSWER>", "5"),
    ],
)
def test_a_reference_is_text_without_its_tags(value: Any, text: str) -> None:
    assert reference(value) == text


@pytest.mark.parametrize(
    "value",
    [
        ["3"],
        [],
        {"ground_truth": "3"},
        float("nan"),
        float("-inf"),
        b"3",
        "So 2*12=<<2*12=24>>24.\n#### 24",
        "#### 24",
        "<answer>3",
        "<answer>3</answer> or <answer>4</answer>",
        "<think>hm</think>3",
        "['7']",
        "5 #### 2",
    ],
    ids=repr,
)
def test_a_value_that_is_no_answer_is_refused(value: Any) -> None:
    with pytest.raises(BadRow) as caught:
        reference(value)
    assert caught.value.code == "answer_type"
