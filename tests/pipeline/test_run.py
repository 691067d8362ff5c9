"""The real command: accelerate, real trainers, the real vLLM engine, real processes killed."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.checkpoint.run_folder import saved_checkpoints
from tests.support.command import (
    ACCELERATE,
    LIMIT_S,
    assert_complete,
    finish,
    start,
    three_stages,
    wait_for,
    write_recipe,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="rolls out with vLLM: make setup installs it"),
]


def test_the_command_survives_a_signal_and_a_kill_between_stages_and_does_nothing_twice(
    assets: Path, tmp_path: Path
) -> None:
    path, run = write_recipe(three_stages(assets), tmp_path / "recipes", assets), tmp_path / "runs" / "small"

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
    assert_complete(run)

    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != ".lock"}
    output = finish(start([sys.executable], path, folder=tmp_path))
    assert "all is complete" in output
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != ".lock"} == before

    changed = start([sys.executable], path, "sft.trainer.max_steps=7", folder=tmp_path)
    output = changed.communicate(timeout=LIMIT_S)[0]
    assert changed.returncode == 2
    assert "changed: sft.trainer.max_steps: was 6, is 7" in output
    assert "Traceback" not in output
