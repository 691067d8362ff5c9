"""A recipe's evaluation belongs to the weights and to the rows that are there now."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from eval.task import load_task
from pipeline import stages
from pipeline.checkpoint.manifest import seal
from pipeline.checkpoint.run_folder import RunFolder
from pipeline.recipe.file import load
from tests.support.inputs import jsonl

HELD = [{"id": f"h{n}", "question": f"What is {n} plus 4?", "answer": str(n + 4)} for n in range(3)]


@pytest.fixture
def evaluate(
    trained: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[bool, str, dict[str, Any]]]:
    """Evaluates base and stage of a run anew each time; whether there was anything to do, what was said, results."""
    jsonl(tmp_path / "held.jsonl", HELD)
    (tmp_path / "held.yaml").write_text("name: held\npath: held.jsonl\nmax_new_tokens: 5\n")
    folder = trained("sft")
    evaluated = ["evaluate.tasks=[held.yaml]", "evaluate.checkpoints=[base, sft]"]

    def evaluate() -> tuple[bool, str, dict[str, Any]]:
        load_task.cache_clear()
        recipe = load(tmp_path / "told.yaml", evaluated)
        (folder.root / "recipe.json").write_text(
            json.dumps(
                json.loads((folder.root / "recipe.json").read_text()) | {"recipe": recipe.model_dump(mode="json")}
            )
        )
        capsys.readouterr()
        worked = stages._evaluate(recipe, folder)
        said = [line for line in capsys.readouterr().err.splitlines() if " anew: " in line]
        return worked, "\n".join(said), json.loads((folder.root / "results.json").read_text())

    return evaluate


def test_it_is_made_once_and_anew_for_what_has_changed_alone(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    folder = RunFolder(Path("runs/told"))
    worked, _, first = evaluate()
    assert (worked, first["complete"], [*first["checkpoints"]]) == (True, True, ["base", "sft"])
    assert evaluate() == (False, "", first)

    jsonl(tmp_path / "held.jsonl", HELD[:2])
    worked, said, results = evaluate()
    assert worked
    assert said.splitlines()[0].startswith("runs/told/eval/base/held: evaluated anew: rows (was ")
    assert said.splitlines()[1].startswith("runs/told/eval/sft/held: evaluated anew: rows (was ")
    assert [score["held"]["n"] for score in results["checkpoints"].values()] == [2, 2]

    weights = folder.model("sft") / "model.safetensors"
    save_file({name: -each for name, each in load_file(weights).items()}, weights, {"format": "pt"})
    done = json.loads((folder.stage("sft") / "COMPLETE").read_text())
    kept = ("name", "kind", "steps", "seconds", "cpu_seconds", "rollouts")
    seal(folder.stage("sft") / "COMPLETE", folder.model("sft"), {key: done[key] for key in kept})
    worked, said, _ = evaluate()
    assert worked
    assert said.startswith("runs/told/eval/sft/held: evaluated anew: checkpoint (was ")
    assert said.count("\n") == 0, "base is as it was"
    assert evaluate()[0] is False
