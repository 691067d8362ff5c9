"""Rollouts as `report.html` shows them: of some steps of a GRPO stage, the questions that its rewards differ in."""

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

from eval.report.found import Found, Row, is_number
from eval.report.rows import cut, parts

STEPS, GROUPS, COMPLETIONS = 12, 3, 4  # that are shown: of a stage, of a step, of a group
LONGEST = 4000  # characters of a text; more are cut out of its middle


def rollouts_shown(found: Found, stage: Row) -> list[Row]:
    """Steps from the first to the last, as TRL's `log_completions` wrote them down; none for a stage without."""
    folder = found.run / stage["name"]
    running = _in_order(folder / "checkpoints" / "completions")[:-1]  # the latest may be half written
    files = spread([*_in_order(folder / "completions"), *running], STEPS)
    weights = [reward["weight"] for reward in stage.get("rewards", [])]
    steps = (_step(found, file, weights) for file in files)
    return [step for step in steps if step is not None]


def _in_order(folder: Path) -> list[Path]:
    """The files of steps by their numbers; any other file in the folder is nobody's business."""
    numbered = [(int(match[1]), file) for file in folder.glob("*") if (match := _STEP.fullmatch(file.name))]
    return [file for _, file in sorted(numbered)]


_STEP = re.compile(r"completions_(\d+)\.parquet")


def _step(found: Found, file: Path, weights: Sequence[float]) -> Row | None:
    """None for a file that is damaged, or holds something else."""
    try:
        table = pq.ParquetFile(file).read()
    except (OSError, ValueError, ArrowException) as error:
        found.lacks(file, f"cannot be read: {str(error).partition(chr(10))[0]}")
        return None
    if lacking := {"step", "prompt", "completion", "advantage"} - {*table.column_names}:
        found.lacks(file, f"lacks the columns {', '.join(sorted(lacking))}")
        return None
    if not table.num_rows:
        found.lacks(file, "has no row")
        return None
    functions = table.column_names[3:][: len(weights)]  # after step, prompt and completion, in the recipe's order
    try:
        return _shown(table.to_pylist(), functions, weights)
    except (TypeError, KeyError, AttributeError, ValueError) as error:  # the values are of another shape than TRL's
        found.lacks(file, f"holds no rollouts as TRL writes them: {error}")
        return None


def _shown(rows: list[Row], functions: Sequence[str], weights: Sequence[float]) -> Row:
    for row in rows:
        row |= {name: _value(row[name], name) for name in (*functions, "advantage")}
        given = [(row[name], weight) for name, weight in zip(functions, weights, strict=True) if row[name] is not None]
        row["reward"] = sum(value * weight for value, weight in given) if given else None  # as TRL sums them
    groups = [list(group) for _, group in itertools.groupby(rows, _asked)]
    scored = [row["reward"] for row in rows if row["reward"] is not None]
    return {
        "step": int(rows[0]["step"]),
        "reward": statistics.fmean(scored) if scored else None,
        "questions": len(groups),
        "groups": [_group(group, functions) for group in sorted(groups, key=_contrast, reverse=True)[:GROUPS]],
    }


def _value(value: Any, name: str) -> float | None:
    """None where a function gave none.

    Raises:
        TypeError: it is no number.
    """
    if value is None or value != value:  # NaN
        return None
    if not is_number(value):
        raise TypeError(f"{name} is {value!r:.50}")
    return float(value)


def _asked(row: Row) -> Row:
    """What the completions of a group share. Questions about different images can have the same text: the id tells."""
    return {"question": _text(row["prompt"], "user"), "gold": row.get("answer"), "id": row.get("id")}


def _contrast(group: list[Row]) -> float:
    return float(statistics.pstdev([row["reward"] for row in group if row["reward"] is not None] or [0.0]))


def _group(group: list[Row], functions: Sequence[str]) -> Row:
    best_first = sorted(group, key=lambda row: -row["reward"] if row["reward"] is not None else math.inf)
    return {
        **{name: None if value is None else cut(str(value), LONGEST) for name, value in _asked(group[0]).items()},
        "size": len(group),
        "completions": [
            {
                "rewards": {name: row[name] for name in functions},
                "reward": row["reward"],
                "advantage": row["advantage"],
                **{key: cut(shown[key], LONGEST) for key in ("think", "answer")},
            }
            for row in spread(best_first, COMPLETIONS)
            for shown in [parts(_text(row["completion"], "assistant"))]
        ],
    }


def _text(messages: list[Row], role: str) -> str:
    """What `role` says; of a list of parts, which prompts with images are, the texts."""
    said = [message["content"] for message in messages if message["role"] == role]
    return "\n".join(
        content if isinstance(content, str) else "".join(part.get("text") or "" for part in content) for content in said
    )


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items` at even distances, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[index * (len(items) - 1) // (count - 1)] for index in range(count)]
