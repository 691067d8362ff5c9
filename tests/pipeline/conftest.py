"""GRPO stages of small models, trained in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import grpo
from pipeline.recipe.schema import Recipe

ROWS = [{"id": f"q{n}", "question": f"Half of {n} pi?", "answer": rf"\frac{{{n}\pi}}{{2}}"} for n in (3, 5, 7, 9)]


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
