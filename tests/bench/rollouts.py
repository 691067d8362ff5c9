"""GRPO steps at mixed completion lengths, rolled out by vLLM and by transformers' `generate`; what a weight push costs.

An engine cannot be taken down in a process, so each backend has a child of its own (`rollouts.py BACKEND POLICY`), one
after the other. A child's first step warms it up and is left out.
"""

import argparse
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig
from trl.generation.vllm_generation import VLLMGeneration

from eval.chat import ChatFormat
from eval.data.rows import prompt
from pipeline.rollout.trainer import RolloutTrainer
from tests.support.families import FAMILIES, save, save_retied
from tests.support.measures import StepEnds, timed
from tests.support.steps import grpo_stage

PUSHES = Path(__file__).resolve().parents[1] / "support" / "pushes.py"
ON_CPU = not torch.cuda.is_available()
WIDTH, LAYERS = (128, 4) if ON_CPU else (2048, 12)
COMPLETIONS, GROUP, LIMIT, STEPS = 128, 8, 512, 4  # in a step, of a prompt, tokens of one, with the warm-up
END, LOOP, LEAVE = 1 / 40, 1 / 400, 1 / 400  # a token's chances to be the last, to start a loop, to leave it
QUIET = {"TOKENIZERS_PARALLELISM": "false", "VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error"}
EAGER = {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_CI_ENV": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB; no compilation


def results() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        policy = Path(name) / "policy"
        size = _save_policy(policy)
        theirs, ours = (_printed(__file__, backend, str(policy))[-1] for backend in ("transformers", "vllm"))
        gap, table = _gap(Path(name))
    device = f"CPU, {torch.get_num_threads()} threads" if ON_CPU else torch.cuda.get_device_name()
    what = f"{size / 1e6:.1f}M parameters, {device}, {STEPS - 1} steps of {COMPLETIONS} completions after a warm-up"
    rate, their_rate = (np.median(np.sum(child["lengths"], 1) / child["generate"]) for child in (ours, theirs))
    rates = f"vLLM {rate:,.0f} tokens/s ({_lengths(ours)}), transformers {their_rate:,.0f} ({_lengths(theirs)}); {what}"
    step, their_step, push = (np.median(times) for times in (ours["step"], theirs["step"], ours["push"]))
    times = [f"{_range(child['step'])}, of it rollouts {_range(child['generate'])}" for child in (ours, theirs)]
    return [
        _result("rollout_vllm_over_transformers", rate / their_rate, "ratio", rates),
        _result(
            "grpo_step_vllm_over_transformers",
            their_step / step,
            "ratio",
            f"vLLM {times[0]}; transformers {times[1]}; {what}",
        ),
        _result("engine_start_seconds", ours["start"][0], "s", f"in the trainer's process, without imports; {what}"),
        _result("weight_push_seconds", push, "s", f"median of {_range(ours['push'])}; {what}"),
        _result("weight_push_gap", gap, "nats", f"largest after a push; before > after by step: {table}"),
    ]


def _result(name: str, value: float, unit: str, detail: str) -> dict[str, Any]:
    return {"name": name, "value": float(f"{value:.3g}"), "unit": unit, "detail": detail}


def _range(seconds: list[float]) -> str:
    return f"{min(seconds):.3g} to {max(seconds):.3g} s"


def _lengths(child: dict[str, Any]) -> str:
    return "min {:.0f}, median {:.0f}, p90 {:.0f}, max {:.0f}".format(*np.quantile(child["lengths"], [0, 0.5, 0.9, 1]))


def _printed(*command: str) -> list[Any]:
    """What a script prints as JSON, with the threads and the allocator of this process."""
    environment = {**os.environ, **QUIET, **(EAGER if ON_CPU else {})}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[:2]} ended with {done.returncode}: {done.stderr[-3000:]}")
    return [json.loads(each) for each in re.findall(r"\{.*?\}", done.stdout)]  # two at a time may share a line


