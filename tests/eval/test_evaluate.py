"""Real checkpoints asked real rows: killed and resumed, on two ranks, by both backends."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from eval.files import json_lines
from tests.support.evaluations import command, files, run
from tests.support.inputs import ROOT, drawings, jsonl
from tests.support.steps import tells_apart

LIMIT_S = 200

pytestmark = pytest.mark.slow


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_files(
    small: Callable[[str], Path], task: Path, tmp_path: Path
) -> None:
    settings = (small("qwen2_5_vl"), "--task", task, "--samples", 4, "--batch-size", 1)
    printed = run(*settings, "--out", tmp_path / "whole")
    assert "no image" in printed
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command(*settings, "--out", out), env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + LIMIT_S
    while len(list(out.glob("held/parts-*/*.jsonl"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in out.glob("held/parts-*/*.jsonl")}
    assert 5 <= len(kept) < 36
    assert not (out / "held" / "scores.json").exists()
    began = time.time_ns()
    run(*settings, "--out", out)
    assert files(out) == files(tmp_path / "whole")
    assert not list(out.glob("held/parts-*"))
    assert all(written < began for written in kept.values())


def test_two_ranks_write_what_one_writes(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    settings = (small("qwen2_5_vl"), "--task", task, "--samples", 1, "--batch-size", 2)
    run(*settings, "--out", tmp_path / "one")
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = command(*settings, "--out", tmp_path / "two", launcher=ranks)
    subprocess.run(started, check=True, capture_output=True, env=environment, timeout=LIMIT_S)
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.skipif(find_spec("vllm") is None, reason="make setup installs vLLM")
def test_vllm_says_what_transformers_says(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    """With images and without; of a drawing the same, whichever kind of file it is in; of a prompt beyond the context
    nothing.
    """
    kinds = [name for name in drawings(tmp_path / "drawn") if name != "cmyk"]
    rows = [{"id": name, "question": "What is it?", "answer": "x", "images": [f"{name}.png"]} for name in kinds]
    beyond = {**rows[0], "id": "beyond", "question": "What is it? " + "Think again. " * 2000}
    jsonl(tmp_path / "drawn" / "rows.jsonl", [*rows, beyond])
    model = tells_apart(small("qwen2_5_vl"), tmp_path / "model", tmp_path / "drawn" / "rgb.png")
    drawn = tmp_path / "drawn.yaml"
    drawn.write_text("name: drawn\npath: drawn/rows.jsonl\nmax_new_tokens: 24\n")
    found, texts = {}, set()
    for backend in ("transformers", "vllm"):
        asked = ("--task", task, "--task", drawn, "--samples", 1)
        run(model, *asked, "--backend", backend, "--out", tmp_path / backend)
        found[backend] = files(tmp_path / backend)["lines"]
        lines = json_lines(tmp_path / backend / "drawn" / "completions.jsonl")
        shown = [line for line in lines if line["sample"] == 0 and not line["image_removed"]]
        texts |= {line["text"] for line in shown if line["id"] != "beyond"}
        assert {line["id"] for line in lines if line["outcome"] == "too_long"} == {"beyond"}
        assert shown[-1]["text"] == ""
    assert texts == {"<think>It is drawn.</think><answer>7</answer>"}
    for one, other in zip(found["transformers"], found["vllm"], strict=True):
        assert one.keys() == other.keys()
        if one["sample"] == 0:
            assert one == other
    made = json.loads((tmp_path / "vllm" / "held" / "scores.json").read_text())["made"]
    assert (made["identity"]["backend"], made["unreadable_rows"]) == ("vllm", 0)
