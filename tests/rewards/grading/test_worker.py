"""What a worker answers; that it is ended, limited and replaced is in `test_algebra.py`."""

import pytest

from rewards.grading import equality, worker


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (("compare", "2x", "x+x"), "correct"),
        (("compare", "2x", "3x"), "wrong"),
        (("compare", r"\frac{", "x"), "answer_unusable"),
        (("read", "x+1"), "correct"),
        (("read", r"\frac{1}{0}"), "answer_unusable"),
    ],
)
def test_a_call_has_an_outcome(call: tuple[str, ...], outcome: str) -> None:
    assert worker.answer(*call) == outcome


def test_what_algebra_raises_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "read", lambda text: 1 / 0)
    assert worker.answer("compare", "x", "y") == "unparseable"
    assert worker.answer("read", "x") == "answer_unusable"
