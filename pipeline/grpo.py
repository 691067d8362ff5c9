"""Stage kind `grpo`: TRL's GRPOTrainer from the last stage's folder, with rollouts by vLLM or transformers."""

from pathlib import Path

import torch

from eval.chat import ChatFormat
from pipeline.data.prepare import grpo_rows, held_out, rollout_rows
from pipeline.handoff import StageResult, adapter_settings, save_model
from pipeline.launch import tell
from pipeline.progress import show_progress
from pipeline.recipe.problem import as_recipe_error
from pipeline.recipe.schema import GrpoStage, Recipe
from pipeline.recipe.trainer_arguments import grpo_arguments
from pipeline.rollout.dynamic_sampling import DynamicSamplingTrainer
from pipeline.rollout.engine import check_server
from pipeline.rollout.pass_rates import within
from pipeline.rollout.trainer import RolloutTrainer


def run(
    recipe: Recipe, stage: GrpoStage, model_in: str, out: Path, title: str, pass_rates: dict[str, float] | None = None
) -> StageResult:
    """Train the policy `model_in` (a folder or a hub id) on the stage's prompts; save a full checkpoint to `out/model`.

    The reference model of a stage with `beta` is `model_in`, the checkpoint that the stage starts from: TRL loads it
    from its path, or turns off the adapter, which is new in each stage.

    `title` heads the progress bar; `pass_rates` by row id choose the rows, where the stage has a `difficulty`.
    """
    with as_recipe_error(recipe.name, f"{stage.name}_inputs"):
        chat, data = ChatFormat(model_in, recipe.revision_of(model_in)), recipe.data[stage.data]
        args = grpo_arguments(recipe, stage, model_in, out, chat.config)
        with args.main_process_first(desc="rows"):  # the others take them from its cache
            rows = rollout_rows(data, chat, stage, held_out(recipe, stage))
        rows = grpo_rows(within(rows, stage, pass_rates) if pass_rates else rows, data, stage)
        if args.vllm_enable_sleep_mode and not torch.cuda.is_available():
            raise ValueError("vllm_enable_sleep_mode: vLLM sleeps on GPUs only; leave it out on a CPU")
        if args.use_vllm and args.vllm_mode == "server" and args.process_index == 0:
            check_server(args, model_in, tell)
    kind = DynamicSamplingTrainer if stage.dynamic_sampling else RolloutTrainer
    trainer = kind(
        model=model_in,
        chat=chat,
        stage=stage,
        reward_funcs=[reward.function() for reward in stage.rewards],
        args=args,
        train_dataset=rows,
        **adapter_settings(stage.lora, recipe.model.dtype),
    )
    show_progress(trainer, title, out / "metrics.jsonl")
    trainer.train_on()
    return save_model(trainer, out, recipe.model.dtype, rollouts="vllm" if trainer.use_vllm else "transformers")
