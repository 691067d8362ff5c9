"""The recipe's rewards tried before a run: what each pays for right, wrong, malformed and empty completions."""

from contextlib import suppress
from typing import Any, TextIO

from eval import terminal
from eval.data.images import BadRow, verify_image
from eval.data.rows import Source, good, read, undecoded
from pipeline.recipe.file import where
from pipeline.recipe.problem import Problem
from pipeline.recipe.schema import GrpoStage, Recipe
from rewards.contract import RewardError
from rewards.dry_run import COMPLETIONS, DryRun, dry_run

ROWS = 8  # of the stage's data


def check_rewards(recipe: Recipe, out: TextIO, first: int | None = None) -> list[Problem]:
    """Try every reward of the recipe; print a table for each stage and a warning for what teaches something else.

    Args:
        first: rows of the data that are read; all of it by default, which was read before and is in the cache.
    """
    stages = [(index, stage) for index, stage in enumerate(recipe.stages) if stage.kind == "grpo"]
    return [problem for index, stage in stages for problem in _check_stage(recipe, index, stage, out, first)]


def _check_stage(recipe: Recipe, index: int, stage: GrpoStage, out: TextIO, first: int | None) -> list[Problem]:
    try:
        rows = _rows(recipe.data[stage.data], first)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        print(f"{stage.name}: rewards not tried, data {stage.data!r} cannot be read: {reason}", file=out)
        return []
    if not rows:
        print(f"{stage.name}: rewards not tried, no row of data {stage.data!r} can be used", file=out)
        return []
    runs: list[DryRun] = []
    problems: list[Problem] = []
    for number, reward in enumerate(stage.rewards):
        place = where(recipe, "stages", index, "rewards", number)
        if both := sorted((reward.model_extra or {}).keys() & (rows[0].keys() - {"question", "think"})):
            said = f"argument {both[0]!r} of {reward.use!r} is a column of data {stage.data!r} too, which TRL takes"
            problems.append(Problem(place, "reward", f"{said}; rename one of the two"))
            continue
        try:
            runs.append(dry_run(reward.function(on_error="fail"), rows))
        except RewardError as error:
            problems.append(Problem(place, "reward", str(error)))
    if problems:
        return problems
    _print(stage, len(rows), [*runs, _total(stage, runs)], out)
    if all(run.paid["right"] is None for run in runs):
        message = f"{stage.name}.rewards: none gives a value, even for right answers, so nothing would be learned"
        problems.append(Problem(where(recipe, "stages", index, "rewards"), "reward", message))
    return problems


def _rows(source: Source, first: int | None) -> list[dict[str, Any]]:
    """The first few rows with nothing wrong in them, as a reward gets them."""
    table, sound = good(read(source, first)), list[int]()
    for index, row in enumerate(undecoded(table)):
        with suppress(BadRow):
            _ = [verify_image(image) for image in row.get("images") or []]
            sound.append(index)
        if len(sound) == ROWS:
            break
    return [dict(row) for row in table.select(sound)]


def _total(stage: GrpoStage, runs: list[DryRun]) -> DryRun:
    """What the trainer adds up."""
    pairs = list(zip(stage.rewards, runs, strict=True))
    return DryRun(
        "weighted sum", {kind: sum(r.weight * (t.paid[kind] or 0.0) for r, t in pairs) for kind in COMPLETIONS}
    )


def _print(stage: GrpoStage, rows: int, runs: list[DryRun], out: TextIO) -> None:
    values = [[run.name, *(_value(run.paid[kind]) for kind in COMPLETIONS)] for run in runs]
    print(f"{stage.name}: what each reward pays, over {rows} rows", file=out)
    print(terminal.table(["reward", *COMPLETIONS], values, file=out), file=out)
    for run in runs:
        if warning := run.warning():
            print(f"WARNING {stage.name}.rewards: {run.name} {warning}", file=out)


def _value(paid: float | None) -> str:
    return "none" if paid is None else f"{paid:.3g}"
