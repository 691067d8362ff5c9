"""Every problem of a recipe, its model, data and rewards, found before any weights load; and what the run will do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from eval.data.rows import read
from eval.task import load_task
from pipeline.check.rewards import check_rewards
from pipeline.data import prepare
from pipeline.data.check_rows import HeldOut, RowPolicy, check_rows, row_problems, shown
from pipeline.launch import processes, sharding, tell
from pipeline.recipe.file import where
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.schema import GrpoStage, Recipe, SftStage

if TYPE_CHECKING:
    from eval.chat import ChatFormat
    from pipeline.check.plan import StagePlan


@dataclass
class Report:
    problems: list[Problem] = field(default_factory=list)
    plans: "list[StagePlan]" = field(default_factory=list)

    @contextmanager
    def found_in(self, place: str, code: str) -> Iterator[None]:
        """What a user's mistake raises in this context is noted, and the check goes on."""
        try:
            yield
        except RecipeError as error:
            self.problems += error.problems
        except (ValueError, OSError, ImportError) as error:  # a processor may need a package
            self.problems.append(Problem(place, code, str(error).splitlines()[0]))


def check_recipe(recipe: Recipe, root: Path, out: TextIO, first: int | None = None) -> "list[StagePlan]":
    """Check all that the recipe names; each row that a stage uses, or the `first` of each data set.

    Returns what each stage will do.

    Args:
        root: the run folder.
        out: where the table of rewards goes.

    Raises:
        RecipeError: with all problems at once.
    """
    report = Report()
    chat = _chat(recipe, report)
    if chat is not None:
        from pipeline.recipe.trainer_arguments import refused

        report.problems += refused(recipe, chat.config)
        for index, stage in enumerate(recipe.stages):
            _check_stage(recipe, index, stage, chat, report, first)
    for index, task in enumerate(recipe.tasks):
        with report.found_in(where(recipe, "evaluate", "tasks", index), "task_data"):
            _check_task(task, chat, report, first)
    with report.found_in(where(recipe, "stages"), "reward"):
        report.problems += check_rewards(recipe, out, first)
    report.problems = list(dict.fromkeys(report.problems))  # two stages may read the same rows
    if report.plans and not report.problems:
        from pipeline.check.plan import disk_problem

        report.problems += filter(None, [disk_problem(report.plans, root)])
    if report.problems:
        raise RecipeError(report.problems)
    return report.plans


def _chat(recipe: Recipe, report: Report) -> "ChatFormat | None":
    from eval.chat import ChatFormat

    with report.found_in(where(recipe, "model", "path"), "model"):
        chat = ChatFormat(recipe.model.path, recipe.model.revision)
        if any(stage.kind == "sft" for stage in recipe.stages):
            chat.check_template()
        _check_generation_config(recipe)
        return chat
    return None


def _check_generation_config(recipe: Recipe) -> None:
    """That the checkpoint's own settings can be saved again: else the first checkpoint would end the run.

    Raises:
        ValueError: they cannot.
    """
    from transformers import GenerationConfig

    try:
        own = GenerationConfig.from_pretrained(recipe.model.path, revision=recipe.model.revision)
    except OSError:  # it has none
        return
    try:
        own.validate(strict=True)
    except ValueError as error:
        why = " ".join(str(error).split())[:200]
        advice = "set `do_sample: true` in its generation_config.json, or take out what is named"
        raise ValueError(f"model {recipe.model.path!r} could not be saved after training: {why}; {advice}") from None


def _check_stage(
    recipe: Recipe, index: int, stage: SftStage | GrpoStage, chat: "ChatFormat", report: Report, first: int | None
) -> None:
    from pipeline.check.plan import stage_plan

    held_out = HeldOut()
    with suppress(ValueError, OSError):  # what cannot be read is reported for its own sake
        held_out = prepare.held_out(recipe, stage, first)
    place = where(recipe, "data", stage.data, "path")
    policy = (
        prepare.grpo_policy(stage, chat)
        if stage.kind == "grpo"
        else prepare.sft_policy(stage.trainer.get("max_length"), chat)
    )
    with report.found_in(place, "data"):
        data = recipe.data[stage.data]
        checked = prepare.check_data(data, chat, policy, held_out, first)
        report.problems += prepare.problems(checked, data)
        if stage.kind == "grpo" and first is None:
            prepare.check_generations(data, checked.rows.select(checked.usable()), stage)
        if stage.kind == "sft":  # a generation of grpo's is of one kind
            _check_pictures(checked)
        report.plans.append(stage_plan(recipe, stage, checked, chat.config))
    if stage.kind == "sft" and stage.eval_data:
        data = recipe.data[stage.eval_data]
        with report.found_in(where(recipe, "data", stage.eval_data, "path"), "data"):
            checked = prepare.check_data(data, chat, policy, first=first)
            report.problems += prepare.problems(checked, data)
            _check_pictures(checked)


def _check_pictures(checked: prepare.CheckedData) -> None:
    """Sharded ranks gather and reduce a layer together: one whose rows have no image does not call the vision tower.

    Raises:
        ValueError: it could come to that, and the ranks would wait for each other for ever.
    """
    pictured, mode = [bool(checked.report.pictures[index]) for index in checked.usable()], sharding()
    # Delete when VLMs call the tower for every row (huggingface/trl#3934).
    if mode != "none" and processes() > 1 and 0 < sum(pictured) < len(pictured):
        message = f"{sum(pictured):,} of {len(pictured):,} rows have images; under {mode} ranks with and without would "
        raise ValueError(f"{message}wait for each other: use a stage for each kind, or ddp.yaml")


def _check_task(task: str, chat: "ChatFormat | None", report: Report, first: int | None) -> None:
    """Rows that cannot be read stop the run. A benchmark is what it is: what only lowers its score is said."""
    loaded = load_task(task)
    room = chat.context - 1 if chat and chat.context else None  # of a prompt: a response has a token at least
    policy = RowPolicy(trains=False, verifies=True, max_tokens=room, limited_by="the model's context")
    checked = check_rows(read(loaded, first), chat, policy)
    problems = [problem for of_row in row_problems(checked, loaded.path, HeldOut()).values() for problem in of_row]
    report.problems += shown(problem for problem in problems if problem.code not in {*_LOWERS, "duplicate_row"})
    for code, what in _LOWERS.items():
        if rows := [problem for problem in problems if problem.code == code]:
            named = ", ".join(f"{problem.where.rpartition(':')[2]} (id {problem.id})" for problem in rows[:3])
            more = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
            tell(f"WARNING task {loaded.name}: {code}: row {named}{more}: {what}")


# What lowers the score of a row that is evaluated on, by code.
_LOWERS = {
    "answer_unusable": "the answer does not verify against itself; no response is right there",
    "too_long": "the prompt leaves no room in the model's context; it is not asked, and counted as wrong",
    "unseen_images": "the row has images, and the model reads text alone",
    "special_token": "the question holds a token that the tokenizer reads as a control token",
    "tag_in_question": "the question holds a tag of the grammar",
}


def describe(plans: "list[StagePlan]", root: Path, out: TextIO, as_json: bool = False) -> None:
    """What the recipe will do."""
    from pipeline.check import plan

    if as_json:
        print(json.dumps({"plan": plan.as_json(plans, root)}), file=out)
        return
    for line in plan.describe(plans, root):
        print(line, file=out)
