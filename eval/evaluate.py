"""Ask a checkpoint every row of a task, grade the responses, keep all of it in files; nothing is asked twice."""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from eval.data.images import pixels_digest
from eval.data.rows import good, read
from eval.decode import Decoded, Decoder
from eval.environment import versions
from eval.files import json_lines, write_json, write_json_lines
from eval.grade import graded
from eval.scores import scores
from eval.task import Decoding, Task
from rewards.grading.verify import no_answer

if TYPE_CHECKING:
    import datasets


class _Pass(NamedTuple):
    """One response to every row."""

    sample: int  # 0 is greedy
    image_removed: bool = False


def evaluate(decoder: Decoder, task: Task, out: Path, decoding: Decoding, title: str) -> None:
    """Write `completions.jsonl` (one line a response) and `scores.json` to `out`. Called by every rank; rows are split.

    A run that was killed goes on after the last batch that it wrote, and ends with the same files.

    Args:
        decoder: the loaded checkpoint; it serves all tasks.
        title: what the progress bar says.

    Raises:
        ValueError: the task has no usable row, or two of one id.
    """
    rows, unreadable = task_rows(task)
    passes = [_Pass(sample) for sample in range(1 + decoding.samples)]
    if decoding.image_removed and "images" in rows.column_names and decoder.chat.is_vlm:
        passes.append(_Pass(0, image_removed=True))
    asked = {
        "task": task.model_dump(),
        **decoding.model_dump(),
        "backend": decoder.backend,
        "checkpoint": decoder.weights_digest,
    }
    parts = _parts(out / "parts", asked)
    lines = _respond(decoder, rows, task.max_new_tokens, decoding, title, passes, parts)
    state = process_state()
    if state.is_main_process:
        write_json_lines(out / "completions.jsonl", lines)
        facts = {**asked, "rows": _rows_digest(lines), "unreadable_rows": unreadable, "versions": versions()}
        write_json(out / "scores.json", {**scores(lines), "made": facts})  # last: all is done
        remove_parts(out / "parts")
    state.wait_for_everyone()


def task_rows(task: Task) -> tuple["datasets.Dataset", int]:
    """The rows that are asked, and how many could not be read.

    Raises:
        ValueError: there is none, or two have one id, by which checkpoints are compared.
    """
    every = read(task)
    rows = good(every)
    if len(rows) == 0:
        raise ValueError(f"task {task.name}: none of the {len(every)} rows of {task.path} can be read")
    unreadable = len(every) - len(rows)
    declared = [rows[name][:] if name in rows.column_names else [None] * len(rows) for name in ("kind", "choices")]
    hopeless = sum(bool(no_answer(*of_row)) for of_row in zip(rows["answer"][:], *declared, strict=True))
    if hopeless:
        why = "empty, prose, a placeholder, or several in one; no response will be right there"
        print(f"WARNING task {task.name}: {hopeless} of {len(rows)} references are no answer: {why}", file=sys.stderr)
    ids = rows["id"][:]
    if len({*ids}) < len(ids):
        twice = next(id for index, id in enumerate(ids) if id in ids[:index])
        raise ValueError(f"task {task.name}: two rows of {task.path} have the id {twice!r}")
    return rows.select(range(min(task.limit or len(rows), len(rows)))), unreadable


def sample(
    decoder: Decoder, rows: "datasets.Dataset", max_new_tokens: int, decoding: Decoding, title: str, parts: Path
) -> list[dict[str, Any]]:
    """The sampled responses alone, judged, one line each. Called by every rank.

    `parts` (with something added to the name) keeps what is done until `remove_parts`.
    """
    passes = [_Pass(sample) for sample in range(1, 1 + decoding.samples)]
    asked = {"rows": rows._fingerprint, "max_new_tokens": max_new_tokens, **decoding.model_dump()}
    asked["checkpoint"] = decoder.weights_digest
    return _respond(decoder, rows, max_new_tokens, decoding, title, passes, _parts(parts, asked))


def remove_parts(parts: Path) -> None:
    """Of this and of any earlier attempt, which may have asked something else."""
    for left in parts.parent.glob(f"{parts.name}-*"):
        shutil.rmtree(left)


def _parts(parts: Path, asked: dict[str, Any]) -> Path:
    return parts.with_name(f"{parts.name}-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}")


def _respond(
    decoder: Decoder,
    rows: "datasets.Dataset",
    max_new_tokens: int,
    decoding: Decoding,
    title: str,
    passes: list[_Pass],
    parts: Path,
) -> list[dict[str, Any]]:
    """All lines, by pass and row. A chunk of rows is one file in `parts`, so that none is half there after a kill.

    Chunks do not depend on the number of ranks, nor does what is sampled for them.
    """
    state = process_state()
    size = decoding.batch_size * decoder.batches
    chunks = [(turn, begin) for turn in passes for begin in range(0, len(rows), size)]
    files = [parts / f"{number:06d}.jsonl" for number in range(len(chunks))]
    todo = range(state.process_index, len(chunks), state.num_processes)
    if not sys.stderr.isatty() and state.is_main_process:
        done = sum(file.exists() for file in files)
        there = f", {done} of {len(files)} parts are there" if done else ""
        print(f"{title}: {len(rows)} rows{there}", file=sys.stderr)
    total = sum(min(size, len(rows) - chunks[number][1]) for number in todo)
    bar = tqdm(total=total, desc=title, unit="response", disable=not sys.stderr.isatty())
    for number in todo:
        (draw, removed), begin = chunks[number]
        batch = list(rows.select(range(begin, min(begin + size, len(rows)))))
        if not files[number].exists():
            asked = [{**row, "images": []} for row in batch] if removed else batch
            temperature = decoding.temperature if draw else None
            responses = decoder.decode(asked, max_new_tokens, temperature, decoding.seed + 1_000_003 * draw + begin)
            pairs = zip(asked, responses, strict=True)
            lines = [_line(decoder, row, response, draw, removed) for row, response in pairs]
            write_json_lines(files[number], graded(lines))
        bar.update(len(batch))
    bar.close()
    state.wait_for_everyone()
    return [line for file in files for line in json_lines(file)]


def process_state() -> PartialState:
    """This process among its ranks. Delete when accelerate sees ranks on a CPU untold (`accelerate/state.py:802`)."""
    return PartialState(cpu=not torch.cuda.is_available())


def _line(decoder: Decoder, row: dict[str, Any], response: Decoded, draw: int, removed: bool) -> dict[str, Any]:
    images = row.get("images") or []
    shown = [pixels_digest(image) for image in images]
    prompt = decoder.chat.prompt_text(row["question"], images)
    return {
        "id": row["id"],
        "sample": draw,
        "image_removed": removed,
        "prompt": hashlib.sha256("\n".join([prompt, *shown]).encode()).hexdigest()[:16],
        "image": " ".join(shown) or None,
        "question": row["question"],
        "gold": row["answer"],
        "kind": row.get("kind"),
        "choices": row.get("choices"),
        **asdict(response),
    }


def _rows_digest(lines: list[dict[str, Any]]) -> str:
    """Names what was asked, in order."""
    asked = [(line["id"], line["question"], line["gold"], line["image"]) for line in lines if not line["image_removed"]]
    return hashlib.sha256(repr(asked).encode()).hexdigest()