def _gap(folder: Path) -> tuple[float, str]:
    """Nats between the next-token log-probabilities of engine and trainer, at each push of tests/support/pushes.py."""
    tied = str(save("qwen2_5_vl", folder / "tied"))
    untied = str(save_retied(folder / "tied", folder / "untied", tied=False))
    cases = [{"name": "full, tied head", "model": tied}, {"name": "full, own head", "model": untied}]
    cases += [{"name": "LoRA", "model": tied, "lora": True}, {"name": "vision tower", "model": tied, "only": "visual"}]
    found = _printed(str(PUSHES), *map(json.dumps, cases))
    if failed := [line for line in found if "error" in line]:
        raise RuntimeError(failed)
    rows: dict[str, list[str]] = {str(case["name"]): [] for case in cases}
    for line in found:
        rows[line["case"]].append(f"{line['before']:.2g} > {line['after']:.0e}")
    return max(line["after"] for line in found), "; ".join(f"{name} {', '.join(row)}" for name, row in rows.items())


def _save_policy(folder: Path) -> int:
    """Write a Qwen3 that says tokens at random, mostly few, and sometimes repeats one of them for long; its size.

    The first coordinate of an embedding outweighs what the layers add, and so does the second of the repeated token: a
    head that reads only these two sets the chances of the next token. The layers are computed all the same.
    """
    torch.manual_seed(0)
    model, tokenizer = FAMILIES["qwen3"]()
    config = model.config
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = WIDTH, 3 * WIDTH, LAYERS
    config.num_attention_heads, config.num_key_value_heads = WIDTH // 32, WIDTH // 64
    config.layer_types, config.tie_word_embeddings = ["full_attention"] * LAYERS, False
    config.initializer_range = 0.02
    model = type(model)(config)
    tokens, end, loop = config.vocab_size, tokenizer.eos_token_id, config.vocab_size - 1
    with torch.no_grad():
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight.zero_()
        embeddings[:, 0], embeddings[loop, 1] = WIDTH, WIDTH
        head[end, 0], head[loop, 0] = math.log(END * tokens), math.log(LOOP * tokens)
        head[end, 1], head[loop, 1] = -head[end, 0], math.log(tokens / LEAVE) * 2**0.5 - head[loop, 0]
        head /= WIDTH**0.5  # the length of what the head reads
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def _measure(backend: str, policy: str, out: str) -> dict[str, Any]:
    """Seconds of each step, generation and push but the first, and the lengths of the completions, in tokens."""
    seconds: dict[str, list[float]] = defaultdict(list)
    lengths = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return timed(call, lambda taken, _: seconds[name].append(taken))

    def generated(taken: float, answer: Any) -> None:
        seconds["generate"].append(taken)
        lengths.append([len(ids) for ids in answer[0]])

    VLLMGeneration._init_vllm = noted("start", VLLMGeneration._init_vllm)
    settings = {"output_dir": out, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    settings |= {"use_cpu": ON_CPU, "bf16": not ON_CPU, "model_init_kwargs": {"dtype": "float32"}}
    settings |= {"per_device_train_batch_size": 16, "gradient_accumulation_steps": COMPLETIONS // 16}
    settings |= {"num_generations": GROUP, "max_completion_length": LIMIT, "max_steps": STEPS}
    settings |= {"use_vllm": backend == "vllm", "vllm_max_model_length": 2 * LIMIT, "vllm_gpu_memory_utilization": 0.3}
    stage, ends = grpo_stage(), StepEnds()
    trainer = RolloutTrainer(
        model=policy,
        chat=ChatFormat(policy),
        stage=stage,
        reward_funcs=[reward.function() for reward in stage.rewards],
        args=GRPOConfig(**settings, gradient_checkpointing=False),
        train_dataset=Dataset.from_dict({"prompt": [prompt(f"{n} plus 2?") for n in range(COMPLETIONS // GROUP)]}),
        callbacks=[ends],
    )
    trainer.remove_callback(PrinterCallback)
    trainer._generate_single_turn = timed(trainer._generate_single_turn, generated)
    if backend == "vllm":
        trainer.vllm_generation.sync_weights = noted("push", trainer.vllm_generation.sync_weights)
    trainer.train()
    found: dict[str, Any] = {name: times[1:] for name, times in seconds.items()}
    found["step"] = [after - before for before, after in itertools.pairwise(ends.times)]
    return {**found, "start": seconds["start"], "lengths": lengths[1:]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One backend's child: prints what was measured as JSON.")
    parser.add_argument("backend", choices=["vllm", "transformers"])
    parser.add_argument("policy", help="the folder of the model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_measure(options.backend, options.policy, folder)), flush=True)
