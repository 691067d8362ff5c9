"""The command line: read the recipe, then do what is not done yet, each stage in a clean process."""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

from eval.environment import prepare_environment, quieten
from pipeline.checkpoint import preemption
from pipeline.checkpoint.manifest import disk_full, is_full
from pipeline.checkpoint.run_folder import RunFolder
from pipeline.launch import is_first_rank
from pipeline.recipe.file import load
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.schema import Recipe


def main(arguments: list[str]) -> int:
    """Exit code: 0 done or can run, 2 a person must change something, 143 stopped by a signal (raised)."""
    parser = argparse.ArgumentParser(
        prog="balanced-thinking",
        description="Run every stage of a recipe, evaluate, report. Run the same command again to resume.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, such as recipes/full.yaml")
    parser.add_argument("overrides", nargs="*", metavar="stage.key=value", help="one value changed for this run")
    parser.add_argument("--check", action="store_true", help="print every problem and run nothing; exit code 2 if any")
    parser.add_argument("--sample", type=int, metavar="N", help="with --check: read N rows of each data set")
    parser.add_argument("--print-recipe", action="store_true", help="print the resolved recipe and TRL's arguments")
    parser.add_argument("--schema", action=_PrintSchema, nargs=0, help="print the JSON schema of recipes, for editors")
    parser.add_argument("--fresh", action="store_true", help="start anew; the run folder must be empty")
    parser.add_argument("--allow-changed", action="store_true", help="resume though recipe, data or processes changed")
    parser.add_argument("--json", action="store_true", help="with --check: one JSON object a line")
    options = parser.parse_intermixed_args(arguments)
    environment = dict(os.environ)  # this process adds to it; the next one starts from what the launcher gave
    prepare_environment()
    try:
        recipe = load(options.recipe, options.overrides)
        if options.print_recipe:
            quieten()
            from pipeline.recipe.trainer_arguments import resolved

            print(resolved(recipe), end="")
        elif options.check:
            quieten()
            _check(recipe, options.sample, options.json)
        else:
            preemption.listen()
            quieten()
            from pipeline import stages

            folder = RunFolder(Path("runs") / recipe.name)
            stages.run_next_step(recipe, folder, environment, options.fresh, options.allow_changed)
    except RecipeError as error:
        _print_problems(error.problems, options.json)
        return 2
    except OSError as error:
        if not is_full(error):
            raise
        _print_problems(disk_full(error.filename or "disk", str(error)).problems, options.json)
        return 2
    return 0


class _PrintSchema(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(json.dumps(Recipe.model_json_schema(), indent=1))
        parser.exit()


def _check(recipe: Recipe, first: int | None, as_json: bool) -> None:
    from pipeline.check.check import check_recipe, describe

    root = Path("runs") / recipe.name
    plans = check_recipe(recipe, root, sys.stderr if as_json else sys.stdout, first)
    if not as_json:
        rows = f"the first {first} rows of each data set were read" if first else "every row was read"
        print(f"{recipe.name}: no problem found; {rows}")
    describe(plans, root, sys.stdout, as_json)


def _print_problems(problems: list[Problem], as_json: bool) -> None:
    if not is_first_rank():
        return
    here = f"{Path.cwd()}/"
    for problem in problems:
        print((problem.json() if as_json else str(problem)).replace(here, ""))
    if not as_json:
        counts: Counter[str] = Counter()
        for problem in problems:
            counts[problem.code] += problem.count
        print(", ".join(f"{code}: {counts[code]:,}" for code in sorted(counts)))
