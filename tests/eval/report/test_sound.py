"""Which numbers of a file of scores can be shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.report.found import Found
from eval.report.sound import sound_scores
from eval.scores import scores
from tests.support.inputs import line


@pytest.fixture
def found(tmp_path: Path) -> Found:
    return Found(tmp_path, {"recipe": {}, "rewards": {}})


def _read(found: Found, held: Any) -> Any:
    path = found.run / "scores.json"
    path.write_text(json.dumps(held))
    return sound_scores(found, path)


def test_what_an_evaluation_writes_is_sound_with_samples_and_without(found: Found) -> None:
    lines = [line("a", "correct"), line("b", "malformed"), line("a", "wrong", sample=1), line("b", "wrong", sample=1)]
    for held in (scores(lines), scores(lines[:2]), scores([line("a", "malformed")])):
        held["made"] = {"task": {"path": "a/b"}}
        assert _read(found, held) == held
        assert found.missing == []


def test_a_key_of_newer_code_is_kept(found: Found) -> None:
    held = {**scores([line("a", "correct")]), "made": {}, "too_long": 0.25, "new": [1, {"a": None}]}
    assert _read(found, held) == held


@pytest.mark.parametrize("value", ["0.5", None, [0.5], True, float("nan"), float("inf"), {}])
def test_without_an_accuracy_nothing_is_shown(found: Found, value: Any) -> None:
    assert _read(found, {**scores([line("a", "correct")]), "made": {}, "accuracy": value}) is None
    assert found.missing == [
        {"path": "scores.json", "problem": "lacks accuracy, and is not shown", "usual": False},
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ci95", [0.1]),
        ("ci95", [0.1, None]),
        ("ci95", {"0": 1, "1": 2}),
        ("n", 10**400),
        ("think_tokens", {"median": 1.0}),
        ("malformed_reasons", {"a": "b"}),
        ("lenient", None),
        ("made", 3),
    ],
)
def test_a_value_of_another_type_is_left_out_and_named(found: Found, name: str, value: Any) -> None:
    held = {**scores([line("a", "correct")]), "made": {}, name: value}
    kept = _read(found, held)
    assert kept == {key: each for key, each in held.items() if key != name}
    [noted] = found.missing
    assert noted["problem"] == f"cannot be used: {name}"


def test_a_part_that_is_damaged_within_keeps_the_rest(found: Found) -> None:
    held = {**scores([line("a", "correct")]), "made": {}}
    held["lenient"] = {**held["lenient"], "ci95": "wide"}
    kept = _read(found, held)
    assert kept["lenient"] == {"n": 1, "accuracy": 1.0}
    assert found.missing[0]["problem"] == "cannot be used: lenient.ci95"
