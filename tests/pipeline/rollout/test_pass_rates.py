"""Rows chosen by how often the model that the stage starts from gets them right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import grpo
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import GrpoStage
from pipeline.rollout import pass_rates
from tests.support.inputs import ROOT
from tests.support.questions import MakeRecipe, questions, rollouts


@pytest.mark.slow
def test_a_stage_asks_what_its_first_model_gets_right_neither_never_nor_always(
    recipe: MakeRecipe, contrast: str, tmp_path: Path
) -> None:
    """The model learns to answer 7 to everything; what it is then asked is what 7 does not answer, and once only."""
    content = recipe(
        {"use": contrast},
        rows=questions(12),
        keys={"difficulty": {"samples": 4, "min_pass_rate": 0, "max_pass_rate": 0.5}},
    )
    stages = content.model_dump(exclude_none=True)
    stages["evaluate"] = None
    rows = [{**row, "think": "Seven it is.", "answer": "7"} for row in questions(12)]
    (tmp_path / "sevens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages["data"]["sevens"] = {"path": str(tmp_path / "sevens.jsonl")}
    sft = {"name": "sft", "kind": "sft", "data": "sevens", "loss": "token_mean"}
    fast = {"max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "gradient_checkpointing": False}
    stages["stages"] = [{**sft, "trainer": fast}, *stages["stages"]]
    stages["stages"][1]["trainer"]["max_completion_length"] = 32
    (tmp_path / "recipe.yaml").write_text(json.dumps(stages))
    command = [sys.executable, str(ROOT / "pipeline" / "run.py"), str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "rollouts"
    rates = json.loads((run / "pass_rates" / "grpo.json").read_text())["pass_rates"]
    assert rates.pop("q5") > 0.5, "5 plus 2 is 7"
    assert len(rates) == 11
    assert not any(rates.values())
    assert "stage 2 of 2: grpo (GRPO), pass rates: 12 rows" in done.stderr
    assert "grpo: kept 11 of 12 rows (too hard 0, too easy 1: pass rates 0 to 0.5 are asked)" in done.stderr
    asked = {row for table in rollouts(run / "grpo") for row in table["id"]}
    assert "q5" not in asked

    (run / "grpo" / "COMPLETE").unlink()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "pass rates:" not in again.stderr, "they are measured once"


def test_a_difficulty_that_leaves_nothing_is_an_error_before_the_model_loads(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    asked = recipe(
        "format", rows=questions(4), keys={"difficulty": {"samples": 2, "min_pass_rate": 0.5, "max_pass_rate": 1.0}}
    )
    stage = asked.stages[0]
    assert stage.kind == "grpo"
    rates = dict.fromkeys(["q0", "q1", "q2", "q3"], 0.25)
    with pytest.raises(RecipeError, match=r"nothing is left of 4 rows \(too hard 4, too easy 0: pass rates 0\.5 to 1"):
        grpo.run(asked, stage, asked.model.path, tmp_path / "grpo", "grpo", rates)


def test_pass_rates_belong_to_the_model_and_the_rows_that_made_them(
    recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage that has begun goes on with the rows that it began with; another one is measured anew."""
    keys = {"difficulty": {"samples": 2, "min_pass_rate": 0.0, "max_pass_rate": 0.9}}

    def asked(**changes: int) -> tuple[dict[str, float] | None, str]:
        made = recipe("format", rows=questions(changes.get("rows", 4)), keys=keys, **({"max_completion_length": 9}))
        stage = made.stages[0]
        assert isinstance(stage, GrpoStage)
        if not (tmp_path / "rates.json").exists():
            pass_rates.measure(made, stage, made.model.path, tmp_path / "rates.json", "pass rates")
        capsys.readouterr()
        found = pass_rates.stored(made, stage, made.model.path, tmp_path / "rates.json", bool(changes.get("begun")))
        return found, "".join(x for x in capsys.readouterr().err.splitlines() if "pass rates" in x)

    first, said = asked()
    assert (sorted(first or {}), said) == (["q0", "q1", "q2", "q3"], "")
    kept, said = asked(rows=5, begun=1)
    assert kept == first
    assert "WARNING grpo: pass rates are kept, since the stage has begun with them; what made them is another" in said
    none, said = asked(rows=5)
    assert none is None
    assert "pass rates are measured anew; what made them is another: rows (was " in said
    assert asked() == (first, "")
