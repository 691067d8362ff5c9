"""`make gpu`: rehearsed on the CPU without installation; on a GPU, each check is a test."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.gpu.check import Check
from tests.gpu.run import CHECKS, Report, Runner
from tests.gpu.sizes import text_model, vl_config

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "tests" / "gpu" / "run.py"
NAMES = [check.name for check in CHECKS]


def _run(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), "--out", str(out), *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=590)


def _rows(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "gpu.json").read_text())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES[1:])
def test_a_check_finds_nothing_wrong(tmp_path: Path, name: str) -> None:
    done = _run(tmp_path, "--only", name)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which all packages can be imported but ours, as on a machine where it is not installed."""
    packages = tmp_path_factory.mktemp("packages") / "site-packages"  # dill looks for that name
    packages.mkdir()
    for path in Path(torch.__file__).parents[1].iterdir():
        if "balanced_thinking" not in path.name and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    return {"PYTHONPATH": str(packages), "PYTHONNOUSERSITE": "1"}


@pytest.mark.slow
def test_every_check_rehearses_without_a_gpu_and_without_installation(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    command = [sys.executable, "-S", str(RUN), "--rehearse", "--out", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **elsewhere}, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    rows = _rows(tmp_path)
    assert all({*row} == {"name", "value", "unit", "detail"} for row in rows)
    found = {row["name"].partition(".")[0]: row for row in rows}
    assert {*found} == {*NAMES}
    missing = [row["name"] for row in rows if row["value"] is None]
    assert missing == ["vision_windows.varlen", "rollout_rate", "two_gpus"], "what a CPU cannot do"
    values = {row["name"]: row["value"] for row in rows}
    assert values["machine"] == 0
    assert f"torch {torch.__version__.partition('+')[0]}" in found["machine"]["detail"]
    assert max(value for name, value in values.items() if name.startswith("sft_steps")) < 1e-5
    assert values["vllm_push.lora.float32"] < 1e-4
    assert values["resume_bits"] == values["demo"] == values["exec_frees_gpu"] == 0
    # What FSDP2 as launched does to a gradient, and what it need not do.
    assert values["fsdp2_policy.float32"] < 0.5 < values["fsdp2_policy.launched"]
    assert values["reference_peak.policy"] < values["reference_peak.trl"]
    assert values["log_prob_spread.autocast"] < values["log_prob_spread.bfloat16"]
    table = done.stdout[done.stdout.index("┃ name") :]
    assert [name for name in values if not re.search(rf"│ {re.escape(name[:10])}", table)] == []


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = _run(tmp_path, "--only", "sigterm", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ERROR no GPU: torch ")
    assert done.stderr.splitlines()[-1].endswith("sees no CUDA device; --rehearse runs what a CPU can")


def test_what_does_not_fit_into_the_limit_is_named(tmp_path: Path) -> None:
    done = _run(tmp_path, "--rehearse", "--limit", "0", "--only", "demo", "--only", "sft_steps")
    assert done.returncode == 0
    rows = _rows(tmp_path)
    assert [row["name"] for row in rows] == ["machine", "sft_steps", "demo"]
    assert {row["value"] for row in rows} == {None}
    assert re.fullmatch(r"left out: takes about 40 s, and 0 of 0 s are left", rows[1]["detail"])


@pytest.mark.slow
def test_the_runner_survives_its_checks(tmp_path: Path) -> None:
    runner = Runner(tmp_path, tmp_path / "logs", tiny=True)
    report = Report(tmp_path / "gpu.json")
    for name in ("raises", "dies", "hangs", "finds_a_fault", "writes"):
        begun = time.monotonic()
        runner.run(Check(name, "tests.support.misbehaving", name, 1, 20), 8 if name == "hangs" else 60, report)
        assert time.monotonic() - begun < 60
    rows = {row["name"]: row for row in _rows(tmp_path)}
    assert rows["raises.first"]["value"] == 1
    assert rows["raises"]["detail"] == "WRONG: it ended with 1; ValueError: no such kernel"
    assert rows["dies"]["detail"].startswith("WRONG: it ended with -6; ")
    assert rows["hangs"]["detail"] == "WRONG: it took too long; ended after 8 s"
    assert not _runs(rows["hangs.child"]["value"])
    assert rows["finds_a_fault"] == {
        "name": "finds_a_fault",
        "value": 3.0,
        "unit": "nats",
        "detail": "WRONG: more than 0.01; of a push",
    }
    assert report.wrong
    assert rows["writes"]["value"] == 1
    assert "no such kernel" in (tmp_path / "logs" / "raises.txt").read_text()


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_sizes_are_those_of_the_published_models() -> None:
    """By their number of parameters."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    class OnMeta:
        tiny, device = False, "meta"

    with torch.device("meta"):
        models = {"VL-3B": Qwen2_5_VLForConditionalGeneration(vl_config(OnMeta()))}  # type: ignore[arg-type]
    for size in ("0.5B", "7B"):
        models[size] = text_model(size, OnMeta(), torch.bfloat16)  # type: ignore[arg-type]
    counts = {size: sum(weight.numel() for weight in model.parameters()) for size, model in models.items()}
    assert counts == {"VL-3B": 3_754_622_976, "0.5B": 494_032_768, "7B": 7_615_616_512}


def test_the_page_has_a_line_for_each_check() -> None:
    page = (ROOT / "tests" / "gpu" / "README.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == NAMES
