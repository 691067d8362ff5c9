"""TRL's own arguments, made of a recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.chat import ChatFormat
from eval.decode import vision_token_ids
from pipeline.main import main
from pipeline.recipe.trainer_arguments import sampling_settings
from tests.support.checked import Checked
from tests.support.families import save_tempted
from tests.support.questions import MakeRecipe, Train, mixed


def test_the_resolved_recipe_has_trls_exact_arguments(check: Callable[..., Checked], capsys: Any) -> None:
    from ruamel.yaml import YAML
    from trl import GRPOConfig, SFTConfig

    capsys.readouterr()
    assert main(["recipe.yaml", "--print-recipe", "sft.trainer.learning_rate=5e-6"]) == 0
    printed = YAML(typ="safe").load(capsys.readouterr().out)
    assert printed["recipe"]["stages"][0]["trainer"]["learning_rate"] == 5e-6
    sft, grpo = printed["arguments"]["sft"]["SFTConfig"], printed["arguments"]["grpo"]["GRPOConfig"]
    assert (sft["learning_rate"], sft["max_length"], sft["seed"], sft["save_total_limit"]) == (5e-6, 400, 0, 2)
    assert (grpo["reward_weights"], grpo["log_completions"]) == ([1.0, 0.1], True)
    assert sft.keys() >= {name for name in SFTConfig.__dataclass_fields__ if not name.startswith("_")} - {"hub_token"}
    assert grpo.keys() >= {"num_generations", "beta"} & GRPOConfig.__dataclass_fields__.keys()


def test_image_tokens_are_never_sampled_by_transformers(
    recipe: MakeRecipe, train: Train, small: Callable[[str], Path], tmp_path: Path
) -> None:
    """The recipe's own suppressed tokens do not replace the ban."""
    tempted = save_tempted(small("qwen2_5_vl"), tmp_path / "tempted")
    banned = vision_token_ids(ChatFormat(str(tempted)).config)
    own = {"suppress_tokens": [50]}
    assert sampling_settings(own, banned, use_vllm=False) == {"suppress_tokens": [*banned, 50]}
    stage = recipe("format", rows=mixed(tmp_path, [True] * 4), family="qwen2_5_vl", generation_kwargs=own)
    assert len(train(stage, model_in=str(tempted))) == 3


def test_a_recipes_own_logit_bias_does_not_replace_the_ban() -> None:
    own = {"logit_bias": {5: 1.0, 7: 2.0}, "frequency_penalty": 0.1}
    merged = {"logit_bias": {5: 1.0, 7: -100.0, 9: -100.0}, "frequency_penalty": 0.1}
    assert sampling_settings(own, [7, 9], use_vllm=True) == merged
    assert sampling_settings(own, [], use_vllm=True) == own
