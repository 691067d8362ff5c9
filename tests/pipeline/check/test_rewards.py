"""Rewards tried before a run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.main import main
from pipeline.recipe.schema import Recipe
from tests.support.questions import questions


def _check(recipe: Recipe, folder: Path, *options: str) -> int:
    with (folder / "recipe.yaml").open("w") as file:
        YAML(typ="safe").dump(recipe.model_dump(mode="json", exclude_none=True), file)
    return main([str(folder / "recipe.yaml"), "--check", *options])


def test_the_check_shows_what_each_reward_pays(
    recipe: Callable[..., Recipe], own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _check(recipe("accuracy", {"use": "format", "weight": 0.1}, {"use": f"{own.name}:constant"}), tmp_path) == 0
    output = capsys.readouterr().out
    begin = next(n for n, line in enumerate(output.splitlines()) if line.split()[:2] == ["reward", "right"])
    table = [re.split(r"  +", line.strip()) for line in output.splitlines()[begin + 1 : begin + 5]]
    assert table == [
        ["accuracy", "1", "0", "0", "0"],
        ["format", "1", "1", "0", "0"],
        ["constant", "1", "1", "1", "1"],
        ["weighted sum", "2.1", "1.1", "1", "1"],
    ]
    assert len([line for line in output.splitlines() if line.startswith("WARNING")]) == 1
    assert "WARNING grpo.rewards: constant pays a wrong and a malformed answer as much as a right one" in output
    assert "no problem found" in output


def test_an_argument_that_is_a_column_too_is_a_problem(
    recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TRL passes every column of the data by name, so the recipe's value would be lost without a word."""
    rows = [{**row, "budget": 1} for row in questions(4)]
    assert _check(recipe("accuracy", {"use": "brevity", "budget": 100}, rows=rows), tmp_path) == 2
    [problem] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ERROR")]
    assert "argument 'budget' of 'brevity' is a column of data 'rows' too" in problem
    assert _check(recipe("accuracy", {"use": "brevity", "budget": 100}, rows=questions(4)), tmp_path) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("needs", "reward 'needs', row id=q3: raised TypeError: needs() missing 1 required positional argument"),
        ("nothing", "none gives a value, even for right answers"),
    ],
)
def test_a_reward_that_cannot_work_is_a_problem_with_its_line(
    recipe: Callable[..., Recipe], own: Path, tmp_path: Path, capsys: Any, name: str, message: str
) -> None:
    assert _check(recipe({"use": f"{own.name}:{name}"}), tmp_path) == 2
    [problem] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ERROR")]
    where, rest = problem.removeprefix("ERROR ").split(" id=- reward: ")
    file, line = where.split(":")
    assert "rewards" in "".join(Path(file).read_text().splitlines()[: int(line)])
    assert message in rest
    assert _check(recipe({"use": f"{own.name}:{name}"}), tmp_path, "--json") == 2
    [problem] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert problem["code"] == "reward"


def test_data_that_is_not_here_is_a_problem_and_the_rewards_are_not_tried(
    recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = recipe("accuracy").model_dump()
    content["data"]["rows"]["path"] = "no-one/has-this"
    assert _check(Recipe.model_validate(content), tmp_path) == 2
    out = capsys.readouterr().out
    assert "grpo: rewards not tried, data 'rows' cannot be read" in out
    assert re.search(r"ERROR .*recipe\.yaml:\d+ id=- data: .*no-one/has-this", out)
