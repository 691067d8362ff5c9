"""What crosses the border between two stages: a full checkpoint in a folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from eval.adapter import merge_adapter
from pipeline.checkpoint.manifest import disk_room
from pipeline.checkpoint.trainer import elements
from pipeline.recipe.schema import Lora


@dataclass(frozen=True)
class StageResult:
    """What a stage reports when it is done."""

    steps: int
    rollouts: str | None  # `vllm` or `transformers`; None for sft


def adapter_settings(lora: Lora | None, dtype: str) -> dict[str, Any]:
    """What a trainer needs for the recipe's adapter, in peft's own terms; nothing when all weights are trained."""
    if lora is None:
        return {}
    adapter = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    if not lora.load_in_4bit:
        return {"peft_config": adapter}
    quantization = BitsAndBytesConfig(  # QLoRA, arXiv 2305.14314: NF4 with double quantization
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"peft_config": adapter, "quantization_config": quantization}


def save_model(trainer: Trainer, out: Path, dtype: str, rollouts: str | None) -> StageResult:
    """Write `out/model`, the next stage's whole input: weights of `dtype` in safetensors, processor, chat template.

    An adapter is merged into its base first, so that the next stage's reference model and its rollout engine start from
    the same weights. Called by every rank.

    Raises:
        RuntimeError: training ended before its last step.
        RecipeError: the disk is full.
    """
    if trainer.state.global_step < trainer.state.max_steps:
        raise RuntimeError(f"training stopped at step {trainer.state.global_step} of {trainer.state.max_steps}")
    folder = out / "model"
    adapted = isinstance(trainer.model, PeftModel)
    if not adapted and not trainer.is_deepspeed_enabled:  # which saves the weights that it computes with
        trainer.model.to(getattr(torch, dtype))
    weights = sum(elements(weight) * int(weight.element_size()) for weight in trainer.model.parameters())
    with disk_room(out, weights if trainer.is_world_process_zero() else 0, "the model"):
        if adapted:
            _save_merged(trainer, folder, out / "adapter")
        else:
            trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing reads it
    trainer.accelerator.wait_for_everyone()
    return StageResult(steps=trainer.state.global_step, rollouts=rollouts)


def _save_merged(trainer: Trainer, folder: Path, scratch: Path) -> None:
    """The base with the trained adapter added. Called by every rank.

    A base that was sharded, or rounded to 4 bits, is loaded again by the first, whole, into main memory.
    """
    base = trainer.model.get_base_model()
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    again = sharded or getattr(base, "is_loaded_in_4bit", False)
    if again:
        trainer.save_model(str(scratch))  # the adapter alone, gathered
        unset_hf_deepspeed_config()  # or the base would be sharded while it is loaded
    if not trainer.is_world_process_zero():
        return
    if again:
        merge_adapter(base.name_or_path, scratch, **trainer.args.model_init_kwargs).save_pretrained(folder)
        shutil.rmtree(scratch)
    else:
        trainer.model.merge_and_unload().save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
