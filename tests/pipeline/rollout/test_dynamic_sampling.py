"""Groups without contrast, replaced by others or left in their place."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.support.inputs import ROOT
from tests.support.questions import MakeRecipe, Train, mixed, questions, rollouts

# Of half of the questions all completions get the same; of the others, almost no two.
HALF = """
def half(completions, id, **columns):
    return [len(set(c[0]["content"])) + sum(map(ord, c[0]["content"])) / 1e5 if int(row[1:]) % 2 else 1.0
            for c, row in zip(completions, id, strict=True)]
"""


@pytest.fixture
def half(tmp_path: Path) -> str:
    (tmp_path / "half.py").write_text(HALF)
    return f"{tmp_path / 'half.py'}:half"


def test_groups_without_contrast_are_replaced(recipe: MakeRecipe, train: Train, half: str, tmp_path: Path) -> None:
    """Two groups a step, of 24 questions; those of even questions teach nothing."""
    asked = recipe({"use": half}, rows=questions(24), max_steps=6)
    assert max(step["frac_reward_zero_std"] for step in train(asked, "as they come")) > 0
    asked = recipe({"use": half}, rows=questions(24), max_steps=6, keys={"dynamic_sampling": 12})
    steps = train(asked)
    assert [step["frac_reward_zero_std"] for step in steps] == [0] * 6
    assert [step["dynamic_sampling/unfilled"] for step in steps] == [0] * 6
    assert {step["dynamic_sampling/replaced"] for step in steps} >= {0.5}
    _assert_whole(rollouts(tmp_path / "grpo"), 2, 4)


def _assert_whole(tables: list[pandas.DataFrame], groups: int, size: int) -> None:
    """Each saved group is one question's, its rewards are those of its completions, and it has contrast."""
    namespace: dict[str, Any] = {}
    exec(HALF, namespace)
    for table in tables:
        assert len(table) == groups * size
        paid = namespace["half"](list(table["completion"]), list(table["id"]))
        assert list(table["half"]) == pytest.approx(paid, abs=1e-4)
        for begin in range(0, len(table), size):
            group = table[begin : begin + size]
            assert len(set(group["id"])) == 1
            number = int(group["id"].iloc[0][1:])
            assert number % 2 == 1
            assert f"What is {number} plus 2?" in str(group["prompt"].iloc[0][1]["content"])
            assert (group["answer"] == str(number + 2)).all()
            assert float(group["advantage"].sum()) == pytest.approx(0, abs=1e-3)


def test_what_cannot_be_replaced_keeps_its_place(recipe: MakeRecipe, train: Train, half: str, tmp_path: Path) -> None:
    even = [row for row in questions(12) if int(row["id"][1:]) % 2 == 0]
    steps = train(recipe({"use": half}, rows=even, keys={"dynamic_sampling": 2}))
    assert [step["dynamic_sampling/unfilled"] for step in steps] == [1.0] * 3
    assert [step["dynamic_sampling/rounds"] for step in steps] == [2.0] * 3
    assert [len(table) for table in rollouts(tmp_path / "grpo")] == [8] * 3


def test_groups_of_images_are_replaced_with_their_images(
    recipe: MakeRecipe, train: Train, half: str, tmp_path: Path
) -> None:
    """With the wrong images, tokens and features would not match, or be those of another question."""
    path = mixed(tmp_path, [True] * 12 + [False] * 12)
    keys = {"dynamic_sampling": 8, "mixed_rows": "split"}
    steps = train(recipe({"use": half}, rows=path, family="qwen2_5_vl", keys=keys, max_steps=4))
    assert max(step["dynamic_sampling/replaced"] for step in steps) > 0
    for table in rollouts(tmp_path / "grpo"):
        assert len({int(row[1:]) < 12 for row in table["id"]}) == 1, "a replacement is of the batch's kind"


@pytest.mark.slow
def test_groups_are_replaced_across_ranks(recipe: MakeRecipe, half: str, tmp_path: Path) -> None:
    """Groups of four over two ranks with two completions each a step: every group lies on both."""
    asked = recipe(
        {"use": half},
        "format",
        rows=questions(24),
        keys={"dynamic_sampling": 12},
        per_device_train_batch_size=2,
        max_steps=5,
    )
    (tmp_path / "recipe.yaml").write_text(json.dumps(asked.model_dump(exclude_none=True)))
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(ROOT / "pipeline" / "run.py"), str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tables = rollouts(tmp_path / "runs" / "rollouts" / "grpo")
    assert len(tables) == 5
    _assert_whole(tables, 1, 4)
