"""What a run folder refuses: something else than it holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.run_folder import RunFolder
from pipeline.checkpoint.run_identity import claim
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import Recipe


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "mine.py").write_text("def mine(completions, **columns):\n    return [1.0 for _ in completions]\n")
    stage = {"name": "sft", "kind": "sft", "data": "rows", "loss": {"think_weight": {"start": 0.9, "end": 0.1}}}
    rewards = [{"use": f"{tmp_path / 'mine.py'}:mine", "weight": 1.0}]
    return {
        "name": "held",
        "model": {"path": "some/model"},
        "data": {"rows": {"path": str(tmp_path / "rows.jsonl")}},
        "stages": [
            {**stage, "trainer": {"max_steps": 6}},
            {"name": "grpo", "kind": "grpo", "data": "rows", "rewards": rewards},
        ],
        "evaluate": {"tasks": ["scienceqa_img"], "checkpoints": ["sft"]},
    }


def claimed(content: dict[str, Any], tmp_path: Path, trained: bool = True) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "held")
    folder.root.mkdir(parents=True)
    claim(folder, Recipe.model_validate(content))
    if trained:
        (folder.checkpoints("sft") / "checkpoint-3").mkdir(parents=True)
    return folder


def refused(folder: RunFolder, content: dict[str, Any], **keys: bool) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        claim(folder, Recipe.model_validate(content), **keys)
    return [problem.message for problem in caught.value.problems]


def test_a_changed_recipe_is_refused_line_by_line(content: dict[str, Any], tmp_path: Path) -> None:
    folder = claimed(content, tmp_path)
    content["seed"] = 1
    content["stages"][0]["trainer"]["max_steps"] = 7
    content["stages"][0]["loss"]["think_weight"]["end"] = 0.2
    content["stages"][1]["rewards"][0]["weight"] = 2.0
    *lines, advice = refused(folder, content)
    reward = f"grpo.rewards.{tmp_path / 'mine.py'}:mine.weight"
    assert lines == [
        "seed: was 0, is 1",
        f"{reward}: was 1.0, is 2.0",
        "sft.loss.think_weight.end: was 0.1, is 0.2",
        "sft.trainer.max_steps: was 6, is 7",
    ]
    assert "holds a run of something else (4 changes)" in advice
    assert "--allow-changed" in advice


def test_changed_data_rewards_and_processes_are_refused(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = claimed(content, tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": 2}\n')
    (tmp_path / "mine.py").write_text("def mine(completions, **columns):\n    return [2.0 for _ in completions]\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    lines = refused(folder, content)
    assert [line.partition(":")[0] for line in lines[:2]] == ["data.rows", "processes"]
    assert lines[2].startswith("rewards.")
    assert lines[1] == "processes: was 1, is 2"


def test_a_change_is_taken_where_it_is_allowed_or_nothing_is_trained(content: dict[str, Any], tmp_path: Path) -> None:
    folder = claimed(content, tmp_path, trained=False)
    content["seed"] = 1
    claim(folder, Recipe.model_validate(content))
    (folder.checkpoints("sft") / "checkpoint-3").mkdir(parents=True)
    content["seed"] = 2
    assert refused(folder, content)[0] == "seed: was 1, is 2"
    claim(folder, Recipe.model_validate(content), allow_changed=True)
    claim(folder, Recipe.model_validate(content))


def test_what_is_evaluated_may_change(content: dict[str, Any], tmp_path: Path) -> None:
    folder = claimed(content, tmp_path)
    content["evaluate"]["checkpoints"] = ["base", "sft"]
    claim(folder, Recipe.model_validate(content))
    assert json.loads((folder.root / "recipe.json").read_text())["recipe"]["evaluate"]["checkpoints"] == ["base", "sft"]


def test_fresh_needs_an_empty_folder(content: dict[str, Any], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "held")
    folder.lock()
    claim(folder, Recipe.model_validate(content), fresh=True)
    with pytest.raises(ValueError, match=r"--fresh starts in an empty folder only, and .* has recipe\.json"):
        claim(folder, Recipe.model_validate(content), fresh=True)
