"""Tasks to evaluate checkpoints on, and a checkpoint of its own for each test."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval.checkpoint import Checkpoint, opened
from tests.support import inputs
from tests.support.evaluations import ROWS


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """ScienceQA's test questions, six of them, with images."""
    inputs.scienceqa(tmp_path)
    path = tmp_path / "held.yaml"
    path.write_text("name: held\npath: scienceqa\nformat: scienceqa\nmax_new_tokens: 24\n")
    return path


@pytest.fixture
def model(small: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(small("llama"), tmp_path / "model"))


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    inputs.jsonl(tmp_path / "rows.jsonl", ROWS)
    path = tmp_path / "sums.yaml"
    path.write_text("name: sums\npath: rows.jsonl\nmax_new_tokens: 6\n")
    return path


@pytest.fixture
def checkpoint(model: Path) -> Iterator[Checkpoint]:
    with opened(str(model), "float32") as found:
        yield found
