"""GRPO stages of small models, trained in this process; a recipe to be checked."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import grpo
from pipeline.main import main
from pipeline.recipe.schema import Recipe
from tests.support.checked import GOOD, Checked, Found, row, write
from tests.support.inputs import picture

ROWS = [{"id": f"q{n}", "question": f"Half of {n} pi?", "answer": rf"\frac{{{n}\pi}}{{2}}"} for n in (3, 5, 7, 9)]
OWN = """
calls = []

def late(completions, **columns):
    calls.append(1)
    return [float("inf") if len(calls) > 1 else 0.0 for _ in completions]

def nothing(completions, **columns):
    return [None for _ in completions]

def constant(completions, **columns):
    return [1.0 for _ in completions]

def needs(completions, solution, **columns):
    return [1.0 for _ in completions]
"""


@pytest.fixture
def recipe(small: Callable[[str], Path], tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of one GRPO stage with the given rewards and trainer settings, rolled out with transformers.

    Four questions whose answers need algebra, unless `rows` says otherwise; `keys` are of the stage.
    """

    def recipe(
        *rewards: Any,
        rows: list[dict[str, Any]] | Path = ROWS,
        family: str = "qwen3",
        keys: dict[str, Any] | None = None,
        **trainer: Any,
    ) -> Recipe:
        path = rows if isinstance(rows, Path) else tmp_path / "rows.jsonl"
        if not isinstance(rows, Path):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        stage = {
            "name": "grpo",
            "kind": "grpo",
            "data": "rows",
            "rewards": [*rewards],
            "trainer": {
                "max_steps": 3,
                "logging_steps": 1,
                "gradient_checkpointing": False,
                "per_device_train_batch_size": 8,
                "num_generations": 4,
                "max_completion_length": 8,
                "use_vllm": False,
                **trainer,
            },
            **(keys or {}),
        }
        return Recipe.model_validate(
            {
                "name": "rollouts",
                "model": {"path": str(small(family)), "dtype": "float32"},
                "data": {"rows": {"path": str(path)}},
                "stages": [stage],
            }
        )

    return recipe


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs a recipe's stage in this process, from `model_in` or the recipe's model; returns the logged steps."""

    def train(recipe: Recipe, name: str = "grpo", model_in: str | None = None) -> list[dict[str, Any]]:
        stage, out = recipe.stages[0], tmp_path / name
        assert stage.kind == "grpo"
        grpo.run(recipe, stage, model_in or recipe.model.path, out, "grpo")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if "reward" in line]

    return train


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file of rewards, each of which breaks or teaches nothing in a way of its own."""
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.fixture
def folder(tmp_path: Path, small: Callable[[str], Path]) -> Path:
    """A good recipe of a small Qwen2.5-VL with its data and task."""
    for number in range(6):
        picture(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "recipe.yaml").write_text(GOOD.format(model=small("qwen2_5_vl")))
    write(tmp_path / "cold.jsonl", [row(number) for number in range(6)])
    write(tmp_path / "rl.jsonl", [{**row(number), "question": f"Again {number}?"} for number in range(6)])
    write(tmp_path / "held.jsonl", [{**row(number), "question": f"Held out {number}?"} for number in range(4)])
    (tmp_path / "held.yaml").write_text("{name: held, path: held.jsonl, images: images, max_new_tokens: 9}\n")
    return tmp_path


@pytest.fixture
def check(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Checked]:
    monkeypatch.chdir(folder)

    def check(*options: str) -> Checked:
        capsys.readouterr()
        code = main(["recipe.yaml", "--check", *options])
        text = capsys.readouterr().out
        errors = [line for line in text.splitlines() if line.startswith("ERROR")]
        found = [re.fullmatch(r"ERROR (.*?) id=(.*?) (\w+): .*", line) for line in errors]
        assert all(found), text
        return Checked(code, [Found(match[1], match[3], match[2]) for match in found if match], text)

    return check
