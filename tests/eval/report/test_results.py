"""What a run came to so far, as JSON and as tables."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.compare import with_holm
from eval.report.results import print_summary, scores_in, tables, write_results
from tests.support.inputs import line
from tests.support.reports import save_lines


def test_the_table_has_a_line_for_each_checkpoint_and_task_with_the_same_numbers(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong", "correct"], rl=["correct", "correct"])
    found = write_results(run)["checkpoints"]
    with (run / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(row["checkpoint"], row["task"]) for row in lines] == [("sft", "task"), ("rl", "task")]
    for row in lines:
        score = found[row["checkpoint"]]["task"]
        assert float(row["accuracy"]) == score["accuracy"]
        assert [float(row["ci95.low"]), float(row["ci95.high"])] == pytest.approx(score["ci95"])
        assert float(row["think_tokens.median"]) == score["think_tokens"]["median"]


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


def test_all_comparisons_of_a_page_are_one_family_of_tests(run: Path, evaluate: Callable[..., None]) -> None:
    """Two pairs of checkpoints, two tasks, greedy and sampled: each p is corrected for all of them."""
    evaluate(base=["wrong"], sft=["wrong"], rl=["wrong"])
    stored = json.loads((run / "recipe.json").read_text())
    (run / "other.yaml").write_text("name: other\npath: some/data\nmax_new_tokens: 9\n")
    stored["recipe"]["evaluate"]["tasks"].append(str(run / "other.yaml"))
    (run / "recipe.json").write_text(json.dumps(stored))
    gained = {"base": 0, "sft": 8, "rl": 20}
    for name, right in gained.items():
        for task in ("task", "other"):
            each = ["correct" if n < right else "wrong" for n in range(40)]
            lines = [line(f"r{n}", outcome, sample=draw) for n, outcome in enumerate(each) for draw in (0, 1)]
            (run / "eval" / name / task).mkdir(exist_ok=True)
            save_lines(run / "eval" / name / task, lines)
    found = write_results(run)["comparisons"]
    assert [(each["a"], each["b"], each["task"]) for each in found] == [
        ("base", "sft", "task"),
        ("base", "sft", "other"),
        ("sft", "rl", "task"),
        ("sft", "rl", "other"),
    ]
    every = [part for each in found for part in (each, each["sampled"])]
    tested = [{"p": each["p"]} for each in every if "p" in each]
    assert len(tested) >= len(found)
    expected = [each["holm_p"] for each in with_holm(tested)]
    assert [each["holm_p"] for each in every if "p" in each] == pytest.approx(expected)
    assert max(expected) > max(each["p"] for each in tested), "of one pair alone it would be less"
    assert all("a_accuracy" in each for each in every)


def test_only_tasks_of_the_recipe_are_results(run: Path, evaluate: Callable[..., None]) -> None:
    """A task that was taken out of the recipe leaves its folder; that is neither a number nor a gap of the run."""
    evaluate(sft=["wrong", "correct"], rl=["correct", "correct"])
    for name in ("sft", "rl"):
        (run / "eval" / name / "stale").mkdir()
        save_lines(run / "eval" / name / "stale", [line("r0", "correct")])
    results = write_results(run)
    assert results["complete"]
    assert [[*tasks] for tasks in results["checkpoints"].values()] == [["task"], ["task"]]
    assert [each["task"] for each in results["comparisons"]] == ["task"]
    assert "stale" not in (run / "results.csv").read_text()
    assert results["missing"] == []


def test_every_task_that_is_found_is_a_result_where_the_recipe_s_cannot_be_read(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong"], rl=["correct"])
    (run / "task.yaml").unlink()
    results = write_results(run)
    assert results["complete"], "its scores are all there"
    assert [[*tasks] for tasks in results["checkpoints"].values()] == [["task"], ["task"]]
    [noted] = results["missing"]
    assert noted["path"] == "task task.yaml"
    assert noted["problem"].startswith("no task 'task.yaml'. Shipped: ")
    assert noted["problem"].endswith("; every task is shown that has scores")


def test_tasks_are_shown_in_the_recipe_s_order(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"])
    (run / "a.yaml").write_text("name: a\npath: some/data\nmax_new_tokens: 9\n")
    stored = json.loads((run / "recipe.json").read_text())
    stored["recipe"]["evaluate"]["tasks"].append(str(run / "a.yaml"))
    (run / "recipe.json").write_text(json.dumps(stored))
    (run / "eval/sft/a").mkdir()
    save_lines(run / "eval/sft/a", [line("r0", "correct")])
    assert [*write_results(run)["checkpoints"]["sft"]] == ["task", "a"]


def test_scores_of_a_folder_say_on_standard_error_what_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sound", "torn"):
        (tmp_path / name).mkdir()
        save_lines(tmp_path / name, [line("r0", "correct")], path="/home/ann/rows.jsonl")
    (tmp_path / "torn" / "scores.json").write_text("{")
    found = scores_in(tmp_path)
    assert found["sound"]["made"]["task"]["path"] == "rows.jsonl"
    assert [*found] == ["sound"]
    assert capsys.readouterr().err == f"WARNING {tmp_path}/torn/scores.json: is no JSON object\n"


# --- tables -----------------------------------------------------------------------------------------------------------

NAMES = ("a_task_whose_name_has_forty_five_characters_x", "another-task.whose-name-is-as-long_1234567890")


def _checkpoints(**changes: Any) -> dict[str, Any]:
    def score(accuracy: float) -> dict[str, Any]:
        return {
            **{"n": 4241, "accuracy": accuracy, "ci95": [accuracy - 0.1, accuracy + 0.1], "malformed": 0.123},
            **{"truncated": 0.004, "sampled": {"accuracy": 0.5}, "wellformed": {"accuracy": 0.87}, "majority": 0.39},
            **{"lenient": {"accuracy": 0.9}, "think_tokens": {"median": 1234.0}, **changes},
        }

    return {"base": {NAMES[0]: score(0.25)}, "a-checkpoint": {NAMES[0]: score(0.5), NAMES[1]: score(0.75)}}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_are_read_at_80_columns_and_are_lines_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"4241", "0.250 (0.150-0.350)", "0.750 (0.650-0.850)", "0.500", "12.3%", "0.4%", "0.870", "0.900"}
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", _Terminal())
    for checkpoints in (_checkpoints(), _checkpoints(too_long=0.25)):
        shown = re.sub(r"\x1b\[[0-9;]*m", "", tables(checkpoints))
        assert max(map(len, shown.split("\n"))) <= 80
        assert [number for number in numbers | {"0.390", "1234"} if number not in shown] == []
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    accuracy, beside = tables(_checkpoints()).split("\n\n")
    assert [len(part.split("\n")) for part in (accuracy, beside)] == [4, 4]
    assert NAMES[0] in accuracy
    assert re.split(" {2,}", accuracy.split("\n")[1]) == [
        *("base", NAMES[0], "4241", "0.250 (0.150-0.350)", "0.500", "12.3%", "0.4%")
    ]


def test_prompts_beyond_the_context_have_a_column_where_there_are_any() -> None:
    assert "too long" not in tables(_checkpoints())
    assert "too long" not in tables(_checkpoints(too_long=0.0))
    assert "25.0%" in tables(_checkpoints(too_long=0.25))


def test_what_is_not_known_is_a_dash(run: Path) -> None:
    assert tables({"sft": {"task": {"accuracy": 0.5}}}).count("-") >= 9
    assert "0.0%" not in tables({"sft": {"task": {"accuracy": 0.5}}})


def test_the_summary_says_what_is_missing_and_where_to_look(
    run: Path, evaluate: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(sft=["wrong", "correct"] * 9, rl=["correct"] * 18)
    write_results(run)
    print_summary(run)
    printed = capsys.readouterr().out
    assert printed.startswith("small: sft 3 steps in 4000 s, rl 3 steps in 4000 s\n\ncheckpoint  task")
    assert re.search(r"^task: rl - sft = \+0\.500 \(\+0\.\d+ to \+0\.\d+\): rl is better$", printed, re.M)
    assert "WARNING" not in printed
    assert printed.endswith(f"report:  {run}/report.html\nresults: {run}/results.json\nmodel:   {run}/rl/model\n")
    (run / "eval/rl/task/scores.json").write_text("{")
    (run / "sft/COMPLETE").write_text('{"steps": 3}')
    write_results(run)
    print_summary(run)
    printed = capsys.readouterr().out
    assert printed.startswith("small: sft 3 steps so far, rl 3 steps in 4000 s")
    assert (
        "WARNING sft/COMPLETE: lacks seconds, files\nWARNING eval/rl/task/scores.json: is no JSON object\n" in printed
    )
