"""Ask a checkpoint every row of a task, score the responses by the rewards' verifier, keep all of it in files."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from eval.decode import Decoded, Decoder
from eval.files import write_json, write_text
from eval.rows import good, read
from eval.scores import scores
from eval.task import Task
from rewards.accuracy import verdicts

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn."""

    batch_size: int  # prompts decoded together, per rank
    samples: int  # sampled responses an item, beside the greedy one
    temperature: float  # of the samples
    seed: int


def evaluate(decoder: Decoder, task: Task, out: Path, decoding: Decoding, title: str) -> None:
    """Write `completions.jsonl` (one line a response) and `scores.json` to `out`. Called by every rank; rows are split.

    Args:
        decoder: the loaded checkpoint; it serves all tasks.
        title: what the progress bar says.
    """
    rows = good(read(task.source()))
    rows = rows.select(range(min(task.limit or len(rows), len(rows))))
    lines = respond(decoder, rows, task.max_new_tokens, decoding, title)
    state = process_state()
    if state.is_main_process:
        write_text(out / "completions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_json(out / "scores.json", {**scores(lines), "temperature": decoding.temperature})  # last: all is done
    state.wait_for_everyone()


def respond(
    decoder: Decoder,
    rows: "datasets.Dataset",
    max_new_tokens: int,
    decoding: Decoding,
    title: str,
    greedy: bool = True,
) -> list[dict[str, Any]]:
    """One line a response to `rows`: first the greedy ones (`sample` 0), then the sampled. Called by every rank."""
    state = process_state()
    mine = rows.shard(state.num_processes, state.process_index)
    samples = range(0 if greedy else 1, 1 + decoding.samples)
    lines: list[dict[str, Any]] = []
    bar = tqdm(total=len(mine) * len(samples), desc=title, unit="response", disable=not sys.stderr.isatty())
    if not sys.stderr.isatty() and state.is_main_process:
        print(f"{title}: {len(rows)} rows", file=sys.stderr, flush=True)
    for sample in samples:
        for begin in range(0, len(mine), decoding.batch_size):
            batch = list(mine.select(range(begin, min(begin + decoding.batch_size, len(mine)))))
            temperature = decoding.temperature if sample else None
            seed = decoding.seed + 1_000_003 * sample + begin
            responses = list(decoder.decode(batch, max_new_tokens, temperature, seed))
            lines += _lines(batch, responses, sample)
            bar.update(len(batch))
    bar.close()
    return sorted(gather_object(lines), key=lambda line: (line["sample"], line["id"]))


def process_state() -> PartialState:
    """This process among its ranks; on a CPU, accelerate must be told that it is one."""
    return PartialState(cpu=not torch.cuda.is_available())


def _lines(rows: list[dict[str, Any]], responses: list[Decoded], sample: int) -> list[dict[str, Any]]:
    found = verdicts(
        [response.text for response in responses],
        [row["answer"] for row in rows],
        [row.get("kind") for row in rows],
        [row.get("choices") for row in rows],
        [response.truncated for response in responses],
    )
    return [
        {
            "id": row["id"],
            "sample": sample,
            "question": row["question"],
            "gold": row["answer"],
            "text": response.text,
            "outcome": verdict.outcome.value,
            "reason": verdict.reason.value if verdict.reason else None,
            "think_tokens": response.think_tokens,
            "answer_tokens": response.answer_tokens,
        }
        for row, response, verdict in zip(rows, responses, found, strict=True)
    ]
