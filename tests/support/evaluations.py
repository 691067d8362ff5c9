"""`python -m eval`, in this process or as a command, and the files that it leaves."""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eval.__main__ import main
from eval.files import json_lines


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
