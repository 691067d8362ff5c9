"""The reward for a right answer, called as TRL calls it."""

import random
from collections import defaultdict
from typing import Any

import pytest

from rewards.accuracy import accuracy, verdicts
from rewards.grading.verify import Outcome
from rewards.response import TAGS, Reason, render
from tests.support.responses import MALFORMED, RIGHT, WRONG, conversation
from tests.support.tables import table

GAMED = table("gamed")


def test_only_a_well_formed_right_answer_is_paid() -> None:
    completions = [conversation(text) for text in (RIGHT, WRONG, MALFORMED)]
    assert accuracy(completions, answer=["7"] * 3, prompts=[], extra_column=[1, 2, 3]) == [1.0, 0.0, 0.0]
    assert accuracy([RIGHT, WRONG, MALFORMED], answer=["7"] * 3) == [1.0, 0.0, 0.0]


def test_a_gamed_completion_earns_nothing_and_an_honest_one_all() -> None:
    columns: dict[str, Any] = {name: [row.get(name) for row in GAMED] for name in ("answer", "choices")}
    paid = accuracy([row["completion"] for row in GAMED], **columns)
    assert [row["name"] for row, value in zip(GAMED, paid, strict=True) if value != row["pays"]] == []
    assert sum(row["pays"] for row in GAMED) == 10
    assert len(GAMED) > 80


def test_ten_thousand_fuzzed_completions_have_a_verdict() -> None:
    """Well-formed or not, through the workers where they need algebra; none is right by accident."""
    rng = random.Random(5)
    pieces = [*"0123456789.,-+*/^_(){}[]|!$%\\ <>=~&#@:;'\"`abcxyzABC²½π√−∞٣€\u200b\ud800\0\n", *TAGS, " or ", "cm"]
    pieces += [r"\frac", r"\sqrt", r"\text{", r"\boxed{", r"\pm", r"\cup", r"\le", r"\exp(", r"\sin"]
    golds = ["7", "B", "Paris", "50%", "(1,2)", "1, 2", "10 cm", "x=3", "x>3", r"\frac{\pi}{2}", "x^2+1", "H_2O"]
    texts = ["".join(rng.choices(pieces, k=rng.randrange(40))) for _ in range(10_000)]
    texts = [text * rng.randrange(1, 10_000) if index % 100 == 0 else text for index, text in enumerate(texts)]
    responses = [text if index % 5 == 0 else render("So it is.", text) for index, text in enumerate(texts)]
    found = verdicts(responses, [rng.choice(golds) for _ in responses])
    assert {verdict.outcome for verdict in found} >= {Outcome.MALFORMED, Outcome.WRONG, Outcome.UNPARSEABLE}
    right = [text for text, verdict in zip(texts, found, strict=True) if verdict.outcome is Outcome.CORRECT]
    assert all(len(text.strip()) <= 3 for text in right), right  # a letter or a digit, by chance


def test_an_unusable_reference_is_none_and_not_zero() -> None:
    assert accuracy([RIGHT], answer=[""]) == [None]


def test_a_truncated_response_is_not_paid_whatever_it_says() -> None:
    assert verdicts([RIGHT, MALFORMED], ["7", "7"], truncated=[True, False]) == [
        (Outcome.TRUNCATED, None),
        (Outcome.MALFORMED, Reason.MISSING_TAG),
    ]
    assert accuracy([RIGHT], answer=["7"], truncated=[True]) == [0.0]


def test_outcomes_are_logged_as_shares_and_accuracy_by_kind() -> None:
    logged: defaultdict[str, list[float]] = defaultdict(list)
    accuracy(
        [RIGHT, WRONG, MALFORMED, RIGHT, RIGHT, WRONG],
        answer=["7", "7", "7", r"\sqrt{7}", "seven pens", r"\frac{1}{0}"],
        kind=[None, None, None, None, "text", "math"],
        log_metric=lambda name, value: logged[name].append(value),
    )
    outcomes = {name: values for name, values in logged.items() if name.startswith("outcome/")}
    assert outcomes["outcome/correct"] == [1 / 6]
    assert outcomes["outcome/malformed"] == [1 / 6]
    assert sum(map(sum, outcomes.values())) == pytest.approx(1)
    kinds = {name: values for name, values in logged.items() if name not in outcomes}
    assert kinds == {"accuracy/number": [1, 0, 0], "accuracy/math": [0], "accuracy/text": [0]}
