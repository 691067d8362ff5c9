"""What a stage leaves for the next: a full checkpoint, whether all weights were trained or an adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipeline import grpo, sft
from pipeline.folder import RunFolder
from pipeline.recipe import Recipe

COMMON = {"max_steps": 1, "logging_steps": 1, "learning_rate": 1e-2, "gradient_checkpointing": False}
SFT = {
    "name": "sft",
    "kind": "sft",
    "data": "sft",
    "loss": {"think_weight": {"start": 0.9, "end": 0.1}},
    "trainer": {**COMMON, "per_device_train_batch_size": 4},
}
GRPO = {
    "name": "grpo",
    "kind": "grpo",
    "data": "rl",
    "rewards": ["accuracy", "format"],
    "trainer": {
        **COMMON,
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 8,
        "use_vllm": False,
    },
}


def _recipe(assets: Path, *stages: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "model": {"path": str(assets / "model"), "dtype": "float32"},
            "data": {name: {"path": str(assets / f"{name}.parquet")} for name in ("sft", "rl")},
            "stages": list(stages),
        }
    )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).named_parameters())


def test_an_adapter_is_merged_into_a_full_checkpoint(assets: Path, tmp_path: Path) -> None:
    recipe = _recipe(assets, {**SFT, "lora": {"r": 4, "alpha": 8, "target_modules": "all-linear"}})
    finished = sft.run(recipe, recipe.stages[0], recipe.model.path, tmp_path, "sft")
    assert (finished.steps, finished.rollouts) == (1, None)
    assert not list(tmp_path.rglob("adapter_*"))
    before, after = _weights(assets / "model"), _weights(tmp_path / "model")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name or "attn" in name or "mlp" in name for name in changed)
    assert not any("embed_tokens" in name or "lm_head" in name or "norm" in name for name in changed)
    assert AutoProcessor.from_pretrained(tmp_path / "model").chat_template


def test_rollouts_by_transformers_start_from_the_last_folder(assets: Path, tmp_path: Path) -> None:
    recipe = _recipe(assets, SFT, GRPO)
    sft.run(recipe, recipe.stages[0], recipe.model.path, tmp_path / "sft", "sft")
    finished = grpo.run(recipe, recipe.stages[1], str(tmp_path / "sft" / "model"), tmp_path / "grpo", "grpo")
    assert (finished.steps, finished.rollouts) == (1, "transformers")
    # Nothing that an untrained model says in eight tokens is well-formed: no contrast, no step, the same weights.
    handed, left = _weights(tmp_path / "sft" / "model"), _weights(tmp_path / "grpo" / "model")
    assert all(torch.equal(handed[name], left[name]) for name in handed)
    assert any(not torch.equal(handed[name], weight) for name, weight in _weights(assets / "model").items())


def test_a_damaged_hand_off_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.model("sft").mkdir(parents=True)
    (folder.model("sft") / "model.safetensors").write_bytes(b"weights")
    assert folder.completed("sft") is None
    folder.complete("sft", {"steps": 3})
    folder.verify("sft")
    assert folder.completed("sft") is not None
    (folder.model("sft") / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(ValueError, match=r"model\.safetensors is missing or differs"):
        folder.verify("sft")
