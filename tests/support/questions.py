"""Questions for GRPO stages, and the completions that a stage saves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
from PIL import Image

from pipeline.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
Train = Callable[..., list[dict[str, Any]]]


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{n}", "question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(count)]


def mixed(folder: Path, kinds: list[bool]) -> Path:
    """Rows with an image where `kinds` says so."""
    for index, row in enumerate(rows := questions(len(kinds))):
        Image.new("RGB", (60, 60), (index * 20, 90, 10)).save(folder / f"{index}.png")
        row["images"] = [f"{index}.png"] if kinds[index] else []
    (folder / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "mixed.jsonl"


def rollouts(folder: Path) -> list[pandas.DataFrame]:
    """The saved completions, a table a step."""
    return [pandas.read_parquet(file) for file in sorted(folder.rglob("completions/*.parquet"))]
