"""The grammar: what is a response, what is not, and where its answer begins among tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.response import (
    TAGS,
    Malformed,
    Reason,
    Response,
    answer_start,
    boxes,
    parse,
    render,
)

PLAIN = st.text(alphabet=st.characters(exclude_characters="<"), min_size=1, max_size=50).filter(
    lambda text: any(map(str.isalnum, text)) and text.strip()
)


@given(PLAIN, PLAIN)
def test_a_rendered_response_is_read_back(think: str, answer: str) -> None:
    assert parse(render(think, answer)) == Response(think.strip(), answer.strip())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.MISSING_TAG),
        ("<think>a</think>B", Reason.MISSING_TAG),
        ("<answer>B</answer>", Reason.MISSING_TAG),
        ("<think>a<answer>B</answer>", Reason.MISSING_TAG),
        ("<Think>a</Think><answer>B</answer>", Reason.LOOKALIKE_TAG),
        ("<think>a</think><answer>B</answer><answer>C</answer>", Reason.REPEATED_TAG),
        ("<think><think>a</think></think><answer>B</answer>", Reason.REPEATED_TAG),
        ("<answer>B</answer><think>a</think>", Reason.TAG_ORDER),
        ("<think>a<answer>B</answer></think>", Reason.TAG_ORDER),
        ("<think>a</think><answer>B</answer> or C", Reason.TEXT_OUTSIDE),
        ("B <think>a</think><answer>B</answer>", Reason.TEXT_OUTSIDE),
        ("<think>a</think>so<answer>B</answer>", Reason.TEXT_OUTSIDE),
        ("<think> \n</think><answer>B</answer>", Reason.EMPTY_THINK),
        ("<think>a</think><answer> </answer>", Reason.EMPTY_ANSWER),
        (render("a", "B" * 257), Reason.LONG_ANSWER),
        ("<think>a<|im_end|></think><answer>B</answer>", Reason.SPECIAL_TOKEN),
        (render("a", "B") + "<|im_end|><|im_end|>", Reason.SPECIAL_TOKEN),
        ("<think>a[/INST]</think><answer>B</answer>", Reason.SPECIAL_TOKEN),
        ("<think>a <answer x=1></think><answer>B</answer>", Reason.LOOKALIKE_TAG),
        ("<think>a </ Answer></think><answer>B</answer>", Reason.LOOKALIKE_TAG),
        ("<think>\u200b ...</think><answer>B</answer>", Reason.EMPTY_THINK),
        (render("a", r"\boxed{B} \boxed{B}"), Reason.SEVERAL_BOXES),
    ],
)
def test_what_the_grammar_rejects_has_its_reason(text: str, reason: Reason) -> None:
    assert parse(text) == Malformed(reason)


def test_blanks_and_one_final_end_of_turn_are_allowed() -> None:
    assert parse("\n<think>\na\n</think>\n\n<answer> B </answer><|im_end|>\n") == Response("a", "B")


@given(st.lists(st.sampled_from([*TAGS, "a", " ", "<", "</", "\ud800", "\0", "<|im_end|>"]), max_size=30).map("".join))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    assert isinstance(parse(text), Response | Malformed)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["<" * 10**6, "<think>" * 10**5, "< " * 10**6, "<" + " " * 10**6, "\\boxed" * 10**5, "a" * 10**6]
)
def test_a_long_text_is_read_in_linear_time(text: str) -> None:
    """A quadratic look at one megabyte would take hours, and the test's limit is seconds."""
    assert isinstance(parse(text), Malformed)


@given(PLAIN, PLAIN, st.lists(st.integers(1, 5), min_size=1))
def test_the_answer_begins_after_the_token_that_closes_think(think: str, answer: str, sizes: list[int]) -> None:
    """Tokens are arbitrary cuts of the text, so tags are merged with their neighbours in every way."""
    text, tokens = render(think, answer), []
    while text:
        size = sizes[len(tokens) % len(sizes)]
        tokens.append(text[:size])
        text = text[size:]
    begin = answer_start(range(len(tokens)), lambda ids: "".join(tokens[i] for i in ids))
    assert "</think>" in "".join(tokens[:begin])
    assert "</think>" not in "".join(tokens[: begin - 1])


def test_unclosed_thinking_has_no_answer_and_untagged_text_is_all_answer() -> None:
    assert answer_start(range(9), lambda ids: "<think>ab"[: len(ids)]) == 9
    assert answer_start(range(3), lambda ids: "abc"[: len(ids)]) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (r"\boxed{1} and \boxed{\frac{2}{3}}", ["1", r"\frac{2}{3}"]),
        (r"\boxed {1}, \fbox{ 2 }", ["1", "2"]),
        (r"\boxed 5 and \boxed72, \boxed B.", ["5", "72", "B"]),
        (r"\boxed{a \} b \{ c}", [r"a \} b \{ c"]),
        (r"\\boxed{7}", ["7"]),
        (r"\boxed{1 \\ \boxed{2} 3}", ["2"]),
        (r"\boxed{1} \boxed{2", ["1", None]),
        (r"\boxed{}", [""]),
        (r"\boxes{1} \boxedx{2} in \boxed and boxed{3}", []),
    ],
)
def test_boxes_are_read_to_the_brace_that_closes_them(text: str, found: list[str | None]) -> None:
    assert boxes(text) == found
