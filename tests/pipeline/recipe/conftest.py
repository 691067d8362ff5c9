"""A recipe's file."""

from pathlib import Path

import pytest

from tests.support.recipes import GOOD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    return path
