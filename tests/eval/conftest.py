"""A task to evaluate checkpoints on."""

from pathlib import Path

import pytest

from tests.support import inputs


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """ScienceQA's test questions, six of them, with images."""
    inputs.scienceqa(tmp_path)
    path = tmp_path / "held.yaml"
    path.write_text("name: held\npath: scienceqa\nformat: scienceqa\nmax_new_tokens: 24\n")
    return path
