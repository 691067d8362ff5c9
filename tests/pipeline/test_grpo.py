"""GRPO stages: what they start from, and what they learn from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import grpo
from pipeline.rollout.trainer import RolloutTrainer
from tests.support.questions import MakeRecipe, Train
from tests.support.steps import load


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "LoRA"])
def test_the_reference_of_each_stage_is_the_checkpoint_that_it_started_from(
    recipe: MakeRecipe, train: Train, contrast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Any
) -> None:
    """Two stages, of other lengths and groups. At its first step a policy still is its reference, later it is not."""
    references: list[torch.Tensor | None] = []
    show = grpo.show_progress

    def look(trainer: RolloutTrainer, *rest: Any) -> None:
        references.append(_reference(trainer))
        show(trainer, *rest)

    monkeypatch.setattr(grpo, "show_progress", look)
    shared = {"beta": 0.1, "learning_rate": 1e-2}
    first = recipe({"use": contrast}, keys={"lora": lora}, **shared)
    second = recipe({"use": contrast}, keys={"lora": lora}, **shared, num_generations=2, max_completion_length=16)
    start = first.model.path
    for stage, name in ((first, "first"), (second, "second")):
        steps = train(stage, name, start)
        assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert steps[-1]["kl"] > 1e-4
        found, expected = references[-1], load(start, torch.float32)(**_QUESTION).logits
        assert found is not None
        assert torch.allclose(found, expected, atol=1e-5)
        start = str(tmp_path / name / "model")
        assert not torch.allclose(found, load(start, torch.float32)(**_QUESTION).logits, atol=1e-2)
    assert "kl" not in train(recipe({"use": contrast}, keys={"lora": lora}, beta=0.0), "no kl", start)[0]


_QUESTION = {"input_ids": torch.arange(20, 40)[None], "attention_mask": torch.ones(1, 20, dtype=torch.long)}


def _reference(trainer: RolloutTrainer) -> torch.Tensor | None:
    """The reference model's logits, taken as the trainer takes them."""
    with torch.no_grad():
        if trainer.ref_model is not None:
            return trainer.ref_model(**_QUESTION).logits
        if trainer.beta == 0:
            return None
        with trainer.model.disable_adapter():
            return trainer.model(**_QUESTION).logits


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"])
def test_every_loss_of_trl_passes_through(recipe: MakeRecipe, train: Train, contrast: str, loss_type: str) -> None:
    level = {"importance_sampling_level": "sequence"} if loss_type == "luspo" else {}
    steps = train(recipe({"use": contrast}, loss_type=loss_type, max_steps=1, **level))
    assert steps[0]["grad_norm"] > 0


def test_truncated_completions_teach_nothing_when_they_are_masked(
    recipe: MakeRecipe, train: Train, contrast: str
) -> None:
    """Four tokens end no response here."""
    masked = train(recipe({"use": contrast}, max_completion_length=4, mask_truncated_completions=True))
    assert all(step["completions/clipped_ratio"] == 1 and step["grad_norm"] == 0 for step in masked)
    kept = train(recipe({"use": contrast}, max_completion_length=4), "kept")
    assert all(step["grad_norm"] > 0 for step in kept)
