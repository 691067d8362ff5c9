"""The run, a process a step: what it looks at before the first, and all of them on two ranks."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.checkpoint.run_folder import saved_checkpoints
from tests.support.command import (
    LIMIT_S,
    TORCHRUN,
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


def test_data_that_a_later_step_needs_is_missed_before_the_first_stage(assets: Path, tmp_path: Path) -> None:
    content = three_stages(assets)
    content["data"]["rl"]["path"] = "no-such-file.parquet"
    process = start([sys.executable], write_recipe(content, tmp_path / "recipes", assets), folder=tmp_path)
    output = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 2, output
    assert "recipe.yaml:3 id=- data: no file no-such-file.parquet" in output
    assert "Traceback" not in output
    assert "stage 1" not in output


def test_two_ranks_run_all_stages_under_torchrun_and_go_on_after_a_signal(assets: Path, tmp_path: Path) -> None:
    path = write_recipe(three_stages(assets), tmp_path / "recipes", assets)
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
    assert_complete(run)
