"""The shipped rewards, called as TRL calls them."""

from rewards.accuracy import accuracy
from rewards.format import format
from rewards.response import render


def _conversation(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


RIGHT, WRONG, MALFORMED = render("a", "7"), render("a", "8"), "<think>a</think>7"


def test_only_a_well_formed_right_answer_is_paid() -> None:
    completions = [_conversation(text) for text in (RIGHT, WRONG, MALFORMED)]
    assert accuracy(completions, answer=["7"] * 3, prompts=[], extra_column=[1, 2, 3]) == [1.0, 0.0, 0.0]
    assert accuracy([RIGHT, WRONG, MALFORMED], answer=["7"] * 3) == [1.0, 0.0, 0.0]


def test_an_unusable_reference_is_none_and_not_zero() -> None:
    assert accuracy([RIGHT], answer=[""]) == [None]


def test_outcomes_are_logged_as_shares() -> None:
    logged: dict[str, float] = {}
    accuracy([RIGHT, WRONG, MALFORMED, RIGHT], answer=["7"] * 4, log_metric=logged.__setitem__)
    assert logged["outcome/correct"] == 0.5
    assert logged["outcome/wrong"] == logged["outcome/malformed"] == 0.25
    assert sum(logged.values()) == 1


def test_format_pays_for_form_alone() -> None:
    assert format([_conversation(RIGHT), WRONG, MALFORMED]) == [1.0, 1.0, 0.0]
