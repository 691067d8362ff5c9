"""Normalization: each of its rules decides about some pair of `pairs.jsonl`, whose verdict changes without it."""

from collections.abc import Callable, Iterator

import pytest

from rewards.grading import algebra, normalize, verify
from rewards.grading.verify import Outcome, Question
from tests.support.tables import table

QUESTIONS = [Question(row["answer"], row["gold"], row.get("kind"), row.get("choices")) for row in table("pairs")]

Paid = dict[Question, bool]


def _is_plain(question: Question) -> bool:
    texts = (question.answer, question.gold, *(question.choices or ()))
    return all(text.isascii() and "\\" not in text for text in texts)


def _forget() -> None:
    normalize.normalize.cache_clear()
    normalize._ascii_sign.cache_clear()


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Paid]]:
    """Which of the pairs that a rule might touch are paid by the rules of now; without those that need algebra."""
    monkeypatch.setattr(algebra, "compare", lambda pairs: [Outcome.TIMEOUT] * len(pairs))
    monkeypatch.setattr(verify, "_compared", {})
    touched = [question._replace(choices=tuple(question.choices or ())) for question in QUESTIONS]
    touched = [question for question in touched if not _is_plain(question)]

    def paid() -> Paid:
        _forget()
        outcomes = zip(touched, verify.verify_all(touched), strict=True)
        return {asked: outcome is Outcome.CORRECT for asked, outcome in outcomes if outcome is not Outcome.TIMEOUT}

    yield paid
    _forget()


def _changes(before: Paid, after: Paid) -> bool:
    return any(before[question] != after[question] for question in before.keys() & after.keys())


@pytest.mark.parametrize("number", range(len(normalize._LATEX)), ids=lambda number: normalize._LATEX[number][0].pattern)
def test_a_rule_about_latex_decides_a_pair(
    number: int, paid: Callable[[], Paid], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = paid()
    monkeypatch.setattr(normalize, "_LATEX", [*normalize._LATEX[:number], *normalize._LATEX[number + 1 :]])
    assert _changes(before, paid()), "no pair shows what it is for"


@pytest.mark.parametrize("sign", sorted(normalize._SIGNS))
def test_a_sign_of_unicode_decides_a_pair(sign: str, paid: Callable[[], Paid], monkeypatch: pytest.MonkeyPatch) -> None:
    before = paid()
    monkeypatch.delitem(normalize._SIGNS, sign)
    assert _changes(before, paid()), "no pair shows what it is for"
