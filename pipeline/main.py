"""The command line: read the recipe, then do what is not done yet, each stage in a clean process."""

import argparse
import os
import sys
from pathlib import Path

from pipeline.folder import RunFolder
from pipeline.recipe import Problem, Recipe, RecipeError, load


def main(arguments: list[str]) -> int:
    """Exit code: 0 done or can run, 2 the recipe cannot run."""
    parser = argparse.ArgumentParser(prog="balanced-thinking", description="Run every stage of a recipe, evaluate, report.")
    parser.add_argument("recipe", type=Path, help="a YAML file, such as recipes/full.yaml")
    parser.add_argument("overrides", nargs="*", metavar="stage.key=value", help="one value changed for this run")
    parser.add_argument("--check", action="store_true", help="print every problem and run nothing; exit code 2 if any")
    parser.add_argument("--json", action="store_true", help="with --check: one JSON object a line")
    options = parser.parse_args(arguments)
    try:
        recipe = load(options.recipe, options.overrides)
        if options.check:
            _print_plan(recipe, options.json)
        else:
            _run(recipe, RunFolder(Path("runs") / recipe.name))
    except RecipeError as error:
        _print_problems(error.problems, options.json)
        return 2
    return 0


def _run(recipe: Recipe, folder: RunFolder) -> None:
    environment = dict(os.environ)  # vLLM adds to it; the next process starts from what the launcher gave
    os.environ.update(_QUIET)
    from pipeline import stages  # torch and everything else loads here

    stages.advance(recipe, folder, environment)


# Lines of the libraries that a user cannot act on; each can be had back by setting the variable.
_QUIET = {
    name: os.environ.get(name, value)
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    }.items()
}


def _print_plan(recipe: Recipe, as_json: bool) -> None:
    if not as_json:
        print(f"{recipe.name}: no problem found. {len(recipe.stages)} stages: {', '.join(s.label for s in recipe.stages)}")


def _print_problems(problems: list[Problem], as_json: bool) -> None:
    if int(os.environ.get("RANK", "0")):
        return
    for problem in problems:
        print(problem.json() if as_json else problem, file=sys.stdout)
    if not as_json:
        codes = [problem.code for problem in problems]
        print(", ".join(f"{code}: {codes.count(code)}" for code in sorted(set(codes))))
