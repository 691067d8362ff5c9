"""`results.json` and `results.csv`: what a run came to so far, from the files in its folder; and a table to read."""

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from eval.compare import both, verdict, with_holm
from eval.files import json_lines, write_json, write_text


def write_results(run: Path) -> dict[str, Any]:
    """Write both from the stages' manifests and metrics, the scores and the completions in `run`, which may go on.

    Returns what `results.json` holds. `complete` says whether all stages are done and all checkpoints scored.
    """
    stored = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    recipe = stored["recipe"]
    stages = [_stage(run / stage["name"], stage, stored["processes"]) for stage in recipe["stages"]]
    evaluated = recipe["evaluate"]["checkpoints"] if recipe["evaluate"] else []
    checkpoints = {name: found for name in evaluated if (found := scores_in(run / "eval" / name))}
    results = {
        "name": recipe["name"],
        "complete": all(stage["seconds"] is not None for stage in stages)
        and all(len(checkpoints.get(name, ())) == len(recipe["evaluate"]["tasks"]) for name in evaluated),
        "stages": stages,
        "checkpoints": checkpoints,
        "comparisons": [
            each for a, b in itertools.pairwise(checkpoints) for each in _comparisons(run / "eval", checkpoints, a, b)
        ],
    }
    write_json(run / "results.json", results)
    write_csv(run / "results.csv", checkpoints)
    return results


def _stage(folder: Path, stage: dict[str, Any], processes: int) -> dict[str, Any]:
    """A complete stage's result; of another, the last step that it logged, and no seconds."""
    facts = {"name": stage["name"], "kind": stage["kind"], "steps": 0, "seconds": None, "rollouts": None}
    if (folder / "COMPLETE").exists():
        manifest = json.loads((folder / "COMPLETE").read_text(encoding="utf-8"))
        facts |= {key: manifest[key] for key in (*facts, "cpu_seconds") if key in manifest}
        facts["device_hours"] = round(facts["seconds"] * processes / 3600, 4)  # GPUs, or processes on a CPU
    elif (folder / "metrics.jsonl").exists():
        logged = json_lines(folder / "metrics.jsonl")
        facts["steps"] = logged[-1]["step"] if logged else 0
    return facts


def scores_in(folder: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/scores.json"))}


def _comparisons(evaluations: Path, checkpoints: dict[str, Any], a: str, b: str) -> list[dict[str, Any]]:
    """`b` against `a` on the tasks of both; the tasks are one family of tests."""
    compared = []
    for task in checkpoints[a]:
        if task in checkpoints[b]:
            lines_a, lines_b = (json_lines(evaluations / name / task / "completions.jsonl") for name in (a, b))
            greedy, *sampled = both(task, [lines_a], [lines_b])
            compared.append({"task": task, "a": a, "b": b, **greedy, **({"sampled": sampled[0]} if sampled else {})})
    return with_holm(compared)


def write_csv(path: Path, checkpoints: dict[str, Any]) -> None:
    """One row for each checkpoint and task; nested numbers in columns such as `think_tokens.median`."""
    rows = [
        {"checkpoint": name, "task": task, **_flat({key: value for key, value in score.items() if key != "made"})}
        for name, tasks in checkpoints.items()
        for task, score in tasks.items()
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat |= {f"{prefix}{key}.low": value[0], f"{prefix}{key}.high": value[1]}  # intervals are the only lists
        else:
            flat[prefix + key] = value
    return flat


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
        console.print(*tables(results["checkpoints"]), sep="")
    for pair in results["comparisons"]:
        low, high = pair["ci95"]
        line = f"{pair['task']}: {pair['b']} - {pair['a']} = {pair['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        console.print(f"{line}: {verdict(pair, pair['a'], pair['b'])}", highlight=False, soft_wrap=True)
    console.print(f"report:  {run / 'report.html'}\nresults: {run / 'results.json'}", highlight=False, soft_wrap=True)
    model = run / results["stages"][-1]["name"] / "model"
    console.print(f"model:   {model}", highlight=False, soft_wrap=True)


def tables(checkpoints: dict[str, Any]) -> tuple[Table, Table]:
    """Accuracy, and what to read it with; in each, one row for each checkpoint and task."""
    accuracy, beside = (Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False) for _ in range(2))
    for column in ("checkpoint", "task", "n", "accuracy (95%)", "sampled", "malformed", "truncated"):
        accuracy.add_column(column, no_wrap=True)
    for column in ("checkpoint", "task", "well-formed only", "lenient", "no image", "majority", "think"):
        beside.add_column(column, no_wrap=True)
    for name, tasks in checkpoints.items():
        for task, score in tasks.items():
            low, high = score["ci95"]
            shares = [f"{score[key]:.1%}" for key in ("malformed", "truncated")]
            shown = f"{score['accuracy']:.3f} ({low:.3f}-{high:.3f})"
            accuracy.add_row(name, task, str(score["n"]), shown, _number(score.get("sampled")), *shares)
            others = [_number(score.get(key)) for key in ("wellformed", "lenient", "image_removed")]
            beside.add_row(name, task, *others, f"{score['majority']:.3f}", f"{score['think_tokens']['median']:.0f}")
    return accuracy, beside


def _number(score: dict[str, Any] | None) -> str:
    return f"{score['accuracy']:.3f}" if score and score["n"] else "-"
