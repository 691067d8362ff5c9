"""What no schema can say of a recipe: names, arithmetic, packages that it needs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from pipeline.recipe import consistency
from pipeline.recipe.consistency import problems
from pipeline.recipe.file import load
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import Recipe
from tests.support.checked import Checked
from tests.support.questions import MakeRecipe
from tests.support.recipes import GOOD, problems_of


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, "is_installed", lambda package: False)
    path.write_text(GOOD.replace("    trainer:\n", "    lora: {r: 4, alpha: 8, load_in_4bit: true}\n    trainer:\n"))
    [problem] = problems_of(path)
    assert problem.startswith(f"ERROR {path}:10 ")
    assert "pip install 'balanced-thinking[qlora]'" in problem


def test_data_that_is_not_in_the_recipe_is_named(path: Path) -> None:
    path.write_text(GOOD.replace("data: cold", "data: colt", 1))
    assert problems_of(path) == [f"ERROR {path}:8 id=- unknown_data: sft.data: no data 'colt'. Did you mean 'cold'?"]
    path.write_text(GOOD)
    [problem] = problems_of(path, "sft.eval_data=colt", "sft.trainer.eval_strategy=epoch")
    assert "unknown_data: sft.eval_data: no data 'colt'. Did you mean 'cold'?" in problem


def test_missing_vllm_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(GOOD.replace("use_vllm: false", "use_vllm: true"))
    monkeypatch.setattr("pipeline.recipe.consistency.is_installed", lambda name: False)
    [problem] = problems_of(path)
    assert "pip install 'balanced-thinking[vllm]'" in problem
    assert "use_vllm: false" in problem


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("save_steps: 3, num_iterations: 2", "save_steps: 3 steps x gradient_accumulation_steps 1 = 3 batches"),
        (
            "save_steps: 3, num_iterations: 2",
            "1 x num_iterations 2 = 2: a checkpoint within one cannot",
        ),
        ("save_steps: 3, num_iterations: 2", "A multiple of 2 can, such as 4"),
        ("steps_per_generation: 3", "A multiple of 3 can, such as 501"),
        ("steps_per_generation: 8, gradient_accumulation_steps: 4, save_steps: 9", "A multiple of 2 can, such as 10"),
    ],
)
def test_saves_within_a_generation_are_refused_with_the_arithmetic(path: Path, settings: str, message: str) -> None:
    path.write_text(GOOD.replace("use_vllm: false", f"use_vllm: false, {settings}"))
    (problem,) = problems_of(path)
    assert problem.startswith(f"ERROR {path}:")
    assert message in problem


@pytest.mark.parametrize(
    "settings",
    [
        "save_steps: 4, num_iterations: 2",
        "steps_per_generation: 3, max_steps: 20",
        "steps_per_generation: 3, save_strategy: epoch",
        "steps_per_generation: 8, gradient_accumulation_steps: 4, save_steps: 10",
    ],
)
def test_saves_between_two_generations_are_not(path: Path, settings: str) -> None:
    path.write_text(GOOD.replace("use_vllm: false", f"use_vllm: false, {settings}"))
    load(path, [])


def test_vllm_on_a_cpu_names_the_library_that_it_lacks(
    check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    use = ["grpo.trainer.use_vllm=true", "grpo.trainer.vllm_max_model_length=2048"]
    assert check(*use).code == 0
    monkeypatch.setattr("pipeline.recipe.consistency.NUMA", "libnone.so.1")
    code, [problem], text = check(*use)
    assert (code, problem.code) == (2, "package_missing")
    assert "apt-get install libnuma1" in text


def test_batches_are_those_of_all_ranks(check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch) -> None:
    small = "grpo.trainer.per_device_train_batch_size=1"
    code, [problem], _ = check(small)
    assert (code, problem.code) == (2, "batch_arithmetic")
    monkeypatch.setenv("WORLD_SIZE", "8")
    code, problems, text = check(small)
    assert (code, problems) == (0, [])
    assert "3 steps of 2 prompts x 4 completions" in text


@pytest.mark.parametrize(
    ("keys", "trainer", "message"),
    [
        ({}, {"generation_kwargs": {"seed": 1}}, "all completions of a group would be the same"),
        ({}, {"generation_kwargs": {"n": 2}}, "num_generations says how many completions"),
        (
            {},
            {"use_vllm": True, "vllm_max_model_length": 512, "max_completion_length": 512},
            "512 holds prompt and completion, and max_completion_length is 512, which leaves nothing for the prompt",
        ),
        (
            {},
            {"num_generations": 3},
            "8 completions, which num_generations 3 does not divide; a multiple of 3 processes",
        ),
        ({}, {"use_vllm": True, "loss_type": "vespo"}, "vespo needs vllm_importance_sampling_mode token_truncate or"),
        (
            {"difficulty": {"samples": 2, "min_pass_rate": 0.9, "max_pass_rate": 0.1}},
            {},
            "min_pass_rate 0.9 is above max_pass_rate",
        ),
    ],
)
def test_mistakes_are_found_without_loading_anything(
    recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Any, trainer: Any, message: str
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    content = recipe("format", keys=keys, **trainer).model_dump(exclude_none=True)
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=re.escape(message)):
        load(tmp_path / "recipe.yaml", [])


def test_a_push_that_cannot_be_is_found_before_training(
    small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    content = yaml.safe_load(
        f"""
        name: told
        model: {{path: {small("qwen3")}}}
        data: {{rows: {{path: rows.jsonl}}}}
        stages: [{{name: sft, kind: sft, data: rows, loss: token_mean, trainer: {{push_to_hub: true}}}}]
        """
    )
    found = list(problems(Recipe.model_validate(content), tmp_path))
    assert [code for _, code, _ in found] == ["hub", "hub"]
    assert "Set hub_model_id" in found[0][2]
    assert "HF_TOKEN" in found[1][2]
