"""The demo's own model and data, small: the real Qwen2.5-VL classes, real digits, nothing downloaded."""

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.support")
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` (Qwen2.5-VL, untrained) and the parquet files `pretrain`, `sft`, `rl` and `heldout`."""
    out = tmp_path_factory.mktemp("demo") / "assets"
    spec = importlib.util.spec_from_file_location("demo_build", ROOT / "recipes" / "demo" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    # Two questions for GRPO, so that each step asks about the same images as the one before.
    build.build(out, seed=0, sizes=build.Sizes(pretrain=64, sft=64, rl=2, heldout=12))
    return out


@pytest.fixture
def contrast(tmp_path: Path) -> str:
    """A reward, as a recipe names it, that differs between most completions, so that GRPO has a gradient."""
    (tmp_path / "contrast.py").write_text(
        "def contrast(completions, **columns):\n    return [float(len(set(c[0]['content']))) for c in completions]\n"
    )
    return f"{tmp_path / 'contrast.py'}:contrast"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves a family's small model (tests/support/families.py) the first time it is asked for; returns its folder."""
    from tests.support.families import save

    return cache(lambda name: save(name, tmp_path_factory.mktemp("family") / name))


@pytest.fixture
def trained(small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Trains one stage of a small text model in this process; returns the run's folder, claimed and complete."""
    from tests.support.trained import trains

    return trains(small, tmp_path, monkeypatch)
