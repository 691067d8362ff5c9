"""The run, one clean process a step: each stage, then the evaluation. Only a folder crosses from one to the next.

GPU memory, accelerate's singletons and DeepSpeed's state end with a process, so every rank replaces itself (`exec`) by
the same command line, which finds the next thing to do in the run folder. One `accelerate launch` runs them all.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from eval.files import json_lines
from eval.task import load_task
from pipeline import launch
from pipeline.check.check import check_recipe, describe
from pipeline.checkpoint import preemption
from pipeline.checkpoint.run_folder import RunFolder, saved_checkpoints
from pipeline.checkpoint.run_identity import claim
from pipeline.recipe.problem import as_recipe_error
from pipeline.recipe.schema import Recipe
from rewards.grading import algebra

# torch, trl and vLLM take up to 20 s of one core to import: each process imports, below, what its own step needs.


def run_next_step(
    recipe: Recipe, folder: RunFolder, environment: dict[str, str], fresh: bool = False, allow_changed: bool = False
) -> None:
    """Do the next thing that is not done. Returns in the run's last process; before that, the process is replaced.

    Args:
        environment: as the launcher gave it; the next process starts with it.
        fresh, allow_changed: see `claim`.
    """
    first = launch.is_first_rank()
    with as_recipe_error(str(folder.root), "run_folder"):
        if first:
            folder.lock()
            claim(folder, recipe, fresh, allow_changed)
        completed = [stage.name for stage in recipe.stages if folder.completed(stage.name)]
    for index, stage in enumerate(recipe.stages):
        if stage.name not in completed:
            _run_stage(recipe, index, folder, first)
            _exec_next(environment)
        elif first:
            folder.tidy(stage.name)
    if (recipe.evaluate or not folder.reported()) and not _evaluate(recipe, folder) and first:
        print(f"{recipe.name}: all is complete; nothing to do")
    if first:
        from eval.report.results import print_summary
        from pipeline.hub import push

        print_summary(folder.root)
        with as_recipe_error(recipe.name, "push_to_hub"):
            push(recipe, folder)


def _run_stage(recipe: Recipe, index: int, folder: RunFolder, first: bool) -> None:
    """Train the stage, or, where it chooses its rows by difficulty and has not measured it, do that."""
    stage = recipe.stages[index]
    model_in = recipe.model.path
    if index:
        model_in = str(folder.model(recipe.stages[index - 1].name))
    if first:
        if index == 0:
            describe(check_recipe(recipe, folder.root, sys.stderr), folder.root, sys.stderr)
        else:
            with as_recipe_error(str(folder.root), "hand_off"):
                folder.verify(recipe.stages[index - 1].name)
    title, rates = f"stage {index + 1} of {len(recipe.stages)}: {stage.label}", None
    if stage.kind == "grpo" and stage.difficulty:
        from pipeline.rollout import pass_rates

        begun = bool(saved_checkpoints(folder.checkpoints(stage.name)))
        rates = pass_rates.stored(recipe, stage, model_in, folder.pass_rates(stage.name), begun)
        if rates is None:
            pass_rates.measure(recipe, stage, model_in, folder.pass_rates(stage.name), f"{title}, pass rates")
            return
    out = folder.stage(stage.name)
    if first:
        folder.begin(stage.name)
    _prepare_environment(recipe, out)
    if stage.kind == "sft":
        from pipeline import sft

        trained = sft.run(recipe, stage, model_in, out, title)
    else:
        from pipeline import grpo

        trained = grpo.run(recipe, stage, model_in, out, title, rates)
    if first:
        from eval.report.card import write_cards
        from eval.report.results import write_results

        last = json_lines(out / "metrics.jsonl")[-1]  # its times have those before a kill in them
        times = {name: round(last[name], 1) for name in ("seconds", "cpu_seconds")}
        result = {"name": stage.name, "kind": stage.kind, "steps": trained.steps, **times}
        folder.complete(stage.name, {**result, "rollouts": trained.rollouts})
        write_cards(folder.root, write_results(folder.root))


def _prepare_environment(recipe: Recipe, out: Path) -> None:
    """What libraries take from the environment alone."""
    trackers = {"TENSORBOARD_LOGGING_DIR": out / "tensorboard", "WANDB_DIR": out, "WANDB_PROJECT": recipe.name}
    for name, value in trackers.items():  # a user's own setting stays
        os.environ.setdefault(name, str(value))
    layers: list[str] = []
    if launch.sharding() == "fsdp2":
        from transformers import AutoConfig

        from pipeline.check.memory import skeleton

        config = AutoConfig.from_pretrained(recipe.model.path, revision=recipe.model.revision)
        layers = launch.layers_to_shard(skeleton(config))
    launch.overrule(recipe.model.dtype, layers)


def _exec_next(environment: dict[str, str]) -> NoReturn:
    """Replace this process by a clean one with the same command line."""
    algebra.close()
    if preemption.requested():
        preemption.stop("stopped between two stages; run the same command again to resume")
    launch.leave_process_group(environment)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [argument for argument in sys.orig_argv[1:] if argument != "--fresh"]  # it is not empty any more
    os.execve(sys.executable, [sys.executable, *command], environment)


def _evaluate(recipe: Recipe, folder: RunFolder) -> bool:
    """Ask each checkpoint what it has not been asked, and report. Returns whether there was anything to do."""
    from eval.checkpoint import opened
    from eval.evaluate import evaluate, task_rows
    from eval.report.card import write_cards
    from eval.report.page import write_report
    from eval.report.results import write_results
    from eval.respond import process_state

    state, model, worked = process_state(), recipe.model, not folder.reported()
    state.wait_for_everyone()  # the first rank is about to write the report
    evaluated = recipe.evaluate.checkpoints if recipe.evaluate else []
    tasks = [task_rows(load_task(task), warn=state.is_main_process) for task in recipe.tasks] if evaluated else []
    for name in evaluated:
        assert recipe.evaluate is not None
        if name != "base":
            with as_recipe_error(str(folder.root), "hand_off"):
                folder.verify(name)
        place, revision = (model.path, model.revision) if name == "base" else (str(folder.model(name)), None)
        decoding = recipe.evaluate.decoding(recipe.seed)
        with opened(place, model.dtype, revision) as checkpoint:
            worked |= evaluate(checkpoint, tasks, folder.evaluation(name), decoding, name)
    if worked and state.is_main_process:
        write_cards(folder.root, write_results(folder.root))
        write_report(folder.root)
    state.wait_for_everyone()
    state.destroy_process_group()
    return worked
