"""Normalization: each of its rules decides about some pair of `pairs.jsonl`, whose verdict changes without it."""

import pytest

from rewards.grading import normalize
from tests.support.rules import decides, verdicts


@pytest.mark.parametrize("number", range(len(normalize._LATEX)), ids=lambda number: normalize._LATEX[number][0].pattern)
def test_a_rule_about_latex_decides_a_pair(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts()
    monkeypatch.setattr(normalize, "_LATEX", [*normalize._LATEX[:number], *normalize._LATEX[number + 1 :]])
    assert decides(), "no pair shows what it is for"


@pytest.mark.parametrize("sign", sorted(normalize._SIGNS))
def test_a_sign_of_unicode_decides_a_pair(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts()
    monkeypatch.delitem(normalize._SIGNS, sign)
    assert decides(), "no pair shows what it is for"
