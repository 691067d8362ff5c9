"""`results.json` and `results.csv`: what a run came to so far, from the files in its folder; and tables to read."""

import csv
import io
import itertools
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from eval.compare import both, verdict, with_holm
from eval.files import write_json, write_text
from eval.report.found import Found, Row, is_number, read_recipe
from eval.report.published import private, published
from eval.report.sound import sound_scores
from eval.scores import Line
from eval.terminal import table


def write_results(run: Path) -> Row:
    """Write both from the stages' manifests and metrics, the scores and the completions in `run`, which may go on.

    Returns what `results.json` holds. `complete` says whether all stages are done and all checkpoints scored on all
    tasks of the recipe, `missing` what could not be read.

    Raises:
        ValueError: `recipe.json` is damaged.
    """
    stored = read_recipe(run)
    recipe, found = stored["recipe"], Found(run, stored)
    stages = [_stage(found, stored, index) for index in range(len(recipe["stages"]))]
    evaluate = recipe["evaluate"] or {"tasks": [], "checkpoints": []}
    tasks, all_read = found.tasks(evaluate)
    scored = {name: scores_in(run / "eval" / name, found) for name in evaluate["checkpoints"]}
    if all_read:  # what a task left that was taken out of the recipe is no result of the run
        scored = {name: {task: each[task] for task in tasks if task in each} for name, each in scored.items()}
    results = {
        "name": recipe["name"],
        "complete": all(stage["seconds"] is not None for stage in stages)
        and all(len(each) >= len(evaluate["tasks"]) for each in scored.values()),
        "stages": stages,
        "checkpoints": {name: each for name, each in scored.items() if each},
    }
    results["comparisons"] = _comparisons(found, results["checkpoints"])
    shown: Row = published({**results, "missing": found.missing}, private(stored, run))
    write_json(run / "results.json", shown)
    write_csv(run / "results.csv", shown["checkpoints"])
    return shown


def read_results(run: Path) -> Row:
    """What `results.json` holds, made anew where it is damaged or of older code.

    Raises:
        ValueError: it is, and `recipe.json` is damaged.
    """
    found = Found(run, {"recipe": {}, "rewards": {}}).json(run / "results.json")
    return found if found is not None and found.keys() >= _KEYS else write_results(run)


_KEYS = {"name", "complete", "stages", "checkpoints", "comparisons", "missing"}


def _stage(found: Found, stored: Row, index: int) -> Row:
    """A complete stage's result; of another, the last step that it logged, and no seconds. None is not known."""
    stage = stored["recipe"]["stages"][index]
    name, manifest = stage["name"], found.manifest(stage["name"])
    facts = {"name": name, "kind": stage["kind"], "steps": manifest.get("steps"), "seconds": manifest.get("seconds")}
    facts["rollouts"] = manifest["rollouts"] if isinstance(manifest.get("rollouts"), str) else None
    if is_number(manifest.get("cpu_seconds")):
        facts["cpu_seconds"] = manifest["cpu_seconds"]
    if facts["seconds"] is not None and stored["processes"]:  # GPUs, or processes on a CPU
        facts["device_hours"] = round(facts["seconds"] * stored["processes"] / 3600, 4)
    if facts["steps"] is None and _is_gone(found.run, stored["recipe"]["stages"], index):
        found.lacks(found.run / name, "the stage's folder is not there")
    elif facts["steps"] is None:
        logged = found.metrics(name)
        facts["steps"] = logged[-1]["step"] if logged else None if (found.run / name / "COMPLETE").exists() else 0
    return facts


def _is_gone(run: Path, stages: list[Row], index: int) -> bool:
    """Whether a stage has no folder that must have had one: it was evaluated, or one after it has begun."""
    name, *later = (stage["name"] for stage in stages[index:])
    begun = (run / "eval" / name).is_dir() or any((run / each).exists() for each in later)
    return begun and not (run / name).is_dir()


def scores_in(folder: Path, found: Found | None = None) -> Row:
    """The scores of one checkpoint by task, as they may be published; those that are damaged are left out.

    Args:
        found: of the run that `folder` is in, which takes note of what is damaged; else it is said on standard error.
    """
    noted = found or Found(folder, {"recipe": {}, "rewards": {}})
    for file in sorted(folder.glob("*/completions.jsonl")):
        if not file.with_name("scores.json").exists():
            noted.lacks(file.with_name("scores.json"), "is not there: the evaluation has not ended", usual=True)
    files = sorted(folder.glob("*/scores.json"))
    scores = {file.parent.name: each for file in files if (each := sound_scores(noted, file)) is not None}
    for each in noted.missing if found is None else []:
        print(f"WARNING {folder / each['path']}: {each['problem']}", file=sys.stderr)
    shown: Row = published(scores)
    return shown


# --- comparisons ------------------------------------------------------------------------------------------------------


