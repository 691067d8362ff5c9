"""`results.json`: what a run came to, gathered from the files in its folder; and the same as a table to read."""

import itertools
import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from eval.files import json_lines, write_json
from eval.scores import compare


def write_results(run: Path) -> None:
    """Write `results.json` from the stages' manifests, the scores and the completions in `run`."""
    recipe = json.loads((run / "recipe.json").read_text())["recipe"]
    stages = [_stage(run / stage["name"]) for stage in recipe["stages"]]
    evaluated = recipe["evaluate"]["on"] if recipe["evaluate"] else []
    checkpoints = {name: _scores(run / "eval" / name) for name in evaluated}
    results = {
        "name": recipe["name"],
        "stages": stages,
        "checkpoints": checkpoints,
        "comparisons": [
            {"task": task, "a": a, "b": b, **_comparison(run / "eval", task, a, b)}
            for a, b in itertools.pairwise(evaluated)
            for task in checkpoints[a]
        ],
    }
    write_json(run / "results.json", results)


def _stage(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / "COMPLETE").read_text())
    return {key: manifest[key] for key in ("name", "kind", "steps", "seconds", "rollouts")}


def _scores(folder: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/scores.json"))}


def _comparison(evaluations: Path, task: str, a: str, b: str) -> dict[str, Any]:
    lines_a, lines_b = (json_lines(evaluations / name / task / "completions.jsonl") for name in (a, b))
    greedy = compare(lines_a, lines_b)
    if any(line["sample"] for line in lines_a):
        greedy["sampled"] = compare(lines_a, lines_b, sample=1)
    return greedy


def print_summary(run: Path) -> None:
    """The stages, the checkpoints with their intervals, and where to look further."""
    results = json.loads((run / "results.json").read_text())
    console = Console()
    stages = ", ".join(
        f"{stage['name']} {stage['steps']} steps in {stage['seconds']:.0f} s"
        + (f" (rollouts: {stage['rollouts']})" if stage["rollouts"] else "")
        for stage in results["stages"]
    )
    console.print(f"{results['name']}: {stages}", soft_wrap=True, highlight=False)
    if results["checkpoints"]:
        console.print(_table(results))
    for pair in results["comparisons"]:
        low, high = pair["ci95"]
        line = f"{pair['task']}: {pair['b']} - {pair['a']} = {pair['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report:  {run / 'report.html'}\nresults: {run / 'results.json'}", highlight=False, soft_wrap=True)
    model = run / results["stages"][-1]["name"] / "model"
    console.print(f"model:   {model}", highlight=False, soft_wrap=True)


def _table(results: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for column in ("checkpoint", "task", "n", "accuracy (95%)", "sampled", "malformed", "truncated"):
        table.add_column(column, no_wrap=True)
    for name, tasks in results["checkpoints"].items():
        for task, score in tasks.items():
            low, high = score["ci95"]
            sampled = score.get("sampled")
            table.add_row(
                name,
                task,
                str(score["n"]),
                f"{score['accuracy']:.3f} ({low:.3f}-{high:.3f})",
                f"{sampled['accuracy']:.3f}" if sampled else "-",
                f"{score['malformed']:.1%}",
                f"{score['truncated']:.1%}",
            )
    return table
