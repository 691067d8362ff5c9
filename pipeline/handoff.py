"""What crosses the border between two stages: a full checkpoint in a folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, Trainer

from pipeline.manifest import room
from pipeline.recipe import Lora


@dataclass(frozen=True)
class Finished:
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


def save_model(trainer: Trainer, out: Path, dtype: str, rollouts: str | None) -> Finished:
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
    weights = sum(weight.nbytes for weight in trainer.model.parameters())
    with room(out, weights if trainer.is_world_process_zero() else 0, "the model"):
        if adapted:
            if trainer.is_world_process_zero():
                _merged(trainer, out / "adapter").save_pretrained(folder)
                trainer.processing_class.save_pretrained(folder)
        else:
            trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing reads it
    trainer.accelerator.wait_for_everyone()
    return Finished(steps=trainer.state.global_step, rollouts=rollouts)


def _merged(trainer: Trainer, scratch: Path) -> Any:
    """The base with the trained adapter added. A 4-bit base is loaded again, whole: its rounding is not kept."""
    base = trainer.model.get_base_model()
    if not getattr(base, "is_loaded_in_4bit", False):
        return trainer.model.merge_and_unload()
    trainer.model.save_pretrained(scratch)
    whole = type(base).from_pretrained(base.name_or_path, **trainer.args.model_init_kwargs)
    merged = PeftModel.from_pretrained(whole, scratch).merge_and_unload()
    shutil.rmtree(scratch)
    return merged
