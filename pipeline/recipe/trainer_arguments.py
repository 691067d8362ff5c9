"""The arguments of TRL's trainers: a stage's `trainer` block with what the pipeline decides around it."""

from concurrent.futures import ProcessPoolExecutor
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from transformers import AutoConfig, PretrainedConfig
from trl import GRPOConfig, SFTConfig

from eval.decode import vision_token_ids
from pipeline.launch import forget_rank, processes
from pipeline.recipe.file import where
from pipeline.recipe.problem import Problem, RecipeError, as_recipe_error
from pipeline.recipe.schema import GrpoStage, Recipe, SftStage

KEPT_CHECKPOINTS = 2  # our choice: the newest, and one more should it be damaged


def sft_arguments(recipe: Recipe, stage: SftStage, model_in: str, out: Path) -> SFTConfig:
    """Raises: ValueError: TRL refuses them."""
    # TRL's default of 1024 tokens would silently cut the answer off a long trace.
    return SFTConfig(**{"max_length": None, **_settings(recipe, stage, model_in, out)})


def grpo_arguments(recipe: Recipe, stage: GrpoStage, model_in: str, out: Path, config: PretrainedConfig) -> GRPOConfig:
    """Raises: ValueError: TRL refuses them. `config` is the model's."""
    settings = _settings(recipe, stage, model_in, out)
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
    with as_recipe_error(where(recipe, "model", "path"), "model"):
        config = AutoConfig.from_pretrained(recipe.model.path, revision=recipe.model.revision)
    made = _all_arguments(recipe, config)
    arguments = {name: {type(each).__name__: each.to_dict()} for name, each in made.items()}
    text, yaml = StringIO(), YAML()
    yaml.dump({"recipe": recipe.model_dump(mode="json"), "arguments": arguments}, text)
    return text.getvalue()


def refused(recipe: Recipe, config: PretrainedConfig) -> list[Problem]:
    """What TRL says against the arguments of any stage. Nothing of that stays: making them sets up a whole job."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as child:
        return child.submit(_refused, recipe, config).result()


def _refused(recipe: Recipe, config: PretrainedConfig) -> list[Problem]:
    ranks = processes()
    forget_rank()  # what all ranks hold together is the child's own batch
    stages = [_as_one_process(stage, ranks) for stage in recipe.stages]
    try:
        _all_arguments(recipe.model_copy(update={"stages": stages}), config)
    except RecipeError as error:
        return error.problems
    return []


def _as_one_process(stage: SftStage | GrpoStage, ranks: int) -> SftStage | GrpoStage:
    """The stage with the batch of all ranks, and without what TRL refuses for this machine's lack of a GPU alone."""
    trainer = {**stage.trainer, "per_device_train_batch_size": stage.settings()["per_device_train_batch_size"] * ranks}
    if not torch.cuda.is_available():
        trainer = {key: value for key, value in trainer.items() if key not in {"tf32", "fp16"}}
    return stage.model_copy(update={"trainer": trainer})


def _all_arguments(recipe: Recipe, config: PretrainedConfig) -> dict[str, SFTConfig | GRPOConfig]:
    """By stage. Raises: RecipeError: TRL refuses some, of every stage that it does."""
    out, made, problems = Path("runs") / recipe.name, {}, []
    for index, stage in enumerate(recipe.stages):
        try:
            if stage.kind == "sft":
                made[stage.name] = sft_arguments(recipe, stage, recipe.model.path, out / stage.name)
            else:
                made[stage.name] = grpo_arguments(recipe, stage, recipe.model.path, out / stage.name, config)
        except (ValueError, ImportError, OSError) as error:
            place, said = where(recipe, "stages", index, "trainer"), str(error).splitlines()[0]
            problems.append(Problem(place, "trainer", f"{stage.name}.trainer: TRL refuses it: {said}"))
    if problems:
        raise RecipeError(problems)
    return made


def trained_dtype(recipe: Recipe, stage: SftStage | GrpoStage) -> str:
    """The dtype of the weights that the optimizer moves.

    float32 when all are trained: bfloat16 has 8 bits, so a step of 1e-6 is rounded away on nearly all weights (2% of
    them move, a tenth of the way). Matrices are still multiplied in the recipe's dtype, and the model that is handed
    on has it. An adapter's frozen base has the recipe's dtype.
    """
    return "float32" if stage.lora is None else recipe.model.dtype


def _settings(recipe: Recipe, stage: SftStage | GrpoStage, model_in: str, out: Path) -> dict[str, Any]:
    """The recipe's `trainer` block with what the pipeline decides (output, seed, precision, device) around it."""
    on_cpu = not torch.cuda.is_available()
    return {
        "report_to": "none",
        "log_level_replica": "error",
        "save_total_limit": KEPT_CHECKPOINTS,
        "use_cpu": on_cpu,
        "bf16": recipe.model.dtype == "bfloat16",
        "project": recipe.name,
        "run_name": f"{recipe.name}-{out.name}",
        **stage.trainer,
        "push_to_hub": False,  # `pipeline.hub` does, when the stage has been evaluated
        "output_dir": str(out / "checkpoints"),
        "seed": recipe.seed,
        "model_init_kwargs": {"dtype": trained_dtype(recipe, stage), "revision": recipe.revision_of(model_in)},
    }


def sampling_settings(own: dict[str, Any], banned: list[int], use_vllm: bool) -> dict[str, Any]:
    """`own`, a recipe's `generation_kwargs`, with image placeholders kept out of completions whatever it says.

    A sampled one stops the step with "Image features and image tokens do not match". TRL 1.16 bans only the image token
    itself, only without vLLM, and not where the recipe suppresses tokens of its own. Delete when it bans all, always
    (`trl/trainer/grpo_trainer.py:1170`; huggingface/trl#3847, closed).
    """
    if not banned:
        return own
    if use_vllm:
        return {**own, "logit_bias": {**own.get("logit_bias", {}), **dict.fromkeys(banned, -100.0)}}
    return {**own, "suppress_tokens": sorted({*own.get("suppress_tokens", []), *banned})}
