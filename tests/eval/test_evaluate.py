"""`python -m eval`: real checkpoints asked real rows, killed, resumed, by both backends, on two ranks."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import inputs
import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from eval.__main__ import main
from eval.decode import loaded
from eval.environment import prepare_environment
from eval.files import json_lines
from eval.task import Decoding, is_scored, load_task

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 200

pytestmark = pytest.mark.slow


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """ScienceQA's test questions, six of them, with images."""
    inputs.scienceqa(tmp_path)
    path = tmp_path / "held.yaml"
    path.write_text("name: held\npath: scienceqa\nformat: scienceqa\nmax_new_tokens: 24\n")
    return path


def command(*arguments: object, launcher: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *launcher, "-m", "eval", *map(str, arguments)]


def run(*arguments: object, code: int = 0) -> str:
    """The command in this process, which saves its imports; returns what it prints."""
    with patch.dict(os.environ), redirect_stdout(io.StringIO()) as printed:
        assert main([*map(str, arguments)]) == code
    return printed.getvalue()


def files(out: Path) -> dict[str, Any]:
    return {
        "lines": json_lines(out / "held" / "completions.jsonl"),
        "scores": (out / "held" / "scores.json").read_text(),
    }


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


def test_a_line_holds_what_scoring_needs_and_rescoring_changes_nothing(
    small: Callable[[str], Path], task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(small("qwen2_5_vl"), "--task", task, "--samples", 2, "--out", out)
    before = files(out)
    lines = before["lines"]
    assert len(lines) == 6 * (1 + 2 + 1)
    greedy, removed = lines[0], lines[-6]
    assert (greedy["id"], greedy["gold"], greedy["kind"], greedy["choices"]) == ("0", "A", "choice", ["dog", "cat"])
    assert (greedy["image_removed"], removed["image_removed"], removed["id"]) == (False, True, "0")
    assert greedy["prompt"] != removed["prompt"]
    assert len({line["prompt"] for line in lines}) == 12, "the same prompt for the greedy and the sampled"
    assert len({line["image"] for line in lines if not line["image_removed"]}) == 6
    assert {"text", "truncated", "parse", "outcome", "lenient", "think_tokens", "answer_tokens"} <= greedy.keys()
    printed = run(out, "--rescore")
    assert "0 of 24 outcomes differ, the scores do not" in printed
    assert files(out) == before
    tampered = [{**line, "outcome": "correct"} for line in lines]
    (out / "held" / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tampered))
    assert "24 of 24 outcomes differ" in run(out, "--rescore")
    assert files(out) == before


def test_two_ranks_write_what_one_writes(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    settings = (small("qwen2_5_vl"), "--task", task, "--samples", 1, "--batch-size", 2)
    run(*settings, "--out", tmp_path / "one")
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = command(*settings, "--out", tmp_path / "two", launcher=ranks)
    subprocess.run(started, check=True, capture_output=True, env=environment, timeout=LIMIT_S)
    assert files(tmp_path / "two") == files(tmp_path / "one")


VLLM = pytest.mark.skipif(find_spec("vllm") is None, reason="make setup installs vLLM")


@VLLM
def test_vllm_says_what_transformers_says(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    """With images and without."""
    found = {}
    for backend in ("transformers", "vllm"):
        run(small("qwen2_5_vl"), "--task", task, "--samples", 1, "--backend", backend, "--out", tmp_path / backend)
        found[backend] = files(tmp_path / backend)["lines"]
    for one, other in zip(found["transformers"], found["vllm"], strict=True):
        assert one.keys() == other.keys()
        if one["sample"] == 0:
            assert one == other
    made = json.loads((tmp_path / "vllm" / "held" / "scores.json").read_text())["made"]
    assert (made["backend"], made["unreadable_rows"]) == ("vllm", 0)


@VLLM
@patch.dict(os.environ)
def test_vllm_serves_a_text_model_and_samples_the_same_for_a_seed(small: Callable[[str], Path]) -> None:
    rows = [{"question": f"What is {number} plus 2?"} for number in range(4)]
    prepare_environment()
    with loaded(str(small("llama")), "float32", backend="transformers") as decoder:
        greedy = decoder.decode(rows, 12, None, seed=0)
    with loaded(str(small("llama")), "float32", backend="vllm") as decoder:
        assert decoder.decode(rows, 12, None, seed=0) == greedy
        first, again, other = (decoder.decode(rows, 12, 1.0, seed=seed) for seed in (1, 1, 2))
        assert decoder.decode(rows[:2], 12, 1.0, seed=1) == first[:2]
    assert first == again
    assert first != other


def test_an_adapter_says_what_its_merged_model_says(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    base = AutoModelForImageTextToText.from_pretrained(small("qwen2_5_vl"), dtype="float32")
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    merged = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(small("qwen2_5_vl"), dtype="float32"), tmp_path / "adapter"
    ).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoProcessor.from_pretrained(small("qwen2_5_vl")).save_pretrained(tmp_path / "merged")
    said = {}
    for name, checkpoint in {"adapter": tmp_path / "adapter", "merged": tmp_path / "merged"}.items():
        run(checkpoint, "--task", task, "--out", tmp_path / f"{name}-out")
        said[name] = [line["text"] for line in files(tmp_path / f"{name}-out")["lines"]]
    run(small("qwen2_5_vl"), "--task", task, "--out", tmp_path / "base-out")
    assert said["adapter"] == said["merged"]
    assert said["adapter"] != [line["text"] for line in files(tmp_path / "base-out")["lines"]]


def test_a_mistake_is_one_line_before_any_weights(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    weights = small("qwen2_5_vl") / "model.safetensors"
    assert weights.exists()
    printed = run(small("qwen2_5_vl"), "--task", "sciencqa", code=2)
    assert printed.startswith("ERROR no task 'sciencqa'. Shipped: gsm8k, iconqa, math500, scienceqa, scienceqa_img;")
    rows = [{"id": "a", "question": "1?", "answer": "1"}, {"id": "a", "question": "2?", "answer": "2"}]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "twice.yaml").write_text("name: twice\npath: twice.jsonl\nmax_new_tokens: 9\n")
    printed = run(tmp_path, "--task", tmp_path / "twice.yaml", code=2)
    assert "two rows of" in printed
    assert "have the id 'a'" in printed
    printed = run(tmp_path / "none", "--task", task, code=2)
    assert printed.startswith("ERROR model ")
    assert printed.count("\n") == 1


def test_scores_of_another_question_are_not_taken_for_these(task: Path, tmp_path: Path) -> None:
    asked, decoding = load_task(str(task)), Decoding(batch_size=8, samples=1, temperature=1.0, seed=0)
    made = {"task": asked.model_dump(), "samples": 1, "temperature": 1.0, "seed": 0, "image_removed": True}
    (tmp_path / "scores.json").write_text(json.dumps({"made": made}))
    assert is_scored(tmp_path, asked, decoding)
    assert is_scored(tmp_path, asked, Decoding(batch_size=16, samples=1, temperature=1.0, seed=0))
    assert not is_scored(tmp_path, asked, Decoding(batch_size=8, samples=4, temperature=1.0, seed=0))
    assert not is_scored(tmp_path, asked.model_copy(update={"max_new_tokens": 25}), decoding)
    assert not is_scored(tmp_path / "none", asked, decoding)


def test_an_engine_that_is_asked_for_and_cannot_serve_is_named(small: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for file in small("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["OddForCausalLM"]}))
    with (
        pytest.raises(ValueError, match="vLLM does not know OddForCausalLM; use transformers"),
        loaded(str(folder), "float32", backend="vllm"),
    ):
        pass
