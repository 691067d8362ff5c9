"""The launch files, on two ranks: FSDP2 and ZeRO take the steps of the definition, go on after a kill, hand models on.

The sharding is real, over gloo; accelerate alone is told that CPUs can (tests/support/sharded_run.py).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from pipeline.check.memory import checkpoint_bytes, memory, model_sizes
from pipeline.recipe.schema import Recipe
from tests.support.inputs import ROOT, cut_by
from tests.support.steps import difference, load, torchrun_steps, two_ranks, with_layers

pytestmark = pytest.mark.slow
on_cpus = pytest.mark.skipif(torch.cuda.is_available(), reason="tells accelerate that CPUs are its devices")


@pytest.fixture
def cut(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    return cut_by(request.param, tmp_path)


@on_cpus
@pytest.mark.parametrize(
    ("cut", "family", "batch"),
    [
        ("fsdp2", "llava_next", 2),  # a head of its own, that no one calls
        ("fsdp2", "gemma3", 2),
        ("fsdp2", "llama", 1),
        ("zero2", "llava_next", 2),
        ("zero3", "llava_next", 2),
    ],
    indirect=["cut"],
)
def test_sharded_ranks_take_the_steps_of_the_definition(
    small: Callable[[str], Path], tmp_path: Path, cut: dict[str, str], family: str, batch: int
) -> None:
    weights, losses = two_ranks(str(small(family)), tmp_path / "out", cut, batch)
    assert weights <= 1e-6
    assert losses <= 1e-4


@on_cpus
@pytest.mark.parametrize("cut", ["fsdp2", "zero2", "zero3"], indirect=True)
def test_a_killed_sharded_run_goes_on_to_the_same_bits_and_takes_the_memory_that_was_counted(
    small: Callable[[str], Path], tmp_path: Path, cut: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(small("llava_next"))
    cut = with_layers(cut, folder)
    whole = torchrun_steps(folder, tmp_path / "whole", 2, 1, kill=0, cut=cut)
    torchrun_steps(folder, tmp_path / "killed", 2, 1, kill=4, cut=cut, code=1)
    resumed = torchrun_steps(folder, tmp_path / "killed", 2, 1, kill=0, cut=cut)
    assert [line["loss"] for line in resumed["log"] if "loss" in line] == [
        line["loss"] for line in whole["log"] if "loss" in line
    ]
    models = [load(str(tmp_path / name / "model"), torch.float32) for name in ("whole", "killed")]
    assert difference(*models) == 0

    for name, value in {**cut, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    stage = {"name": "sft", "kind": "sft", "data": "rows", "loss": "token_mean"}
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"path": folder, "dtype": "float32"}, "data": {"rows": {"path": "x"}}, "stages": [stage]}
    )
    config = AutoConfig.from_pretrained(folder)
    counted = model_sizes(recipe, recipe.stages[0], config)
    expected = memory(counted, recipe.stages[0], config, 100)
    assert whole["held"]["weights"] == pytest.approx(expected.weights, rel=0.02)
    pairs = zip(models[0].parameters(), load(folder, torch.float32).parameters(), strict=True)
    moved = sum(one.numel() for one, other in pairs if not one.equal(other)) / counted.total
    assert moved > 0.8
    lazy = moved if "FSDP_VERSION" in cut else 1  # the last layer of CLIP is not used: PyTorch gives it no moments
    assert whole["held"]["moments"] == pytest.approx(lazy * expected.moments, rel=0.02)
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-6"
    written = sum(
        path.stat().st_size for path in checkpoint.rglob("*") if path.suffix in {".safetensors", ".bin", ".pt"}
    )
    assert checkpoint_bytes(counted) == pytest.approx(written, rel=0.1)
    assert whole["estimate"] == pytest.approx(written, rel=0.1)


@on_cpus
@pytest.mark.parametrize("cut", ["fsdp2", "zero3"], indirect=True)
def test_a_sharded_run_merges_its_adapter_and_rolls_out_with_the_weights_that_it_trains(
    small: Callable[[str], Path], assets: Path, tmp_path: Path, cut: dict[str, str]
) -> None:
    """SFT of an adapter, the hand-off, and GRPO of all weights with a reference and vLLM."""
    (tmp_path / "points.py").write_text(
        "def points(completions, **columns):\n    return [float(len(set(c[0]['content']))) for c in completions]\n"
    )
    common: dict[str, Any] = {"logging_steps": 1, "gradient_checkpointing": False, "learning_rate": 1e-2}
    common |= {"per_device_train_batch_size": 4, "max_steps": 3, "use_cpu": "ACCELERATE_USE_FSDP" in cut}
    rollouts = {"num_generations": 4, "max_completion_length": 12, "use_vllm": True, "vllm_max_model_length": 256}
    sft = {"name": "sft", "kind": "sft", "data": "sft", "loss": {"think_weight": {"start": 0.9, "end": 0.1}}}
    sft |= {"lora": {"r": 4, "alpha": 8}, "trainer": common}
    grpo = {"name": "grpo", "kind": "grpo", "data": "rl", "rewards": ["points.py:points"]}
    grpo |= {"trainer": {**common, **rollouts, "beta": 0.05}}
    recipe = {
        "name": "sharded",
        "model": {"path": str(small("llava_next")), "dtype": "float32"},
        "data": {name: {"path": str(assets / f"{name}.parquet")} for name in ("sft", "rl")},
        "stages": [sft, grpo],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", "2"]
    command += [str(ROOT / "tests" / "support" / "sharded_run.py"), "recipe.yaml"]
    environment = {**os.environ, **cut, **({"ACCELERATE_USE_CPU": "true"} if "FSDP_VERSION" in cut else {})}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "sharded"
    base, handed_on, trained = (
        load(str(folder), torch.float32)
        for folder in (small("llava_next"), run / "sft" / "model", run / "grpo" / "model")
    )
    assert difference(handed_on, base) > 1e-3
    assert difference(trained, handed_on) > 1e-3
    steps = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "reward" in step]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-5)  # the reference is what the stage started from
    assert steps[-1]["kl"] > 1e-3
    assert max(step["sampling/sampling_logp_difference/mean"] for step in steps) < 0.02
