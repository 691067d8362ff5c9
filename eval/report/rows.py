"""Rows as `report.html` shows them: as every checkpoint answered them, with their images."""

import base64
import io
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from eval.data.images import BadRow, pixels_digest, rgb, verify_image
from eval.data.rows import read, undecoded
from eval.grade import OK
from eval.report.found import Found, Row
from eval.report.results import task_names
from eval.scores import CORRECT
from eval.task import Task
from rewards.response import Response, parse

ROWS, AT_RANDOM = 200, 50  # rows of a task that are shown, and those among them that nothing but chance chose
THUMBNAIL = 256  # pixels of an image's longer side
LONGEST_OF_ROW = 2000  # characters of a response; more are cut out of its middle


class _Answer(NamedTuple):
    """What is kept of every greedy response: of those that are shown, the rest is read again."""

    right: bool
    offset: int  # of its line


_Answered = dict[str, dict[str, _Answer]]  # by id, then by checkpoint


def tasks_shown(found: Found, checkpoints: Row, recipe: Row) -> tuple[list[Row], dict[str, str]]:
    """Each task with some of its rows, and the thumbnails of all of these by the images' digests."""
    shown: list[Row] = []
    thumbnails: dict[str, str] = {}
    sources, _ = found.tasks(recipe["evaluate"])
    for task in task_names(checkpoints):
        files = {name: found.run / "eval" / name / task / "completions.jsonl" for name in checkpoints}
        files = {name: file for name, file in files.items() if task in checkpoints[name]}
        answered = _answered(found, files)
        chosen, said = _chosen(answered)
        lines = _lines(found, files, answered, chosen)
        images = {id: (next(iter(of_row.values())).get("image") or "").split() for id, of_row in lines.items()}
        of_task, problem = _thumbnails(sources.get(task), images)
        if problem:
            problem = found.lacks(f"data of task {task}", problem)
        thumbnails |= of_task
        rows = [_row(lines[id], answered[id], [each for each in images[id] if each in of_task]) for id in lines]
        shown.append({"name": task, "rows": rows, "said": said, "problem": problem})
    return shown, thumbnails


def _answered(found: Found, files: dict[str, Path]) -> _Answered:
    answered: _Answered = {}
    for name, file in files.items():
        for offset, line in found.responses(file):
            if line["sample"] == 0 and not line["image_removed"]:
                answered.setdefault(line["id"], {})[name] = _Answer(line["outcome"] == CORRECT, offset)
    return answered


def _chosen(answered: _Answered) -> tuple[list[str], str]:
    """The ids of the rows to show, in their order, and in words which these are."""
    every, draw = list(answered), random.Random(0)
    if len(every) <= ROWS:
        return every, f"all {len(every):,} rows" if every else "none of its responses can be read"
    failed = [id for id in every if not [*answered[id].values()][-1].right]
    of_failed = {*failed}
    changed = [id for id in every if id not in of_failed and _changes(answered[id])]
    pairs = itertools.zip_longest(*(draw.sample(each, len(each)) for each in (failed, changed)))
    first = {*[id for pair in pairs for id in pair if id is not None][: ROWS - AT_RANDOM]}
    others = {*draw.sample([id for id in every if id not in first], ROWS - len(first))}
    said = (
        f"{ROWS} of {len(every):,} rows: {len(first & of_failed)} of the {len(failed):,} that the last checkpoint "
        f"failed, {len(first - of_failed)} of the {len(changed):,} others that were gained or lost on the way, "
        f"and {len(others)} drawn at random from the rest; shares among them are not the task's"
    )
    return [id for id in every if id in first | others], said


