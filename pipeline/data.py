"""Canonical rows as what TRL's trainers take: conversations, images, and the columns that rewards read."""

from typing import TYPE_CHECKING, Any

from eval.rows import prompt, read
from eval.task import load_task
from pipeline.recipe import Data, Recipe, mistakes
from rewards.response import render

if TYPE_CHECKING:
    import datasets


def check_data(recipe: Recipe) -> None:
    """Read every data set of the recipe's stages and tasks once; what was read is cached for its stage.

    Raises:
        RecipeError: one cannot be read, or lacks what its stage needs.
    """
    for stage in recipe.stages:
        with mistakes(f"data.{stage.data}", "data"):
            rows_of = sft_rows if stage.kind == "sft" else grpo_rows
            rows_of(recipe.data[stage.data])
    for task in recipe.evaluate.tasks if recipe.evaluate else []:
        with mistakes(task, "task_data"):
            read(load_task(task).source())


def sft_rows(data: Data) -> "datasets.Dataset":
    """Prompt-completion conversations; `images` where the rows have any.

    Raises:
        ValueError: the rows have no think traces.
    """
    rows = read(data.source())
    if "think" not in rows.column_names:
        raise ValueError(f"{data.path}: an sft stage trains on think traces, and the rows have no column 'think'")
    replaced = [name for name in rows.column_names if name != "images"]
    return rows.map(_conversation, remove_columns=replaced, desc="prompts")


def grpo_rows(data: Data) -> "datasets.Dataset":
    """Conversational prompts beside all columns of the rows but the think trace, which no rollout may see."""
    rows = read(data.source())
    hidden = [name for name in ("think", "question") if name in rows.column_names]
    return rows.map(lambda row: {"prompt": prompt(row["question"])}, remove_columns=hidden, desc="prompts")


def _conversation(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": prompt(row["question"]),
        "completion": [{"role": "assistant", "content": render(row["think"], row["answer"])}],
    }
