"""The real command as a process of its own: started, waited for, and what it must have left."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support.inputs import ROOT

BIN = Path(sys.executable).parent
ACCELERATE = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
TORCHRUN = [str(BIN / "torchrun"), "--nproc_per_node", "2"]
LIMIT_S = 400

# Differs between almost any two completions, so the weights move before each push.
REWARD = """
def code_points(completions, unit=100, **kwargs):
    return [sum(map(ord, message[-1]["content"])) / unit for message in completions]
"""


def three_stages(assets: Path) -> dict[str, Any]:
    """A recipe of the demo's assets, with an evaluation."""
    common = {"logging_steps": 1, "gradient_checkpointing": False}
    sft = {**common, "per_device_train_batch_size": 8, "learning_rate": 3e-3}
    grpo = {
        **common,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "use_vllm": True,
        "vllm_max_model_length": 256,
    }
    return {
        "name": "small",
        "model": {"path": str(assets / "model"), "dtype": "float32"},
        "data": {name: {"path": str(assets / f"{name}.parquet")} for name in ("pretrain", "sft", "rl")},
        "stages": [
            {
                "name": "pretrain",
                "kind": "sft",
                "data": "pretrain",
                "loss": "token_mean",
                "trainer": {**sft, "max_steps": 40},
            },
            {
                "name": "sft",
                "kind": "sft",
                "data": "sft",
                "loss": {"think_weight": {"start": 0.9, "end": 0.1}},
                "trainer": {**sft, "max_steps": 6},
            },
            {
                "name": "grpo",
                "kind": "grpo",
                "data": "rl",
                "rewards": ["accuracy", {"use": "mine.py:code_points", "weight": 0.5, "unit": 50}],
                "trainer": grpo,
            },
        ],
        "evaluate": {"tasks": ["held.yaml"], "checkpoints": ["base", "sft", "grpo"], "samples": 1, "batch_size": 12},
    }


def write_recipe(content: dict[str, Any], folder: Path, assets: Path) -> Path:
    """Writes it to `folder`, with its reward and its task beside it; returns its path."""
    folder.mkdir()
    (folder / "mine.py").write_text(REWARD)
    task = {"name": "held", "path": str(assets / "heldout.parquet"), "max_new_tokens": 12}
    yaml = YAML(typ="safe")
    yaml.width = 10_000  # a line a mapping, however long the folder's path: tests name lines
    for name, value in {"recipe.yaml": content, "held.yaml": task}.items():
        with (folder / name).open("w") as file:
            yaml.dump(value, file)
    return folder / "recipe.yaml"


def start(launcher: list[str], path: Path, *overrides: str, folder: Path) -> subprocess.Popen[str]:
    command = [*launcher, str(ROOT / "pipeline" / "run.py"), str(path), *overrides]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    return output


def wait_for(process: subprocess.Popen[str], file: Path, lines: int = 1) -> None:
    """Until `file` has some lines, or the process ends."""
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and file.read_text().count("\n") >= lines:
            return
        time.sleep(0.02)


def assert_complete(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert [(stage["name"], stage["steps"]) for stage in results["stages"]] == [
        ("pretrain", 40),
        ("sft", 6),
        ("grpo", 3),
    ]
    assert results["stages"][2]["rollouts"] == "vllm"
    held = json.loads((run / "recipe.json").read_text())
    assert held["versions"]["trl"] == metadata.version("trl")
    assert all(len(digest) == 64 for digest in held["data"].values())
    assert held["data"].keys() == {"pretrain", "sft", "rl"}
    assert list(results["checkpoints"]) == ["base", "sft", "grpo"]
    for tasks in results["checkpoints"].values():
        assert tasks["held"]["n"] == tasks["held"]["sampled"]["n"] == 12
    assert [(pair["a"], pair["b"]) for pair in results["comparisons"]] == [("base", "sft"), ("sft", "grpo")]
    logged = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").read_text().splitlines()]
    _assert_weights_arrive(logged)
    AutoModelForImageTextToText.from_pretrained(run / "grpo" / "model")
    assert type(AutoProcessor.from_pretrained(run / "grpo" / "model")).__name__ == "Qwen2_5_VLProcessor"
    assert not list(run.rglob("*.bin")), "weights are safetensors, and no pickle is left"
    report = (run / "report.html").read_text()
    assert report.count('<img data-image="') == 12
    assert "<script src" not in report


def _assert_weights_arrive(logged: list[dict[str, Any]]) -> None:
    steps = [line for line in logged if "reward" in line]
    assert all(line["grad_norm"] > 0 for line in steps)
    assert max(line["sampling/sampling_logp_difference/mean"] for line in steps) < 0.02
