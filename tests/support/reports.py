"""The files that a run leaves, small, rollouts as TRL writes them; and what the page about it shows."""

import json
import re
from pathlib import Path
from typing import Any

import pandas

from eval.report.page import write_report
from eval.report.results import write_results
from eval.scores import scores

RIGHT = "<think>Two and two.</think><answer>4</answer>"
WRONG = "<think>Two and three.</think><answer>5</answer>"
Row = dict[str, Any]


def save_lines(folder: Path, lines: list[Row], path: str = "some/data") -> None:
    """What an evaluation leaves of a task whose rows are at `path`."""
    (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"path": path, "images": None, "config": None, "split": "test", "revision": None}
    (folder / "scores.json").write_text(json.dumps({**scores(lines), "made": {"task": task}}))


def log(stage: Path, lines: list[Row]) -> None:
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rollout(id: str, completion: str, accuracy: float | None, question: str = "2+2?", **columns: Any) -> Row:
    return {
        "prompt": [{"role": "system", "content": "Reason."}, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": completion}],
        "accuracy": accuracy,
        "format": 1.0,
        "answer": "4",
        "id": id,
        "advantage": None if accuracy is None else accuracy - 0.5,
        **columns,
    }


def save_rollouts(run: Path, step: int, rows: list[Row]) -> None:
    """As `GRPOTrainer.log` does: one DataFrame, `step` first, `advantage` last."""
    folder = run / "rl" / "completions"
    folder.mkdir(exist_ok=True)
    table = pandas.DataFrame([{"step": step, **row} for row in rows])
    table.to_parquet(folder / f"completions_{step:05d}.parquet")


def page_of(run: Path) -> str:
    """The page without plotly's own source."""
    write_results(run)
    write_report(run)
    page = (run / "report.html").read_text()
    return page[page.index("<body>") :]


def steps_shown(page: str) -> list[str]:
    return re.findall(r'<details class="rollouts"><summary>(.*?)</summary>', page)


def rows_shown(page: str) -> list[str]:
    return re.findall(r"<article .*? · id (\w+)", page, re.DOTALL)
