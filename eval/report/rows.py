"""What `report.html` shows of responses: rows as every checkpoint answered them, with their images, and rollouts."""

import base64
import io
import itertools
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from eval.data.images import pixels_digest
from eval.data.rows import read
from eval.files import json_lines
from eval.scores import CORRECT, Line
from eval.task import load_task
from rewards.response import Response, parse

ROWS, AT_RANDOM = 200, 50  # rows of a task that are shown, and those among them that nothing but chance chose
THUMBNAIL = 256  # pixels of an image's longer side
STEPS, GROUPS, COMPLETIONS = 12, 3, 4  # rollouts shown: of a stage, of a step, of a group
LONGEST = 4000  # characters of a rollout's text; more are cut out of its middle
LONGEST_OF_ROW = 2000  # of a response to a row: there are far more of them


def task_names(checkpoints: dict[str, Any]) -> list[str]:
    """The tasks that any checkpoint was asked."""
    return list(dict.fromkeys(task for tasks in checkpoints.values() for task in tasks))


# --- rows, as each checkpoint answered them ---------------------------------------------------------------------------


def tasks_shown(
    run: Path, checkpoints: dict[str, Any], recipe: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each task with some of its rows, and the thumbnails of all of these by the images' digests."""
    shown: list[dict[str, Any]] = []
    thumbnails: dict[str, str] = {}
    for task in task_names(checkpoints):
        answered: dict[str, dict[str, Line]] = {}  # by id, then by checkpoint
        for name in (name for name, tasks in checkpoints.items() if task in tasks):
            for line in json_lines(run / "eval" / name / task / "completions.jsonl"):
                if line["sample"] == 0 and not line["image_removed"]:
                    answered.setdefault(line["id"], {})[name] = line
        chosen, said = _chosen(answered)
        images = {id: (next(iter(answered[id].values()))["image"] or "").split() for id in chosen}
        found, problem = _thumbnails(task, recipe["evaluate"]["tasks"], images)
        thumbnails |= found
        rows = [_row(answered[id], [digest for digest in images[id] if digest in found]) for id in chosen]
        shown.append({"name": task, "rows": rows, "said": said, "problem": problem})
    return shown, thumbnails


def _chosen(answered: dict[str, dict[str, Line]]) -> tuple[list[str], str]:
    """The ids of the rows to show, in their order, and in words which these are."""
    every, draw = list(answered), random.Random(0)
    if len(every) <= ROWS:
        return every, f"all {len(every):,} rows"
    failed = [id for id in every if [*answered[id].values()][-1]["outcome"] != CORRECT]
    changed = [id for id in every if id not in {*failed} and _changes(answered[id])]
    pairs = itertools.zip_longest(*(draw.sample(each, len(each)) for each in (failed, changed)))
    first = {*[id for pair in pairs for id in pair if id is not None][: ROWS - AT_RANDOM]}
    others = {*draw.sample([id for id in every if id not in first], ROWS - len(first))}
    of_failed = len(first & {*failed})
    said = (
        f"{ROWS} of {len(every):,} rows: {of_failed} of the {len(failed):,} that the last checkpoint failed, "
        f"{len(first) - of_failed} of the {len(changed):,} others that were gained or lost on the way, "
        f"and {len(others)} drawn at random from the rest; shares among them are not the task's"
    )
    return [id for id in every if id in first | others], said


def _changes(lines: dict[str, Line]) -> list[str]:
    """What happened to a row between any two consecutive checkpoints."""
    right = [line["outcome"] == CORRECT for line in lines.values()]
    return sorted({"gained" if after else "lost" for before, after in itertools.pairwise(right) if before != after})


def _thumbnails(task: str, tasks: Sequence[str], images: dict[str, list[str]]) -> tuple[dict[str, str], str | None]:
    """By digest, for `images` by row; and why some are missing: the data have moved, or are others by now."""
    thumbnails: dict[str, str] = {}
    if not any(images.values()):
        return thumbnails, None
    problem = "its data are no longer what was asked"
    try:
        sources = {source.name: source for source in map(load_task, tasks)}
        rows = read(sources[task])
        index = {id: number for number, id in enumerate(rows["id"])}
        for id, digests in images.items():
            if id in index and not thumbnails.keys() >= {*digests}:
                held = {pixels_digest(image): image for image in rows[index[id]].get("images") or []}
                thumbnails |= {digest: _data_uri(held[digest]) for digest in digests if digest in held}
    except (ValueError, OSError) as error:
        problem = str(error)
    without = sum(not thumbnails.keys() >= {*digests} for digests in images.values())
    return thumbnails, f"{without:,} of these without their images: {problem}" if without else None


def _data_uri(image: Any) -> str:
    """A thumbnail, as a photograph or as a drawing, whichever is smaller."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    files = {"png": io.BytesIO(), "webp": io.BytesIO()}
    for kind, file in files.items():
        small.save(file, kind, quality=70)
    kind, file = min(files.items(), key=lambda each: len(each[1].getvalue()))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _row(lines: dict[str, Line], images: list[str]) -> dict[str, Any]:
    first = next(iter(lines.values()))
    return {
        **{key: first[key] for key in ("id", "question", "gold")},
        "images": images,
        "changes": _changes(lines),
        "responses": [
            {
                "checkpoint": name,
                **{key: line[key] for key in ("outcome", "parse", "lenient", "think_tokens")},
                **{key: _cut(part, LONGEST_OF_ROW) for key, part in _parts(line["text"]).items()},
            }
            for name, line in lines.items()
        ],
    }


# --- rollouts ---------------------------------------------------------------------------------------------------------


def rollouts_shown(run: Path, stage: dict[str, Any]) -> list[dict[str, Any]]:
    """Steps from the first to the last, as TRL's `log_completions` wrote them down; none for a stage without."""
    folder = run / stage["name"]
    running = _in_order(folder / "checkpoints" / "completions")[:-1]  # the latest may be half written
    files = spread([*_in_order(folder / "completions"), *running], STEPS)
    return [_step(file, [reward["weight"] for reward in stage["rewards"]]) for file in files]


def _in_order(folder: Path) -> list[Path]:
    return sorted(folder.glob("completions_*.parquet"), key=lambda file: int(file.stem.removeprefix("completions_")))


def _step(file: Path, weights: list[float]) -> dict[str, Any]:
    table = pq.ParquetFile(file).read()
    rows = table.to_pylist()
    functions = table.column_names[3:][: len(weights)]  # after step, prompt and completion, in the recipe's order
    for row in rows:
        given = [(row[name], weight) for name, weight in zip(functions, weights, strict=True) if row[name] is not None]
        row["reward"] = sum(value * weight for value, weight in given) if given else None  # as TRL sums them
    groups = [list(group) for _, group in itertools.groupby(rows, _asked)]
    scored = [row["reward"] for row in rows if row["reward"] is not None]
    return {
        "step": rows[0]["step"],
        "reward": statistics.fmean(scored) if scored else None,
        "questions": len(groups),
        "groups": [_group(group, functions) for group in sorted(groups, key=_contrast, reverse=True)[:GROUPS]],
    }


def _asked(row: dict[str, Any]) -> dict[str, Any]:
    """What the completions of a group share. Questions about different images can have the same text: the id tells."""
    return {"question": _text(row["prompt"], "user"), "gold": row.get("answer"), "id": row.get("id")}


def _contrast(group: list[dict[str, Any]]) -> float:
    return float(statistics.pstdev([row["reward"] for row in group if row["reward"] is not None] or [0.0]))


def _group(group: list[dict[str, Any]], functions: list[str]) -> dict[str, Any]:
    best_first = sorted(group, key=lambda row: -row["reward"] if row["reward"] is not None else math.inf)
    return {
        **{name: None if value is None else _cut(str(value)) for name, value in _asked(group[0]).items()},
        "size": len(group),
        "completions": [
            {
                "rewards": {name: row[name] for name in functions},
                "reward": row["reward"],
                "advantage": row["advantage"],
                **{name: _cut(part) for name, part in _parts(_text(row["completion"], "assistant")).items()},
            }
            for row in spread(best_first, COMPLETIONS)
        ],
    }


def _text(messages: list[dict[str, Any]], role: str) -> str:
    """What `role` says; of a list of parts, which prompts with images are, the texts."""
    said = [message["content"] for message in messages if message["role"] == role]
    return "\n".join(
        content if isinstance(content, str) else "".join(part.get("text") or "" for part in content) for content in said
    )


def _cut(text: str, longest: int = LONGEST) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} […{len(text) - 2 * half} characters left out…] {text[-half:]}"


def _parts(text: str) -> dict[str, str]:
    parsed = parse(text)
    if isinstance(parsed, Response):
        return {"think": parsed.think, "answer": parsed.answer}
    return {"think": text, "answer": f"({parsed.reason})"}


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items` at even distances, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[index * (len(items) - 1) // (count - 1)] for index in range(count)]
