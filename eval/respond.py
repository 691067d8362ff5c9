"""A checkpoint's responses to rows: split over all ranks, graded, in parts that survive a kill."""

import hashlib
import json
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from eval.data.images import pixels_digest
from eval.data.rows import undecoded
from eval.decode import Decoded, Decoder
from eval.files import json_lines, write_json, write_json_lines
from eval.grade import graded
from eval.identity import differences, key
from eval.task import Decoding

if TYPE_CHECKING:
    import datasets


class Pass(NamedTuple):
    """One response to every row."""

    sample: int  # 0 is greedy
    image_removed: bool = False


def respond(
    decoder: Decoder,
    rows: "datasets.Dataset",
    max_new_tokens: int,
    decoding: Decoding,
    title: str,
    passes: list[Pass],
    parts: Path,
) -> list[dict[str, Any]]:
    """All lines, by pass and row, for the first rank; called by every rank.

    Args:
        title: what the progress bar says.
        parts: `parts_of` this evaluation. A chunk of rows is one file there, so that none is half there after a kill.

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
    fitting = _Fitting(decoder, rows)
    for number in todo:
        (draw, removed), begin = chunks[number]
        indices = range(begin, min(begin + size, len(rows)))
        if not files[number].exists():
            batch = list(rows.select(indices))
            asked = [{**row, "images": []} for row in batch] if removed else batch
            fits = [fitting(index, removed) for index in indices]
            temperature = decoding.temperature if draw else None
            seed = decoding.seed + 1_000_003 * draw + begin
            short = [row for row, fit in zip(asked, fits, strict=True) if fit]
            responses = iter(decoder.decode(short, max_new_tokens, temperature, seed) if short else [])
            lines = [
                _line(decoder, row, next(responses) if fit else _TOO_LONG, draw, removed, not fit)
                for row, fit in zip(asked, fits, strict=True)
            ]
            write_json_lines(files[number], graded(lines))
        bar.update(len(indices))
    bar.close()
    state.wait_for_everyone()
    return [line for file in files for line in json_lines(file)] if state.is_main_process else []


_TOO_LONG = Decoded("", False, 0, 0)


class _Fitting:
    """Whether the prompt of a row leaves room for a response within the checkpoint's context."""

    def __init__(self, decoder: Decoder, rows: "datasets.Dataset") -> None:
        self.decoder, self.rows = decoder, undecoded(rows)
        self.known: dict[tuple[int, bool], bool] = {}

    def __call__(self, index: int, removed: bool) -> bool:
        if self.decoder.context is None:
            return True
        if (index, removed) not in self.known:
            row, chat, limit = self.rows[index], self.decoder.chat, self.decoder.context - 1
            images = row.get("images") or [] if chat.is_vlm and not removed else []
            text = chat.prompt_text(row["question"], images)
            self.known[index, removed] = chat.prompt_tokens(text, images, limit) <= limit
        return self.known[index, removed]


def process_state() -> PartialState:
    """This process among its ranks. Delete when accelerate sees ranks on a CPU untold (`accelerate/state.py:802`)."""
    return PartialState(cpu=not torch.cuda.is_available())


def _line(
    decoder: Decoder, row: dict[str, Any], response: Decoded, draw: int, removed: bool, too_long: bool
) -> dict[str, Any]:
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
        "too_long": too_long,
    }


# --- parts, which survive a kill --------------------------------------------------------------------------------------


def remove_parts(parts: Path, ingredients: dict[str, Any]) -> None:
    """Of this evaluation, in batches of any size. Those of another may be gone on with yet, or at this moment."""
    for left in parts.parent.glob(f"{parts.name}-*/identity.json"):
        with suppress(ValueError):
            if json.loads(left.read_text(encoding="utf-8")) == ingredients:
                shutil.rmtree(left.parent)


def parts_of(parts: Path, ingredients: dict[str, Any], decoding: Decoding) -> Path:
    """The folder of the parts of just this evaluation: the batch size decides what a part is, and how it is sampled."""
    folder = parts.with_name(f"{parts.name}-{key({**ingredients, 'batch_size': decoding.batch_size})}")
    if process_state().is_main_process and not (folder / "identity.json").exists():
        write_json(folder / "identity.json", ingredients)
    return folder


def tell_of_parts(parts: Path, now: dict[str, Any]) -> None:
    """What an evaluation in other settings left is not finished in these."""
    for left in sorted(parts.parent.glob(f"{parts.name}-*/identity.json")):
        with suppress(ValueError):
            if changed := differences(json.loads(left.read_text(encoding="utf-8")), now):
                why = ", ".join(changed.values())
                where = f"{parts.parent}: an unfinished evaluation, {left.parent.name}/"
                print(f"{where}, stays and is not gone on with: {why}", file=sys.stderr)
