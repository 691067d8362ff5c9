"""The real command: accelerate or torchrun, real trainers, the real vLLM engine, real processes killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipeline.checkpoint.run_folder import saved_checkpoints

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ACCELERATE = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
TORCHRUN = [str(BIN / "torchrun"), "--nproc_per_node", "2"]
LIMIT_S = 400

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="rolls out with vLLM: make setup installs it"),
]

# Differs between almost any two completions, so the weights move before each push.
REWARD = """
def code_points(completions, unit=100, **kwargs):
    return [sum(map(ord, message[-1]["content"])) / unit for message in completions]
"""


def recipe(assets: Path) -> dict[str, Any]:
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


@pytest.fixture
def write(tmp_path: Path, assets: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes a recipe with its reward and its task beside it; returns its path."""

    def write(content: dict[str, Any]) -> Path:
        folder = tmp_path / "recipes"
        folder.mkdir()
        (folder / "mine.py").write_text(REWARD)
        task = {"name": "held", "path": str(assets / "heldout.parquet"), "max_new_tokens": 12}
        for name, value in {"recipe.yaml": content, "held.yaml": task}.items():
            with (folder / name).open("w") as file:
                YAML(typ="safe").dump(value, file)
        return folder / "recipe.yaml"

    return write


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


def test_the_command_survives_a_signal_and_a_kill_between_stages_and_does_nothing_twice(
    write: Callable[[dict[str, Any]], Path], assets: Path, tmp_path: Path
) -> None:
    path, run = write(recipe(assets)), tmp_path / "runs" / "small"

    process = start(ACCELERATE, path, folder=tmp_path)
    wait_for(process, run / "pretrain" / "metrics.jsonl")
    process.terminate()  # the launcher alone, which dies of it
    output = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == -signal.SIGTERM
    assert "SIGUSR2: stopping at the next checkpoint" in output
    assert "stage 2 of 3" not in output
    (saved,) = saved_checkpoints(run / "pretrain" / "checkpoints")
    assert (saved / "manifest.json").exists()

    process = start(ACCELERATE, path, folder=tmp_path)
    wait_for(process, run / "pretrain" / "COMPLETE")
    os.killpg(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    assert f"resuming from runs/small/pretrain/checkpoints/{saved.name}" in output
    assert (run / "pretrain" / "COMPLETE").exists(), output
    assert not (run / "sft" / "COMPLETE").exists()
    finished_at = (run / "pretrain" / "COMPLETE").stat().st_mtime_ns

    output = finish(start(ACCELERATE, path, folder=tmp_path))
    assert "stage 1 of 3" not in output, "a finished stage ran again"
    assert "stage 2 of 3: sft (SCALe)" in output
    assert (run / "pretrain" / "COMPLETE").stat().st_mtime_ns == finished_at
    _assert_complete(run)

    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != ".lock"}
    output = finish(start([sys.executable], path, folder=tmp_path))
    assert "all is complete" in output
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != ".lock"} == before

    changed = start([sys.executable], path, "sft.trainer.max_steps=7", folder=tmp_path)
    output = changed.communicate(timeout=LIMIT_S)[0]
    assert changed.returncode == 2
    assert "changed: sft.trainer.max_steps: was 6, is 7" in output
    assert "Traceback" not in output


def _assert_complete(run: Path) -> None:
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


def test_data_that_a_later_step_needs_is_missed_before_the_first_stage(
    write: Callable[[dict[str, Any]], Path], assets: Path, tmp_path: Path
) -> None:
    content = recipe(assets)
    content["data"]["rl"]["path"] = "no-such-file.parquet"
    process = start([sys.executable], write(content), folder=tmp_path)
    output = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 2, output
    assert "recipe.yaml:3 id=- data: no file no-such-file.parquet" in output
    assert "Traceback" not in output
    assert "stage 1" not in output


def test_two_ranks_run_all_stages_under_torchrun_and_go_on_after_a_signal(
    write: Callable[[dict[str, Any]], Path], assets: Path, tmp_path: Path
) -> None:
    path = write(recipe(assets))
    overrides = ["grpo.trainer.per_device_train_batch_size=4", "pretrain.trainer.per_device_train_batch_size=4"]
    run = tmp_path / "runs" / "small"
    process = start(TORCHRUN, path, *overrides, folder=tmp_path)
    wait_for(process, run / "grpo" / "metrics.jsonl")
    process.terminate()  # torchrun hands it on
    output = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode != 0
    assert "stopped at step" in output, output
    (saved,) = saved_checkpoints(run / "grpo" / "checkpoints")

    output = finish(start(TORCHRUN, path, *overrides, folder=tmp_path))
    assert f"resuming from runs/small/grpo/checkpoints/{saved.name}" in output
    _assert_complete(run)
