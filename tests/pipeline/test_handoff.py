"""What a stage leaves for the next: a full checkpoint, whether all weights were trained or an adapter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoProcessor

from eval.chat import ChatFormat
from pipeline import grpo, sft
from pipeline.checkpoint.run_folder import RunFolder
from pipeline.recipe.schema import Recipe
from tests.support.steps import load

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


def _recipe(model: Path, sft_data: Path, rl_data: Path, *stages: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"sft": {"path": str(sft_data)}, "rl": {"path": str(rl_data)}},
            "stages": list(stages),
        }
    )


def _demo_recipe(assets: Path, *stages: dict[str, Any]) -> Recipe:
    return _recipe(assets / "model", assets / "sft.parquet", assets / "rl.parquet", *stages)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load(str(folder), torch.float32).named_parameters())


def test_an_adapter_is_merged_into_a_full_checkpoint(assets: Path, tmp_path: Path) -> None:
    recipe = _demo_recipe(assets, {**SFT, "lora": {"r": 4, "alpha": 8, "target_modules": "all-linear"}})
    finished = sft.run(recipe, recipe.stages[0], recipe.model.path, tmp_path, "sft")
    assert (finished.steps, finished.rollouts) == (1, None)
    assert not list((tmp_path / "model").rglob("adapter_*"))
    before, after = _weights(assets / "model"), _weights(tmp_path / "model")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name or "attn" in name or "mlp" in name for name in changed)
    assert not any("embed_tokens" in name or "lm_head" in name or "norm" in name for name in changed)
    assert AutoProcessor.from_pretrained(tmp_path / "model").chat_template


def test_rollouts_by_transformers_start_from_the_last_folder(assets: Path, tmp_path: Path) -> None:
    recipe = _demo_recipe(assets, SFT, GRPO)
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
    with pytest.raises(ValueError, match=r"model\.safetensors is not what was written"):
        folder.verify("sft")


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"{a}+1?", "think": f"I see {a}.", "answer": str(a + 1)} for a in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_4bit_base_is_merged_whole_and_in_the_recipes_dtype(
    small: Callable[[str], Path], sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the adapter added may differ from the base, not the rounding to four bits it was trained on."""
    lora = {"r": 4, "alpha": 8, "load_in_4bit": True}
    recipe = _recipe(small("llama"), sums, sums, {**SFT, "lora": lora})
    trainers: list[Any] = []
    train = sft.SegmentTrainer.train
    monkeypatch.setattr(
        sft.SegmentTrainer, "train", lambda self, **kwargs: (trainers.append(self), train(self, **kwargs))
    )
    sft.run(recipe, recipe.stages[0], recipe.model.path, tmp_path, "sft")
    [trainer] = trainers
    assert trainer.model.get_base_model().is_loaded_in_4bit
    before, after = _weights(small("llama")), _weights(tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118
    name = "model.layers.0.self_attn.q_proj"
    layer = trainer.model.get_submodule(f"base_model.model.{name}")
    # TRL keeps the adapter of a 4-bit base in bfloat16; its product is added in the recipe's dtype.
    down, up = (matrix["default"].weight.float() for matrix in (layer.lora_A, layer.lora_B))
    added = layer.scaling["default"] * up @ down
    assert added.abs().max() > 0
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + added, atol=1e-6, rtol=0)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not (tmp_path / "adapter").exists()
    assert not list((tmp_path / "model").rglob("adapter*"))
    assert ChatFormat(str(tmp_path / "model")).prompt_text("?") == ChatFormat(str(small("llama"))).prompt_text("?")


def test_a_bfloat16_recipe_moves_weights_that_bfloat16_would_round_back(
    small: Callable[[str], Path], sums: Path, tmp_path: Path
) -> None:
    """A step of 1e-6, GRPO's usual, moves every weight; what is handed on is bfloat16, as the recipe says."""
    tiny = {**SFT, "trainer": {**SFT["trainer"], "max_steps": 2, "learning_rate": 1e-6, "save_steps": 1}}
    recipe = _recipe(small("llama"), sums, sums, tiny)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "bfloat16"})})
    sft.run(recipe, recipe.stages[0], recipe.model.path, tmp_path, "sft")
    before, saved = (
        load_file(folder / "model.safetensors") for folder in (small("llama"), tmp_path / "checkpoints/checkpoint-1")
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert saved[name].dtype == torch.float32
    assert (saved[name] != before[name].bfloat16().float()).float().mean() > 0.9
    handed_on = load_file(tmp_path / "model" / "model.safetensors")
    assert {weight.dtype for weight in handed_on.values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "adapter"])
def test_the_kl_reference_is_the_model_that_the_stage_started_from(
    small: Callable[[str], Path],
    sums: Path,
    contrast: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lora: dict[str, int] | None,
) -> None:
    """SFT with an adapter, merged; then GRPO with beta > 0, all weights or a fresh adapter."""
    rl = {**GRPO["trainer"], "max_steps": 3, "beta": 0.1, "learning_rate": 5e-2}
    stages = (
        {**SFT, "lora": {"r": 4, "alpha": 8}},
        {**GRPO, "rewards": [{"use": contrast}], "lora": lora, "trainer": rl},
    )
    recipe = _recipe(small("llama"), sums, sums, *stages)
    sft.run(recipe, recipe.stages[0], recipe.model.path, tmp_path / "sft", "sft")
    merged = tmp_path / "sft" / "model"
    seen: list[dict[str, torch.Tensor]] = []
    score = grpo.RolloutTrainer._generate_and_score_completions
    monkeypatch.setattr(
        grpo.RolloutTrainer,
        "_generate_and_score_completions",
        lambda self, inputs: (seen.append(score(self, inputs)), seen[-1])[1],
    )
    grpo.run(recipe, recipe.stages[1], str(merged), tmp_path / "grpo", "grpo")
    last, folders = seen[-1], (merged, tmp_path / "grpo" / "model")
    reference, policy = (_completion_log_probs(load(str(folder), torch.float32), last) for folder in folders)
    kept = last["completion_mask"].bool()
    torch.testing.assert_close(last["ref_per_token_logps"][kept], reference[kept], atol=1e-4, rtol=0)
    assert (policy - reference)[kept].abs().max() > 1e-2  # the policy has left it
    metrics = [json.loads(line) for line in (tmp_path / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics[2]["kl"] > 0


def _completion_log_probs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    ids = torch.cat((batch["prompt_ids"], batch["completion_ids"]), dim=1)
    mask = torch.cat((batch["prompt_mask"], batch["completion_mask"]), dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=positions).logits[:, :-1]
    log_probs = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return log_probs[:, batch["prompt_ids"].shape[1] - 1 :]
