"""What a recipe will do, counted from its rows before anything is trained: steps, tokens, checkpoints, disk."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.check.memory import Memory, checkpoint_bytes, memory, model_sizes
from pipeline.checkpoint.manifest import format_bytes
from pipeline.data.prepare import CheckedData
from pipeline.launch import processes, sharding
from pipeline.recipe.problem import Problem
from pipeline.recipe.schema import GrpoStage, Recipe, SftStage
from pipeline.recipe.trainer_arguments import KEPT_CHECKPOINTS


@dataclass(frozen=True)
class StagePlan:
    """One stage. Lengths are (median, 95th percentile) in tokens, sizes are bytes."""

    name: str
    label: str
    rows: int
    left_out: int
    pictured: int | None  # rows with images; None where the model sees none and no row has one
    data_bytes: int  # of the rows and their images in the cache of `datasets`
    steps: int
    rows_a_step: int
    completions: int | None  # a prompt; None for sft
    tokens: int  # trained on, images included; of grpo's completions the most there can be
    prompt: tuple[int, int]
    think: tuple[int, int] | None
    answer: tuple[int, int] | None
    answer_share: float | None  # of the loss, were each token weighed alike
    saves: int
    model_bytes: int
    checkpoint_bytes: int
    kept: int  # checkpoints at a time, the one being written included
    memory: Memory

    @property
    def peak_bytes(self) -> int:
        return min(self.saves, self.kept) * self.checkpoint_bytes + self.model_bytes


def stage_plan(recipe: Recipe, stage: SftStage | GrpoStage, data: CheckedData, config: Any) -> StagePlan:
    """`config` is the model's."""
    setting = {**stage.settings(), "save_total_limit": KEPT_CHECKPOINTS, **stage.trainer}
    usable, report = data.usable(), data.report
    every = {"prompt": report.prompt_tokens, "think": report.think_tokens, "answer": report.answer_tokens}
    lengths = {part: [counts[index] for index in usable] for part, counts in every.items()}
    batch = setting["per_device_train_batch_size"] * processes()
    if stage.kind == "sft":
        batches, completions = math.ceil(len(usable) / batch), None
        rows_a_step = batch * setting["gradient_accumulation_steps"]
        longest = 0
    else:
        completions, longest = setting["num_generations"], setting["max_completion_length"]
        generation = stage.completions_per_generation(processes())
        prompts = max(generation // completions, 1)
        batches = len(usable) // prompts * setting["num_iterations"] * max(generation // batch, 1)
        rows_a_step = max(batch * setting["gradient_accumulation_steps"] // completions, 1)
    steps = math.ceil(setting["num_train_epochs"] * math.ceil(batches / setting["gradient_accumulation_steps"]))
    if setting["max_steps"] > 0:
        steps = setting["max_steps"]
    mean = sum(map(sum, lengths.values())) / max(len(usable), 1)
    sizes = model_sizes(recipe, stage, config)
    longest_row = max((sum(counts) for counts in zip(*lengths.values(), strict=True)), default=0)
    trains, pictured = stage.kind == "sft", sum(bool(report.pictures[index]) for index in usable)
    both = sum(lengths["think"]) + sum(lengths["answer"])
    return StagePlan(
        name=stage.name,
        label=stage.label,
        rows=len(usable),
        left_out=len(data.bad),
        pictured=pictured if pictured or hasattr(config, "vision_config") else None,
        data_bytes=sum(Path(file["filename"]).stat().st_size for file in data.rows.cache_files),
        steps=steps,
        rows_a_step=rows_a_step,
        completions=completions,
        tokens=round(steps * rows_a_step * (completions or 1) * (mean + longest)),
        prompt=_percentiles(lengths["prompt"]),
        think=_percentiles(lengths["think"]) if trains else None,
        answer=_percentiles(lengths["answer"]) if trains else None,
        answer_share=sum(lengths["answer"]) / both if trains and both else None,
        saves=_saves(setting, steps),
        model_bytes=sizes.total * sizes.compute_bytes,
        checkpoint_bytes=checkpoint_bytes(sizes),
        kept=setting["save_total_limit"] + 1,
        memory=memory(sizes, stage, config, longest_row + longest),
    )


def _percentiles(lengths: Sequence[int]) -> tuple[int, int]:
    if not lengths:
        return 0, 0
    median, high = np.percentile(lengths, [50, 95])
    return round(median), round(high)


def _saves(setting: dict[str, Any], steps: int) -> int:
    if setting["save_strategy"] == "no":
        return 0
    if setting["save_strategy"] == "epoch":
        epochs: float = setting["num_train_epochs"]
        return math.ceil(epochs)
    every: float = setting["save_steps"] if setting["save_steps"] >= 1 else setting["save_steps"] * steps
    return max(steps // max(round(every), 1), 1)  # a run that ends saves too


def needed_bytes(plans: Sequence[StagePlan]) -> int:
    """The most that the run folder holds at a time: what complete stages handed on, and one stage's checkpoints."""
    done = [0]
    for plan in plans:
        done.append(done[-1] + plan.model_bytes)
    return max((before + plan.peak_bytes for before, plan in zip(done, plans, strict=False)), default=0)


def disk_problem(plans: Sequence[StagePlan], root: Path) -> Problem | None:
    """That the run would not fit on its disk."""
    written = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())  # of a run that goes on
    need, free = needed_bytes(plans), free_bytes(root) + written
    if need <= free:
        return None
    message = f"the run needs {format_bytes(need)} at a time and {format_bytes(free)} are free; "
    return Problem(str(root), "disk_space", f"{message}save less, or run on another disk")


def free_bytes(root: Path) -> int:
    """On the disk where `root` is, or will be."""
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def describe(plans: Sequence[StagePlan], root: Path) -> list[str]:
    """The plan in a few lines."""
    lines: list[str] = []
    for number, plan in enumerate(plans, 1):
        left_out = f" ({plan.left_out:,} left out)" if plan.left_out else ""
        asked = f"{plan.rows_a_step:,} prompts x {plan.completions} completions" if plan.completions else ""
        lines += [
            f"stage {number}, {plan.label}: {plan.rows:,} rows{left_out}, {plan.steps:,} steps of "
            f"{asked or f'{plan.rows_a_step:,} rows'}, {'at most ' if asked else ''}{plan.tokens:,} tokens",
            f"  tokens, median (95%): prompt {_pair(plan.prompt)}"
            + (f", think {_pair(plan.think)}, answer {_pair(plan.answer)}" if plan.think and plan.answer else ""),
        ]
        if plan.answer_share is not None:
            lines.append(f"  the answer has {plan.answer_share:.1%} of the tokens, and of an ordinary SFT loss")
        if plan.pictured is not None:
            lines.append(f"  images: {plan.pictured:,} rows have one or more, {plan.rows - plan.pictured:,} none")
        lines.append(
            f"  checkpoints: {plan.saves:,} of {format_bytes(plan.checkpoint_bytes)}, at most {plan.kept} at a time; "
            f"hands on {format_bytes(plan.model_bytes)}"
        )
        lines += _on_a_gpu(plan.memory)
    lines.append(f"disk: {format_bytes(needed_bytes(plans))} at a time, {format_bytes(free_bytes(root))} free")
    if cached := sum(plan.data_bytes for plan in plans):
        from datasets import config

        folder = str(config.HF_DATASETS_CACHE).replace(str(Path.home()), "~")
        lines.append(f"data cache: rows and images take {format_bytes(cached)} in {folder}")
    return lines


def _on_a_gpu(memory: Memory) -> list[str]:
    terms = {name: value for name, value in asdict(memory).items() if not name.startswith("engine") and value}
    mode = "not sharded" if sharding() == "none" else sharding()
    said = f"  one process of {processes()}, {mode}: {format_bytes(memory.trainer)} of memory, "
    said += ", ".join(f"{name} {format_bytes(value)}" for name, value in terms.items())
    if memory.engine_weights:
        kept = f"vLLM {memory.engine_share:.0%} of the GPU" if memory.engine_share else "vLLM asleep while it trains"
        said += f"; {kept}, its weights {format_bytes(memory.engine_weights)}"
    if not torch.cuda.is_available():
        return [said]
    gpu = torch.cuda.get_device_properties(0).total_memory
    if memory.trainer + memory.engine_share * gpu <= gpu:
        return [said]
    advice = "recipes/README.md has what to change first"
    if sharding() == "none" and processes() > 1:
        advice = "accelerate launch --config_file recipes/accelerate/fsdp2.yaml cuts the model over all GPUs"
    return [said, f"  WARNING: that is more than the GPU's {format_bytes(gpu)}; {advice}"]


def as_json(plans: Sequence[StagePlan], root: Path) -> dict[str, Any]:
    return {
        "stages": [asdict(plan) for plan in plans],
        "disk_bytes": needed_bytes(plans),
        "free_bytes": free_bytes(root),
    }


def _pair(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]:,} ({numbers[1]:,})"
