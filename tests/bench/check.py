"""`--check`: 100,000 text rows, and rows with photographs, from files that nothing has read before."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.families import save

ROWS = 100_000
PICTURES, FILES = 8_000, 500
WORDS = (
    "the triangle has a base of and its height is so area equals one half times which we compare with what was asked "
    "first look at each option then count every side again before saying that this must be right as nothing else fits"
).split()
RECIPE = """\
name: bench
model: {{path: {model}, dtype: float32}}
data:
  cold: {{path: rows.jsonl}}
stages:
  - {{name: sft, kind: sft, data: cold, loss: token_mean, trainer: {{max_length: 2000}}}}
"""


def results() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return [*_text_rows(Path(folder)), *_pictures(Path(folder))]


def _text_rows(folder: Path) -> list[dict[str, Any]]:
    rng = random.Random(0)
    rows = [_row(number, " ".join(rng.choices(WORDS, k=rng.randrange(40, 200)))) for number in range(ROWS)]
    size = _write(folder, "qwen3", rows)
    first, again = _check(folder), _check(folder)
    detail = f"{size:.0f} characters a row, tokenizer of 350 words; again, from the cache: {again:.1f} s"
    return [{"name": "check_100k_rows_seconds", "value": round(first, 1), "unit": "s", "detail": detail}]


def _pictures(folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(480), np.arange(640))[..., None] % 251
    for number in range(FILES):
        noisy = (smooth + rng.integers(0, 32, (480, 640, 3))).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=85)
    rows = [_row(n, "I see it.") | {"images": [f"{n % FILES}.jpg"]} for n in range(PICTURES)]
    _write(folder, "qwen2_5_vl", rows[:8])
    start = _check(folder)
    _write(folder, "qwen2_5_vl", rows)
    both = _check(folder) - start
    for path in folder.glob("*.jpg"):
        path.touch()  # not from the cache again
    one = _check(folder, ["taskset", "-c", "0"]) - start
    detail = f"640 x 480 JPEG, {os.cpu_count()} cores, beside the {start:.1f} s that a check of 8 rows takes"
    rate = {"name": "check_pictures_per_second", "value": round(PICTURES / both), "unit": "1/s", "detail": detail}
    return [
        rate,
        {"name": "check_pictures_all_cores", "value": round(one / both, 2), "unit": "x one core", "detail": ""},
    ]


def _row(number: int, think: str) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "question": f"What is the area in case {number}?",
        "think": think,
        "answer": str(number),
    }


def _write(folder: Path, family: str, rows: list[dict[str, Any]]) -> float:
    """Characters a row."""
    model = save(family, folder / family)
    (folder / "recipe.yaml").write_text(RECIPE.format(model=model))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines)
    return len(lines) / len(rows)


def _check(folder: Path, prefix: list[str] | None = None) -> float:
    run = Path(__file__).resolve().parents[2] / "pipeline" / "run.py"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache")}
    begun = time.perf_counter()
    command = [*(prefix or []), sys.executable, str(run), "recipe.yaml", "--check"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - begun
