"""What a run came to so far, as JSON and as a table."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.report.results import write_results


def test_the_table_has_a_line_for_each_checkpoint_and_task_with_the_same_numbers(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong", "correct"], rl=["correct", "correct"])
    found = write_results(run)["checkpoints"]
    with (run / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["checkpoint"], line["task"]) for line in lines] == [("sft", "task"), ("rl", "task")]
    for line in lines:
        score = found[line["checkpoint"]]["task"]
        assert float(line["accuracy"]) == score["accuracy"]
        assert [float(line["ci95.low"]), float(line["ci95.high"])] == pytest.approx(score["ci95"])
        assert float(line["think_tokens.median"]) == score["think_tokens"]["median"]


def test_a_run_is_complete_when_its_stages_are_and_every_checkpoint_is_scored(
    run: Path, evaluate: Callable[..., None]
) -> None:
    assert write_results(run)["complete"]
    evaluate(sft=["wrong"], rl=["correct"])
    assert write_results(run)["complete"]
    (run / "eval" / "rl" / "task" / "scores.json").unlink()
    assert not write_results(run)["complete"]
    evaluate(sft=["wrong"], rl=["correct"])
    (run / "rl" / "COMPLETE").unlink()
    results = write_results(run)
    assert not results["complete"]
    assert [stage["seconds"] for stage in results["stages"]] == [4000.0, None]


def test_consecutive_checkpoints_are_compared_on_each_task(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong", "correct", "wrong"], rl=["correct", "correct", "wrong"])
    [pair] = write_results(run)["comparisons"]
    assert (pair["task"], pair["a"], pair["b"], pair["gained"], pair["lost"]) == ("task", "sft", "rl", 1, 0)
