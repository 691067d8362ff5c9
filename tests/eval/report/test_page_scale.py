"""A report about many rows: how long it takes, and what memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.scores import scores
from tests.support.inputs import ROOT, line

ROWS = 200_000
SECONDS, MEGABYTES = 60, 2000
CHECKPOINTS = {"base": 3, "sft": 5, "rl": 7}  # every so many rows are right

REPORT = """
import resource, sys, time
from eval import scores
from eval.report.__main__ import main

scores.RESAMPLES = 100
begun = time.perf_counter()
assert main([sys.argv[1]]) == 0
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _write(run: Path) -> None:
    (run / "task.yaml").write_text("name: task\npath: some/data\nmax_new_tokens: 9\n")
    recipe = {
        **{"name": "large", "model": {"path": "some/model"}, "stages": [{"kind": "sft", "name": "sft"}]},
        "evaluate": {"tasks": [str(run / "task.yaml")], "checkpoints": [*CHECKPOINTS]},
    }
    (run / "recipe.json").write_text(json.dumps({"recipe": recipe}))
    for name, every in CHECKPOINTS.items():
        folder = run / "eval" / name / "task"
        folder.mkdir(parents=True)
        lines = []
        with (folder / "completions.jsonl").open("w") as file:
            for number in range(ROWS):
                outcome = "wrong" if number % every else "correct"
                told = {"text": f"<think>{'One and one. ' * 30}</think><answer>{number}</answer>", "kind": "number"}
                asked = {
                    "question": f"What is {number}, if nothing is added to it?",
                    "prompt": "0" * 16,
                }
                each = line(f"row-{number}", outcome, **told, **asked, image=f"{number:016x}")
                file.write(json.dumps(each) + "\n")
                lines.append({**each, "text": "", "question": ""})
        (folder / "scores.json").write_text(json.dumps({**scores(lines), "made": {}}))


@pytest.mark.slow
def test_a_report_of_200_000_rows_takes_less_than_a_minute_and_two_gigabytes(tmp_path: Path) -> None:
    _write(tmp_path)
    command = [sys.executable, "-c", REPORT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split()[-2:])
    page = (tmp_path / "report.html").read_text()
    assert "200 of 200,000 rows: " in page
    assert len(json.loads((tmp_path / "results.json").read_text())["comparisons"]) == 2
    assert page.count("<article") == 200
    assert (seconds < SECONDS, megabytes < MEGABYTES) == (True, True), f"{seconds:.0f} s, {megabytes:.0f} MB"
    assert (tmp_path / "report.html").stat().st_size < 8_000_000
