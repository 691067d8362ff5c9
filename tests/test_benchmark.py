"""The benchmark behind the paper's table: its questions, its recipes, and the table made of kept results."""

import json
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe.file import load
from recipes.benchmark import build, table

LATE = {"sft": 1e-3, "grpo": 1e-4}


def _runs() -> list[table.Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "tuned", lambda loss, stage="sft": LATE[stage])
        made = [table.tuning(), table.grpo_tuning(), table.arms(1), table.ablations(1), [table.BASE]]
    return [run for runs in made for run in runs]


def test_the_answer_stands_in_no_trace_and_is_either_digit_of_the_line() -> None:
    rng = random.Random(0)
    last_is_right = Counter[bool]()
    for _ in range(2000):
        digits = [rng.randrange(10) for _ in range(4)]
        example = build.compare_example(digits, rng)
        line = next(line for line in build.LINES if line in example.question)
        pair = [digits[cell] for cell in build.LINES[line]]
        assert int(example.answer) == (max(pair) if "larger" in example.question else min(pair))
        assert not {"larger", "smaller", "largest", "smallest"} & {*example.think.split()}
        if pair[0] != pair[1]:
            last_is_right[example.think.rstrip(".")[-1] == example.answer] += 1
    assert 0.45 < last_is_right[True] / last_is_right.total() < 0.55


def test_questions_are_of_one_length_and_traces_are_long() -> None:
    rng = random.Random(0)
    makers = (build.read_example, build.fluent_example, build.compare_example)
    examples = [make([1, 2, 3, 4], rng) for make in makers for _ in range(50)]
    assert {len(example.question.split()) for example in examples} == {9}
    [tokens] = {len(re.findall(r"\w+|[^\w\s]", example.think)) for example in examples[50:]}
    assert tokens > 100


@pytest.mark.parametrize("run", _runs(), ids=lambda run: run.name)
def test_every_run_is_a_recipe_that_differs_in_what_it_names(run: table.Run) -> None:
    recipe = load(table.HERE / run.recipe, [f"name={run.name}", *run.overrides])
    assert recipe.name == run.name
    stage = recipe.stages[-1]
    if run.name.startswith("tune-"):
        assert run.name.endswith(f"-{stage.trainer['learning_rate']:g}")
        assert "dev" in recipe.tasks[0]


def test_arms_differ_in_the_loss_alone() -> None:
    runs = [run for run in _runs() if run.name in {"arm-sft-1", "arm-scale-1"}]
    sft, scale = (load(table.HERE / run.recipe, ["name=x", *run.overrides]).model_dump() for run in runs)
    losses = [recipe["stages"][0].pop("loss") for recipe in (sft, scale)]
    assert sft == scale
    assert losses[0] == "token_mean"


def test_the_table_is_made_of_kept_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "SEEDS", (1, 2))
    right = {
        "arm-sft": {"base": 20, "sft": 55, "grpo": 55},
        "arm-scale": {"base": 20, "sft": 90, "grpo": 95},
        **{loss: {"sft": 70 if loss == "constant" else 55} for loss in table.LOSSES if loss not in ("sft", "scale")},
    }
    for name, by_checkpoint in right.items():
        for seed in (1, 2):
            (tmp_path / f"{name}-{seed}.json").write_text(json.dumps(_kept(by_checkpoint, seed)))
    for rate, count in zip(table.RATES, (40, 60, 50), strict=True):
        kept = {"checkpoints": {"sft": {"dev": {"accuracy": count / 100}}}}
        (tmp_path / f"tune-scale-{rate:g}.json").write_text(json.dumps(kept))
    assert table.tuned("scale") == table.RATES[1]
    shown = table.table()
    assert "| SFT | 0.545 | 0.540 | 0.542 (" in shown
    assert "| SCALe+GRPO | 0.945 | 0.940 |" in shown
    assert "| constant | 0.695 | 0.690 |" in shown
    assert "SCALe-SFT is better" in shown
    assert "constant is better" in shown
    assert "| scale | 0.400 at 0.0005 | 0.600 at 0.001 | 0.500 at 0.002 |" in shown
    [both] = [line for line in shown.splitlines() if line.startswith("| SFT+GRPO |")]
    assert both.endswith("| 25.0% | 300 |"), "truncated; the seconds of SFT and GRPO together"


def _kept(by_checkpoint: dict[str, int], seed: int) -> dict[str, Any]:
    """Of 200 rows, twice as many right as said, less the seed."""
    bits = {name: "1" * (2 * count - seed) + "0" * (200 - 2 * count + seed) for name, count in by_checkpoint.items()}
    return {
        "stages": [{"name": "sft", "cpu_seconds": 100.0}, {"name": "grpo", "cpu_seconds": 200.0}],
        "checkpoints": {
            name: {"heldout": {"accuracy": each.count("1") / 200, "malformed": 0.0, "truncated": 0.25}}
            for name, each in bits.items()
        },
        "right": {name: {"heldout": each} for name, each in bits.items()},
    }


def test_the_tables_shown_are_made_of_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is run again, and both READMEs show what the kept results come to."""
    shutil.copytree(table.HERE / "results" / "cpu", tmp_path / "cpu")
    monkeypatch.setattr(table, "RESULTS", tmp_path / "cpu")
    monkeypatch.setattr(table.Run, "go", lambda run: pytest.fail(f"{run.name} was started"))
    monkeypatch.setattr(sys, "argv", ["table.py", "--only", "arms"])
    table.main()
    made = capsys.readouterr().out.strip()
    assert made == (table.HERE / "results" / "cpu" / "table.md").read_text().strip()
    assert made in (table.ROOT / "recipes" / "README.md").read_text()
    arms = made.split("\n\n")[1].splitlines()  # README has each arm, not their differences
    assert "\n".join(arms) in (table.ROOT / "README.md").read_text()
