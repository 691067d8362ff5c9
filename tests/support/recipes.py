"""A recipe of two stages, to be broken, and what is then said."""

from pathlib import Path

import pytest

from pipeline.recipe.file import load
from pipeline.recipe.problem import RecipeError

GOOD = """\
name: small
model: {path: some/model, dtype: float32}
data:
  cold: {path: rows.jsonl}
stages:
  - name: sft
    kind: sft
    data: cold
    loss: {think_weight: {start: 0.9, end: 0.1}}
    trainer:
      learning_rate: 1e-5
      max_steps: 3
  - name: grpo
    kind: grpo
    data: cold
    rewards: [accuracy, {use: format, weight: 0.1}]
    trainer: {num_generations: 8, per_device_train_batch_size: 8, use_vllm: false}
evaluate: {tasks: [scienceqa_img], checkpoints: [base, sft]}
"""


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(path, list(overrides))
    return [str(problem) for problem in caught.value.problems]
