"""The run, one clean process a step: each stage, then the evaluation. Only a folder crosses from one to the next.

GPU memory, accelerate's singletons and DeepSpeed's state end with a process, so every rank replaces itself (`exec`) by
the same command line, which finds the next thing to do in the run folder. One `accelerate launch` runs them all.
"""

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from eval.files import json_lines
from eval.task import Decoding, Task, is_scored, load_task
from pipeline.check.check import check, describe
from pipeline.checkpoint import preemption
from pipeline.checkpoint.run_folder import RunFolder
from pipeline.recipe.problem import mistakes
from pipeline.recipe.schema import Recipe, processes, sharding
from rewards.grading import algebra

# torch, trl and vLLM take up to 20 s of one core to import: each process imports, below, what its own step needs.


def advance(
    recipe: Recipe, folder: RunFolder, environment: dict[str, str], fresh: bool = False, allow_changed: bool = False
) -> None:
    """Do the next thing that is not done. Returns in the run's last process; before that, the process is replaced.

    Args:
        environment: as the launcher gave it; the next process starts with it.
        fresh, allow_changed: see `RunFolder.claim`.
    """
    first = int(environment.get("RANK", "0")) == 0
    with mistakes(str(folder.root), "run_folder"):
        if first:
            folder.lock()
            folder.claim(recipe, fresh, allow_changed)
        completed = [stage.name for stage in recipe.stages if folder.completed(stage.name)]
    for index, stage in enumerate(recipe.stages):
        if stage.name not in completed:
            _run_stage(recipe, index, folder, first)
            _hop(environment)
        elif first:
            folder.tidy(stage.name)
    if not folder.reported() or _unscored(recipe, folder):
        _evaluate(recipe, folder)
    elif first:
        print(f"{recipe.name}: all is complete; nothing to do")
    if first:
        from eval.report.results import print_summary
        from pipeline.hub import push

        print_summary(folder.root)
        with mistakes(recipe.name, "push_to_hub"):
            push(recipe, folder)


def _run_stage(recipe: Recipe, index: int, folder: RunFolder, first: bool) -> None:
    """Train the stage, or, where it chooses its rows by difficulty and has not measured it, do that."""
    stage = recipe.stages[index]
    model_in = recipe.model.path
    if index:
        model_in = str(folder.model(recipe.stages[index - 1].name))
    if first:
        if index == 0:
            describe(check(recipe, folder.root, sys.stderr), folder.root, sys.stderr)
        else:
            with mistakes(str(folder.root), "hand_off"):
                folder.verify(recipe.stages[index - 1].name)
    title, rates = f"stage {index + 1} of {len(recipe.stages)}: {stage.label}", None
    if stage.kind == "grpo" and stage.difficulty:
        from pipeline.rollout import pass_rates as difficulty

        rates = difficulty.pass_rates(recipe, stage, folder.pass_rates(stage.name))
        if rates is None:
            difficulty.measure(recipe, stage, model_in, folder.pass_rates(stage.name), f"{title}, pass rates")
            return
    out = folder.stage(stage.name)
    if first:
        folder.begin(stage.name)
    _prepare_environment(recipe, out)
    if stage.kind == "sft":
        from pipeline import sft

        finished = sft.run(recipe, stage, model_in, out, title)
    else:
        from pipeline import grpo

        finished = grpo.run(recipe, stage, model_in, out, title, rates)
    if first:
        from eval.report.card import write_cards
        from eval.report.results import write_results

        last = json_lines(out / "metrics.jsonl")[-1]  # its times have those before a kill in them
        times = {name: round(last[name], 1) for name in ("seconds", "cpu_seconds")}
        result = {"name": stage.name, "kind": stage.kind, "steps": finished.steps, **times}
        folder.complete(stage.name, {**result, "rollouts": finished.rollouts})
        write_cards(folder.root, write_results(folder.root))


def _prepare_environment(recipe: Recipe, out: Path) -> None:
    """What libraries take from the environment alone."""
    trackers = {"TENSORBOARD_LOGGING_DIR": out / "tensorboard", "WANDB_DIR": out, "WANDB_PROJECT": recipe.name}
    for name, value in trackers.items():  # which have no argument for it; a user's own setting stays
        os.environ.setdefault(name, str(value))
    if processes() == 1:
        # Left alone, TRL gives an engine the first of four fixed ports that is free: the same to two runs that start
        # together, and the second ends.
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # of the launcher, which would win over a float32 recipe
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if recipe.model.dtype == "bfloat16" else "no"
    if sharding() == "fsdp2":
        from transformers import AutoConfig

        from pipeline.check.memory import layers_to_cut

        config = AutoConfig.from_pretrained(recipe.model.path, revision=recipe.model.revision)
        if layers := layers_to_cut(config):
            os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", ",".join(layers))


def _hop(environment: dict[str, str]) -> NoReturn:
    """Replace this process by a clean one with the same command line.

    Several ranks agree on a fresh port first: the launcher's own store serves only one process group.
    """
    import torch.distributed as dist

    algebra.close()
    if preemption.requested():
        preemption.stop("stopped between two stages; the same command goes on")
    if dist.is_initialized():
        dist.barrier()
        if dist.get_world_size() > 1:
            port = [_free_port() if dist.get_rank() == 0 else 0]
            dist.broadcast_object_list(port)
            environment |= {"MASTER_PORT": str(port[0]), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    command = [argument for argument in sys.orig_argv[1:] if argument != "--fresh"]  # it is not empty any more
    os.execve(sys.executable, [sys.executable, *command], environment)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port


def _decoding(recipe: Recipe) -> Decoding:
    assert recipe.evaluate is not None
    settings = recipe.evaluate
    return Decoding(settings.batch_size, settings.samples, settings.temperature, recipe.seed, settings.image_removed)


def _unscored(recipe: Recipe, folder: RunFolder) -> dict[str, list[Task]]:
    """The tasks that each checkpoint has no scores for yet; checkpoints with all of them are left out."""
    if recipe.evaluate is None:
        return {}
    tasks, decoding = [load_task(task) for task in recipe.tasks], _decoding(recipe)
    todo = {
        name: [task for task in tasks if not is_scored(folder.scores(name, task.name), task, decoding)]
        for name in recipe.evaluate.on
    }
    return {name: tasks for name, tasks in todo.items() if tasks}


def _evaluate(recipe: Recipe, folder: RunFolder) -> None:
    from eval.decode import loaded
    from eval.evaluate import evaluate, process_state
    from eval.report.card import write_cards
    from eval.report.page import write_report
    from eval.report.results import write_results

    state, model = process_state(), recipe.model
    for name, tasks in _unscored(recipe, folder).items():
        if name != "base":
            with mistakes(str(folder.root), "hand_off"):
                folder.verify(name)
        checkpoint, revision = (model.path, model.revision) if name == "base" else (str(folder.model(name)), None)
        with loaded(checkpoint, model.dtype, revision) as decoder:
            for task in tasks:
                title = f"evaluate {name} on {task.name}"
                evaluate(decoder, task, folder.scores(name, task.name), _decoding(recipe), title)
    if state.is_main_process:
        write_cards(folder.root, write_results(folder.root))
        write_report(folder.root)
    state.wait_for_everyone()
    state.destroy_process_group()