def _comparisons(found: Found, checkpoints: Row) -> list[Row]:
    """Each checkpoint against the one before it on the tasks of both.

    All of them, greedy and sampled, are one family of tests: they are shown together.
    """
    slim = lru_cache(maxsize=2)(lambda name, task: [*_slim(found, name, task)])
    pairs = [(task, a, b) for task in task_names(checkpoints) for a, b in itertools.pairwise(checkpoints)]
    shared = [(task, a, b) for task, a, b in pairs if task in checkpoints[a] and task in checkpoints[b]]
    nested: dict[tuple[str, str], Row] = {}
    for each in with_holm([each for pair in shared for each in _both(found, slim, *pair)]):
        if each["decoding"] == "greedy":
            nested[each["b"], each["task"]] = each
        else:
            nested[each["b"], each["task"]]["sampled"] = each
    order = [*checkpoints]
    return [nested[key] for key in sorted(nested, key=lambda key: order.index(key[0]))]


def _both(found: Found, slim: Any, task: str, a: str, b: str) -> list[Row]:
    try:
        compared = both(task, [slim(a, task)], [slim(b, task)])
    except ValueError as error:
        found.lacks(f"eval/{b}/{task}", f"not compared with {a}: {error}")
        return []
    if not any(each["decoding"] == "greedy" for each in compared):
        found.lacks(f"eval/{b}/{task}", f"not compared with {a}: no greedy responses in both")
        return []
    return [{"task": task, "a": a, "b": b, **each} for each in compared]


def _slim(found: Found, checkpoint: str, task: str) -> Iterator[Line]:
    """What a comparison reads of each line: of the question only whether it is the same."""
    for _, line in found.responses(found.run / "eval" / checkpoint / task / "completions.jsonl"):
        kept = {key: line[key] for key in ("id", "sample", "image_removed", "outcome", "gold", "image")}
        yield {**kept, "question": hash(line["question"])}


def task_names(checkpoints: Row) -> list[str]:
    """The tasks that any checkpoint was asked."""
    return list(dict.fromkeys(task for tasks in checkpoints.values() for task in tasks))


# --- tables -----------------------------------------------------------------------------------------------------------


def write_csv(path: Path, checkpoints: Row) -> None:
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


def _flat(values: Row, prefix: str = "") -> Row:
    flat: Row = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and len(value) == 2:
            flat |= {f"{prefix}{key}.low": value[0], f"{prefix}{key}.high": value[1]}  # an interval
        else:
            flat[prefix + key] = value
    return flat


def print_summary(run: Path) -> None:
    """The stages, the checkpoints with their intervals, what is missing, and where to look further."""
    results = read_results(run)
    print(f"{results['name']}: {', '.join(map(_stage_line, results['stages']))}")
    if results["checkpoints"]:
        print(f"\n{tables(results['checkpoints'])}\n")
    for pair in results["comparisons"]:
        low, high = pair["ci95"]
        line = f"{pair['task']}: {pair['b']} - {pair['a']} = {pair['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        print(f"{line}: {verdict(pair, pair['a'], pair['b'])}")
    for each in results["missing"]:
        if not each["usual"]:
            print(f"WARNING {each['path']}: {each['problem']}")
    print(f"report:  {run / 'report.html'}\nresults: {run / 'results.json'}")
    print(f"model:   {run / results['stages'][-1]['name'] / 'model'}")


def _stage_line(stage: Row) -> str:
    steps = "an unknown number of" if stage["steps"] is None else f"{stage['steps']}"
    time = " so far" if stage["seconds"] is None else f" in {stage['seconds']:.0f} s"
    return f"{stage['name']} {steps} steps{time}" + (f" (rollouts: {stage['rollouts']})" if stage["rollouts"] else "")


def tables(checkpoints: Row) -> str:
    """Accuracy, and below what to read it with; in each, one row for each checkpoint and task."""
    scored = [(name, task, score) for name, tasks in checkpoints.items() for task, score in tasks.items()]
    shares = ["malformed", "truncated", *(["too_long"] if any(score.get("too_long") for *_, score in scored) else [])]
    columns = ["checkpoint", "task", "n", "accuracy (95%)", "sampled", *(share.replace("_", " ") for share in shares)]
    others = ["checkpoint", "task", "well-formed only", "lenient", "no image", "majority", "think"]
    accuracy, beside = [], []
    for name, task, score in scored:
        row = [name, task, _number(score.get("n"), ".0f"), _interval(score), _accuracy(score, "sampled")]
        accuracy.append([*row, *(_number(score.get(share), ".1%") for share in shares)])
        row = [name, task, *(_accuracy(score, key) for key in ("wellformed", "lenient", "image_removed"))]
        think = (score.get("think_tokens") or {}).get("median")
        beside.append([*row, _number(score.get("majority"), ".3f"), _number(think, ".0f")])
    return f"{table(columns, accuracy, names=2)}\n\n{table(others, beside, names=2)}"


def _number(value: Any, form: str) -> str:
    return format(value, form) if is_number(value) else "-"


def _interval(score: Row) -> str:
    accuracy = _number(score["accuracy"], ".3f")
    return f"{accuracy} ({score['ci95'][0]:.3f}-{score['ci95'][1]:.3f})" if "ci95" in score else accuracy


def _accuracy(score: Row, key: str) -> str:
    return _number((score.get(key) or {}).get("accuracy"), ".3f")