def _lines(
    found: Found, files: dict[str, Path], answered: _Answered, chosen: Sequence[str]
) -> dict[str, dict[str, Row]]:
    """The whole lines of the rows to show, by id, then by checkpoint."""
    lines: dict[str, dict[str, Row]] = {id: {} for id in chosen}
    for name, file in files.items():
        places = {id: answered[id][name].offset for id in chosen if name in answered[id]}
        held = found.lines_at(file, places.values()) if places else {}
        for id, offset in places.items():
            if held.get(offset, {}).get("id") == id:  # the file may have been written anew meanwhile
                lines[id][name] = held[offset]
        if not all(isinstance(line.get("text"), str) for line in held.values()):
            found.lacks(file, "lacks the text of some rows")
    return {id: of_row for id, of_row in lines.items() if of_row}


def _changes(answers: dict[str, _Answer]) -> list[str]:
    """What happened to a row between any two consecutive checkpoints."""
    right = [answer.right for answer in answers.values()]
    return sorted({"gained" if after else "lost" for before, after in itertools.pairwise(right) if before != after})


def _thumbnails(source: Task | None, images: dict[str, list[str]]) -> tuple[dict[str, str], str | None]:
    """By digest, for `images` by row; and why some are missing: the data have moved, or are others by now."""
    thumbnails: dict[str, str] = {}
    if not any(images.values()):
        return thumbnails, None
    problems: list[str] = []
    try:
        if source is None:
            raise ValueError("the task's file cannot be read")
        rows = undecoded(read(source))
        index = {id: number for number, id in enumerate(rows["id"])}
    except (ValueError, OSError) as error:
        problems, index = [str(error)], {}
    for id, digests in images.items():
        if id in index and not thumbnails.keys() >= {*digests}:
            held = {pixels_digest(image): image for image in _pictures(rows[index[id]].get("images") or [], problems)}
            thumbnails |= {digest: _data_uri(held[digest]) for digest in digests if digest in held}
    without = sum(not thumbnails.keys() >= {*digests} for digests in images.values())
    why = problems[0] if problems else "its data are no longer what was asked"
    return thumbnails, f"{without:,} of {len(images):,} rows without their images: {why}" if without else None


def _pictures(images: Sequence[Row], problems: list[str]) -> Iterator[Any]:
    """Those that can be decoded; why others cannot goes to `problems`."""
    for image in images:
        try:
            verify_image(image)
        except BadRow as error:
            problems.append(str(error))
            continue
        with Image.open(io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]) as opened:
            yield rgb(opened)


def _data_uri(image: Any) -> str:
    """A thumbnail, as a photograph or as a drawing, whichever is smaller."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    files = {"png": io.BytesIO(), "webp": io.BytesIO()}
    for kind, file in files.items():
        small.save(file, kind, quality=70)
    kind, file = min(files.items(), key=lambda each: len(each[1].getvalue()))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _row(lines: dict[str, Row], answers: dict[str, _Answer], images: list[str]) -> Row:
    first = next(iter(lines.values()))
    return {
        **{key: first[key] for key in ("id", "question", "gold")},
        "images": images,
        "changes": _changes(answers),
        "responses": [{"checkpoint": name, **_response(line)} for name, line in lines.items()],
    }


def _response(line: Row) -> Row:
    """What is shown of one; `text` tells whether the line has any."""
    told = {key: line.get(key) for key in ("outcome", "parse", "lenient", "think_tokens")}
    if not isinstance(line.get("text"), str):
        return {**told, "text": False, "parse": "its text is not in the file", "think": "", "answer": ""}
    shown = parts(line["text"])
    told["parse"] = told["parse"] or shown["form"]
    return {**told, "text": True, **{key: cut(shown[key], LONGEST_OF_ROW) for key in ("think", "answer")}}


def cut(text: str, longest: int) -> str:
    """`text` without its middle, where it is longer."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} […{len(text) - 2 * half} characters left out…] {text[-half:]}"


def parts(text: str) -> dict[str, str]:
    """A response as it is shown: its `form` (`ok`, or why it is none), `think` and `answer`."""
    parsed = parse(text)
    if isinstance(parsed, Response):
        return {"form": OK, "think": parsed.think, "answer": parsed.answer}
    return {"form": parsed.reason, "think": text, "answer": f"({parsed.reason})"}
