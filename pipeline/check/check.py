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
from pipeline.data import prepare as rows_of
from pipeline.data.check_rows import HeldOut, Use, examine, row_problems, shown
from pipeline.recipe.file import where
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.schema import GrpoStage, Recipe, SftStage, processes, sharding

if TYPE_CHECKING:
    from eval.chat import Chat
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


def check(recipe: Recipe, root: Path, out: TextIO, first: int | None = None) -> "list[StagePlan]":
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
            _check_task(task, report, first)
    with report.found_in(where(recipe, "stages"), "reward"):
        check_rewards(recipe, out, first)
    report.problems = list(dict.fromkeys(report.problems))  # two stages may read the same rows
    if report.plans and not report.problems:
        from pipeline.check.plan import disk_problem

        report.problems += filter(None, [disk_problem(report.plans, root)])
    if report.problems:
        raise RecipeError(report.problems)
    return report.plans


def _chat(recipe: Recipe, report: Report) -> "Chat | None":
    from eval.chat import Chat

    with report.found_in(where(recipe, "model", "path"), "model"):
        chat = Chat(recipe.model.path, recipe.model.revision)
        if any(stage.kind == "sft" for stage in recipe.stages):
            chat.check_template()
        return chat
    return None


def _check_stage(
    recipe: Recipe, index: int, stage: SftStage | GrpoStage, chat: "Chat", report: Report, first: int | None
) -> None:
    from pipeline.check.plan import stage_plan

    held_out = HeldOut()
    with suppress(ValueError, OSError):  # what cannot be read is reported for its own sake
        held_out = rows_of.held_out(recipe, stage, first)
    place = where(recipe, "data", stage.data, "path")
    use = (
        rows_of.grpo_use(stage, chat)
        if stage.kind == "grpo"
        else rows_of.sft_use(stage.trainer.get("max_length"), chat)
    )
    with report.found_in(place, "data"):
        data = recipe.data[stage.data]
        found = rows_of.examined(data, chat, use, held_out, first)
        report.problems += rows_of.problems(found, data)
        if stage.kind == "grpo" and first is None:
            rows_of.check_generations(data, found.rows.select(found.usable()), stage)
        if stage.kind == "sft":  # a generation of grpo's is of one kind
            _check_pictures(found)
        report.plans.append(stage_plan(recipe, stage, found, chat.config))
    if stage.kind == "sft" and stage.eval_data:
        data = recipe.data[stage.eval_data]
        with report.found_in(where(recipe, "data", stage.eval_data, "path"), "data"):
            judged = rows_of.examined(data, chat, use, first=first)
            report.problems += rows_of.problems(judged, data)
            _check_pictures(judged)


def _check_pictures(found: rows_of.Examined) -> None:
    """Sharded ranks gather and reduce a layer together: one whose rows have no image does not call the vision tower.

    Raises:
        ValueError: it could come to that, and the ranks would wait for each other for ever.
    """
    pictured, cut = [bool(found.facts.pictures[index]) for index in found.usable()], sharding()
    if cut != "none" and processes() > 1 and 0 < sum(pictured) < len(pictured):
        message = f"{sum(pictured):,} of {len(pictured):,} rows have images; under {cut} ranks with and without would "
        raise ValueError(f"{message}wait for each other: use a stage for each kind, or ddp.yaml")


def _check_task(task: str, report: Report, first: int | None) -> None:
    """Rows that cannot be asked stop the run. An answer that no response can match only lowers the score."""
    loaded = load_task(task)
    rows = read(loaded.source(), first)
    facts = examine(rows, None, Use(trains=False, verifies=True))
    found = {
        index: wrong
        for index, each in row_problems(facts, loaded.path, HeldOut()).items()
        if (wrong := [problem for problem in each if problem.code != "duplicate_row"])  # a benchmark is what it is
    }
    unusable = sum(problems[0].code == "answer_unusable" for problems in found.values())
    rest = (problem for problems in found.values() for problem in problems if problem.code != "answer_unusable")
    report.problems += shown(rest)
    if unusable:
        rows_of.tell(f"{task}: {unusable} rows have an answer that does not verify against itself; none is right there")


def describe(plans: "list[StagePlan]", root: Path, out: TextIO, as_json: bool = False) -> None:
    """What the recipe will do."""
    from pipeline.check import plan

    if as_json:
        print(json.dumps({"plan": plan.as_json(plans, root)}), file=out)
        return
    for line in plan.describe(plans, root):
        print(line, file=out)
