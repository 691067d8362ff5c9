"""`python -m eval`, in this process or as a command, one task on one checkpoint, and the files that they leave."""

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from safetensors.torch import load_file, save_file

from eval.__main__ import main
from eval.checkpoint import Checkpoint
from eval.evaluate import evaluate, task_rows
from eval.files import json_lines
from eval.task import Decoding, load_task


def command(*arguments: object, launcher: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *launcher, "-m", "eval", *map(str, arguments)]


def run(*arguments: object, code: int = 0) -> str:
    """The command in this process, which saves its imports; returns what it prints."""
    with patch.dict(os.environ), redirect_stdout(io.StringIO()) as printed:
        assert main([*map(str, arguments)]) == code
    return printed.getvalue()


def files(out: Path) -> dict[str, Any]:
    return {
        "lines": json_lines(out / "held" / "completions.jsonl"),
        "scores": (out / "held" / "scores.json").read_text(),
    }


GREEDY = Decoding(batch_size=4)
ROWS = [{"id": f"q{n}", "question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(3)]


def asked(checkpoint: Checkpoint, sums: Path, out: Path, decoding: Decoding = GREEDY) -> str:
    """What the evaluation says of `out`; nothing if all of it was stored."""
    load_task.cache_clear()
    fresh = replace(checkpoint)  # its digest is taken anew
    with redirect_stderr(io.StringIO()) as said:
        evaluate(fresh, [task_rows(load_task(str(sums)))], out, decoding, "it")
    return "".join(line for line in said.getvalue().splitlines(True) if line.startswith(str(out)))


def texts(out: Path) -> list[str]:
    return [line["text"] for line in json_lines(out / "sums" / "completions.jsonl")]


def change_weights(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    save_file({name: -each for name, each in weights.items()}, model / "model.safetensors", {"format": "pt"})
