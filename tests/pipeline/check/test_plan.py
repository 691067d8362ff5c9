"""What the check says that a run will do, against the run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import grpo, sft
from pipeline.check import plan
from pipeline.recipe.file import load
from tests.support.checked import Checked


def test_a_good_recipe_passes_and_says_what_will_happen(check: Callable[..., Checked]) -> None:
    code, problems, text = check()
    assert (code, problems) == (0, [])
    assert "checked: no problem found; every row was read" in text
    assert "stage 1, sft (SCALe): 6 rows, 2 steps of 8 rows" in text
    assert re.search(r"think \d+ \(\d+\), answer \d+ \(\d+\)\n  the answer has \d+\.\d% of the tokens", text)
    assert "stage 2, grpo (GRPO): 6 rows, 3 steps of 1 prompts x 4 completions" in text
    assert re.search(r"checkpoints: 1 of [\d.]+ MB, at most 3 at a time; hands on [\d.]+ MB\n  one process of 1", text)
    assert re.search(r"one process of 1, not sharded: ([\d.]+ MB) of memory, weights [\d.]+ MB, grad.*\ndisk: ", text)


def test_the_plan_is_what_the_run_does(check: Callable[..., Checked], tmp_path: Path) -> None:
    """Steps, sizes and tokens against the recipe's own stages, run."""
    short = ["grpo.trainer.max_completion_length=8", "sft.trainer.gradient_accumulation_steps=2"]
    planned = json.loads(check("--json", *short).text.splitlines()[-1])["plan"]["stages"]
    recipe = load(Path("recipe.yaml"), [*short, "sft.trainer.logging_steps=1"])
    for stage, expected in zip(recipe.stages, planned, strict=True):
        run, out = sft.run if stage.kind == "sft" else grpo.run, tmp_path / stage.name
        assert run(recipe, stage, recipe.model.path, out, "").steps == expected["steps"]
        written = (out / "model" / "model.safetensors").stat().st_size
        assert expected["model_bytes"] == pytest.approx(written, rel=0.05)
        [saved] = (out / "checkpoints").glob("checkpoint-*")
        states = sum(file.stat().st_size for file in saved.glob("*") if file.suffix in {".safetensors", ".pt"})
        assert expected["checkpoint_bytes"] == pytest.approx(states, rel=0.1)
    first, *_ = map(json.loads, (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines())
    assert planned[0]["think"][0] == pytest.approx(first["think_tokens"], abs=1)
    assert planned[0]["answer"][0] == pytest.approx(first["answer_tokens"], abs=1)


def test_a_full_disk_is_foreseen(check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_bytes", lambda root: 1_000_000)
    code, [problem], text = check()
    assert (code, problem.code) == (2, "disk_space")
    assert re.search(r"the run needs \d+\.\d+ MB at a time and 1\.00 MB are free", text)
