"""A key that has another name now is refused with that name, once, and the rest of the recipe is still checked."""

from pathlib import Path

import pytest

from pipeline.recipe.file import load
from pipeline.recipe.problem import RecipeError

RECIPE = """name: small
model: {path: some/model, dtype: float32}
data:
  rows: {path: rows.jsonl, bad_rows: drop}
stages:
  - name: grpo
    kind: grpo
    data: rows
    rewards: [{use: accuracy, max_abs: 2.0}]
    mixed_rows: split
    difficulty: {samples: 2, min_pass_rate: 0.1, max_pass_rate: 0.9}
    trainer: {num_generations: 8, per_device_train_batch_size: 8}
evaluate: {tasks: [gsm8k], checkpoints: [base, grpo]}
"""


@pytest.mark.parametrize(
    ("new", "old", "line", "message"),
    [
        ("checkpoints:", "on:", 13, "unknown_key: evaluate.on is `checkpoints` now"),
        ("min_pass_rate", "lowest", 11, "unknown_key: grpo.difficulty.lowest is `min_pass_rate` now"),
        ("max_pass_rate", "highest", 11, "unknown_key: grpo.difficulty.highest is `max_pass_rate` now"),
        ("bad_rows: drop", "bad_rows: stop", 4, "data.rows.bad_rows: `bad_rows: stop` is `bad_rows: fail` now"),
        ("mixed_rows: split", "mixed_rows: stop", 10, "grpo.mixed_rows: `mixed_rows: stop` is `mixed_rows: fail` now"),
        ("max_abs", "bound", 9, "takes no argument 'bound'. It takes: completions, answer, "),
        ("max_abs", "bound", 9, "`bound` is `max_abs` now"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(tmp_path: Path, new: str, old: str, line: int, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    load(path, [])
    path.write_text(RECIPE.replace(new, old))
    with pytest.raises(RecipeError) as refused:
        load(path, [])
    [problem] = refused.value.problems
    assert str(problem).startswith(f"ERROR {path}:{line} ")
    assert message in str(problem)


def test_all_old_names_come_at_once_and_on_the_command_line_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("checkpoints:", "on:").replace("min_pass_rate", "lowest").replace("drop", "stop"))
    with pytest.raises(RecipeError) as refused:
        load(path, [])
    assert len(refused.value.problems) == 3
    path.write_text(RECIPE)
    with pytest.raises(RecipeError, match=r"evaluate\.on is `checkpoints` now"):
        load(path, ["evaluate.on=[base]"])


def test_mistakes_that_no_schema_knows_come_together_with_old_names(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("checkpoints: [base, grpo]", "on: [base, grop]").replace("data: rows", "data: row"))
    with pytest.raises(RecipeError) as refused:
        load(path, [])
    assert [problem.code for problem in refused.value.problems] == ["unknown_data", "unknown_key", "unknown_checkpoint"]


def test_an_override_of_a_whole_mapping_is_not_looked_for_in_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    with pytest.raises(RecipeError) as refused:
        load(path, ["grpo.difficulty={samples: 2, lowest: 0.1, max_pass_rate: 0.9}"])
    [problem] = refused.value.problems
    assert problem.message == "grpo.difficulty.lowest is `min_pass_rate` now"
    assert not problem.where.endswith(":1")


@pytest.mark.parametrize("name", ["trainer", "difficulty", "evaluate", "lora", "sft", "data"])
@pytest.mark.parametrize("key", ["typo", "on", "lowest", "highest", "output_dir"])
def test_a_data_set_may_be_called_as_a_block_of_the_recipe(tmp_path: Path, name: str, key: str) -> None:
    path = tmp_path / "recipe.yaml"
    content = RECIPE.replace("  rows: {path", f"  {name}: {{{key}: 1, path").replace("data: rows", f"data: {name}")
    path.write_text(content)
    with pytest.raises(RecipeError) as refused:
        load(path, [])
    [problem] = refused.value.problems
    assert problem.message.startswith(f"data.{name}.{key}: unknown key. ")


def test_a_reward_of_yours_may_have_an_argument_of_an_old_name(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def mine(completions, bound, **_):\n    return [bound] * len(completions)\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("use: accuracy, max_abs: 2.0", "use: own.py:mine, bound: 2.0"))
    assert load(path, []).stages[0].rewards[0].model_extra == {"bound": 2.0}  # type: ignore[union-attr]
