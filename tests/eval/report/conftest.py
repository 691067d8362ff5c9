"""A run's folder, without what it trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.inputs import line
from tests.support.reports import RIGHT, WRONG, log, save_lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without evaluation whose GRPO stage has two rewards, of weights 1 and 0.5, and no rollouts yet."""
    rewards = [{"use": "accuracy", "weight": 1.0}, {"use": "format", "weight": 0.5}]
    stages = [
        {"kind": "sft", "name": "sft", "data": "cold"},
        {"kind": "grpo", "name": "rl", "data": "cold", "rewards": rewards},
    ]
    model = {"path": "some/model", "revision": "abc"}
    data = {"cold": {"path": "some/rows", "name": None, "split": "train", "revision": None, "images": None}}
    recipe = {"name": "small", "seed": 0, "model": model, "data": data, "stages": stages, "evaluate": None}
    held = {"recipe": recipe, "processes": 2, "data": {"sft": "d1"}, "model": None, "rewards": {"mine.py": "d2"}}
    (tmp_path / "recipe.json").write_text(json.dumps({**held, "versions": {"trl": "1"}, "git": None}))
    for stage in stages:
        (tmp_path / stage["name"] / "model").mkdir(parents=True)
        (tmp_path / stage["name"] / "model" / "config.json").write_text("{}")
        files = [{"path": "config.json", "size": 2, "sha256": "d3"}]
        done = {**stage, "steps": 3, "seconds": 4000.0, "rollouts": None, "files": files}
        (tmp_path / stage["name"] / "COMPLETE").write_text(json.dumps(done))
        log(tmp_path / stage["name"], [{"step": 1, "loss": 1.0}])
    return tmp_path


@pytest.fixture
def evaluate(run: Path) -> Callable[..., None]:
    """Writes what an evaluation of a task leaves: for each checkpoint, outcomes by row, in the order of the ids."""

    def evaluate(*, task: str = "task.yaml", images: dict[str, str] | None = None, **outcomes: list[str]) -> None:
        held = json.loads((run / "recipe.json").read_text())
        held["recipe"]["evaluate"] = {"tasks": [str(run / task)], "checkpoints": [*outcomes]}
        (run / "recipe.json").write_text(json.dumps(held))
        if not (run / task).exists():
            (run / task).write_text("name: task\npath: some/data\nmax_new_tokens: 9\n")
        for name, of_rows in outcomes.items():
            folder = run / "eval" / name / "task"
            folder.mkdir(parents=True, exist_ok=True)
            lines = [
                line(f"r{n}", outcome, text=RIGHT if outcome == "correct" else WRONG)
                | {"image": (images or {}).get(f"r{n}")}
                for n, outcome in enumerate(of_rows)
            ]
            save_lines(folder, lines)

    return evaluate
