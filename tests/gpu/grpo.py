"""A whole GRPO step of Qwen2.5-VL-3B's configuration: seconds of its parts, the memory it takes, beside stock TRL's."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from eval.chat import ChatFormat
from eval.data.rows import prompt
from eval.decode import vision_token_ids
from pipeline.handoff import adapter_settings
from pipeline.recipe.schema import Lora
from pipeline.recipe.trainer_arguments import sampling_settings
from pipeline.rollout.alarms import DIFFERENCE
from pipeline.rollout.trainer import RolloutTrainer
from tests.gpu.check import Finding, Setting, apart, rounded
from tests.gpu.memory import used_bytes
from tests.gpu.sizes import saved_vl
from tests.gpu.timing import noise
from tests.support.measures import StepEnds, timed
from tests.support.pushes import contrast
from tests.support.steps import grpo_stage

PARTS = ("rollout", "push", "reward", "training")
STEPS = 3  # with one that is left out


def step(setting: Setting) -> Iterator[Finding]:
    """All weights, with an engine that sleeps while they are trained; where that does not fit, LoRA without sleep."""
    apart(saved_vl, setting)
    for way in ("full", "lora"):
        ours = _tried(setting, "ours", way)
        yield _finding(f"grpo_3b.{way}", ours, setting.tiny)
        if "parts" in ours:
            break
    theirs = _tried(setting, "trl", way)
    yield _finding(f"grpo_3b.{way}_trl", theirs, setting.tiny)
    if "parts" in ours and "parts" in theirs:
        ratio = sum(ours["parts"].values()) / sum(theirs["parts"].values())
        yield Finding("grpo_3b.step_ratio", rounded(ratio), "ratio", f"{way}: our step's seconds by stock TRL's")


def _tried(setting: Setting, who: str, way: str) -> dict[str, Any]:
    try:
        return apart(_measured, setting, who, way)
    except RuntimeError as error:
        return {"error": str(error).strip().splitlines()[-1][:300]}


def _finding(name: str, found: dict[str, Any], tiny: bool) -> Finding:
    if "error" in found:
        return Finding(name, None, "s", found["error"])
    parts = ", ".join(f"{part} {found['parts'][part]:.3g}" for part in PARTS)
    memory = ", ".join(f"{when} {value / 1e9:.1f}" for when, value in found["memory"].items())
    gap = f"; engine and trainer {found['gap']:.2g} nats apart on average" if found["gap"] is not None else ""
    detail = (
        f"a step of {found['completions']} completions of {found['tokens']} tokens, an image each: {parts} s; GB of "
    )
    detail += f"{'main memory' if tiny else 'the GPU'} {memory}; {found['rate']:,.0f} tokens/s sampled{gap}"
    return Finding(name, rounded(sum(found["parts"].values())), "s", detail)


def _measured(setting: Setting, who: str, way: str) -> dict[str, Any]:
    """The parts of a step in seconds, the median of those after the first, and the memory at its moments in bytes."""
    memory = {"at the start": used_bytes()}
    trainer = _trainer(setting, who, way)
    memory["with model and engine"] = used_bytes()
    seconds = _timed(trainer, memory)
    ends = StepEnds()
    trainer.add_callback(ends)
    trainer.train()
    parts = {name: float(np.median(times[1:])) for name, times in seconds.items()}
    parts["rollout"] -= parts["push"]
    whole = float(np.median(np.diff(ends.times)))
    parts["training"] = whole - sum(parts.values())
    tokens = trainer.args.max_completion_length
    completions = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    logged = [line[DIFFERENCE] for line in trainer.state.log_history if DIFFERENCE in line]
    rate = completions * tokens / parts["rollout"]
    found = {"parts": parts, "completions": completions, "tokens": tokens, "rate": rate}
    return {**found, "memory": {**memory, "at the end": used_bytes()}, "gap": max(logged, default=None)}


def _timed(trainer: Any, memory: dict[str, int]) -> dict[str, list[float]]:
    """Notes seconds of generations, pushes and rewards, and what is taken of the GPU after each kind of call."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(taken: float, _: Any) -> None:
            seconds[name].append(taken)
            memory[f"after {name}"] = used_bytes()

        return timed(call, note)

    trainer._generate_single_turn = noted("rollout", trainer._generate_single_turn)
    trainer._calculate_rewards = noted("reward", trainer._calculate_rewards)
    if trainer.use_vllm:
        trainer.vllm_generation.sync_weights = noted("push", trainer.vllm_generation.sync_weights)
    else:
        seconds["push"] = [0.0, 0.0]
    return seconds


def _trainer(setting: Setting, who: str, way: str) -> Any:
    """Ours, or TRL's own with the same arguments; in a rehearsal TRL's rolls out with transformers."""
    folder, tokens = str(saved_vl(setting)), 8 if setting.tiny else 512
    chat, vllm = ChatFormat(folder), not (setting.tiny and who == "trl")
    lengths = {"min_tokens": tokens, "ignore_eos": True} if vllm else {"min_new_tokens": tokens}
    settings = {
        "output_dir": str(setting.folder / who),
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    settings |= {"use_cpu": setting.tiny, "bf16": not setting.tiny, "logging_steps": 1, "max_steps": STEPS}
    settings |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_generations": 8}
    settings |= {
        "max_completion_length": tokens,
        "learning_rate": 1e-6,
        "gradient_checkpointing": True,
        "use_vllm": vllm,
    }
    settings |= {"vllm_max_model_length": 128 if setting.tiny else 2048, "vllm_gpu_memory_utilization": 0.2}
    settings |= {"vllm_enable_sleep_mode": way == "full" and not setting.tiny, "optim": "adamw_torch_fused"}
    settings["generation_kwargs"] = sampling_settings(lengths, vision_token_ids(chat.config), vllm)
    dtype = "bfloat16" if way == "lora" and not setting.tiny else "float32"
    settings["model_init_kwargs"] = {"dtype": dtype}
    side = 112 if setting.tiny else 504  # 324 tokens
    rows = {
        "prompt": [prompt(f"What is {number} plus 2?") for number in range(8)],
        "images": [[noise(number, side)] for number in range(8)],
    }
    arguments = {"model": folder, "args": GRPOConfig(**settings), "train_dataset": Dataset.from_dict(rows)}
    arguments |= {"reward_funcs": [contrast]}
    arguments |= adapter_settings(Lora(r=64, alpha=128) if way == "lora" else None, dtype)
    if who == "trl":
        return GRPOTrainer(**arguments, processing_class=chat.processor)
    return RolloutTrainer(**arguments, chat=chat, stage=grpo_stage(max_logp_difference=1.0))
