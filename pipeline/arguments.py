"""The arguments of TRL's trainers: a stage's `trainer` block with what the pipeline decides around it."""

from io import StringIO
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from transformers import AutoConfig, PretrainedConfig
from trl import GRPOConfig, SFTConfig

from eval.decode import vision_token_ids
from pipeline.problem import mistakes
from pipeline.recipe import GrpoStage, Recipe, SftStage
from pipeline.recipe_file import where


def sft_arguments(recipe: Recipe, stage: SftStage, model_in: str, out: Path) -> SFTConfig:
    """Raises: ValueError: TRL refuses them."""
    # TRL's default of 1024 tokens would silently cut the answer off a long trace.
    return SFTConfig(**{"max_length": None, **_settings(recipe, stage.trainer, model_in, out)})


def grpo_arguments(recipe: Recipe, stage: GrpoStage, model_in: str, out: Path, config: PretrainedConfig) -> GRPOConfig:
    """Raises: ValueError: TRL refuses them. `config` is the model's."""
    settings = _settings(recipe, stage.trainer, model_in, out)
    settings |= {"log_completions": True, "num_completions_to_print": 0}
    settings["reward_weights"] = [reward.weight for reward in stage.rewards]
    own, use_vllm = stage.trainer.get("generation_kwargs") or {}, stage.trainer.get("use_vllm", False)
    settings["generation_kwargs"] = sampling_settings(own, vision_token_ids(config), use_vllm)
    return GRPOConfig(**settings)


def resolved(recipe: Recipe) -> str:
    """The recipe with all defaults, and the exact arguments of each stage's trainer, as YAML.

    Raises:
        RecipeError: the model's configuration cannot be read, or TRL refuses a stage's arguments.
    """
    out, arguments = Path("runs") / recipe.name, {}
    with mistakes(where(recipe, "model", "path"), "model"):
        config = AutoConfig.from_pretrained(recipe.model.path, revision=recipe.model.revision)
    for index, stage in enumerate(recipe.stages):
        with mistakes(where(recipe, "stages", index, "trainer"), "trainer"):
            if stage.kind == "sft":
                made: Any = sft_arguments(recipe, stage, recipe.model.path, out / stage.name)
            else:
                made = grpo_arguments(recipe, stage, recipe.model.path, out / stage.name, config)
        arguments[stage.name] = {type(made).__name__: made.to_dict()}
    text, yaml = StringIO(), YAML()
    yaml.dump({"recipe": recipe.model_dump(mode="json"), "arguments": arguments}, text)
    return text.getvalue()


def _settings(recipe: Recipe, trainer: dict[str, Any], model_in: str, out: Path) -> dict[str, Any]:
    """The recipe's `trainer` block with what the pipeline decides (output, seed, precision, device) around it."""
    on_cpu = not torch.cuda.is_available()
    return {
        "report_to": "none",
        "log_level_replica": "error",
        "save_total_limit": 2,  # our choice: the newest, and one more should it be damaged
        "use_cpu": on_cpu,
        "bf16": recipe.model.dtype == "bfloat16",
        **trainer,
        "output_dir": str(out / "checkpoints"),
        "seed": recipe.seed,
        "model_init_kwargs": {"dtype": recipe.model.dtype, "revision": recipe.revision_of(model_in)},
    }


def sampling_settings(own: dict[str, Any], banned: list[int], use_vllm: bool) -> dict[str, Any]:
    """`own`, a recipe's `generation_kwargs`, with image placeholders kept out of completions whatever it says.

    A sampled one stops the step with "Image features and image tokens do not match". TRL 1.16 bans only the image token
    itself, only without vLLM, and not where the recipe suppresses tokens of its own.
    """
    if not banned:
        return own
    if use_vllm:
        return {**own, "logit_bias": {**own.get("logit_bias", {}), **dict.fromkeys(banned, -100.0)}}
    return {**own, "suppress_tokens": sorted({*own.get("suppress_tokens", []), *banned})}
