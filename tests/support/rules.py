"""Which rules of `rewards/grading` decide about a pair of `pairs.jsonl`: without one, some verdict is another."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

import rewards.grading
from rewards.grading import verify
from rewards.grading.verify import Outcome, Question
from tests.support.tables import table

MODULES = [
    importlib.import_module(f"rewards.grading.{module.name}")
    for module in pkgutil.iter_modules(rewards.grading.__path__)
]


def _forget() -> None:
    for module in MODULES:
        for name, value in vars(module).items():
            if hasattr(value, "cache_clear") and name != "_registry":  # which takes a second to load
                value.cache_clear()


def _verdict(question: Question) -> str:
    outcome = verify._verdict(question)
    return ("paid" if outcome is Outcome.CORRECT else "not") if isinstance(outcome, Outcome) else "asks algebra"


@lru_cache(maxsize=1)
def verdicts() -> dict[Question, str]:
    """Those of now, with every rule; to be asked for before one is removed."""
    rows = table("pairs")
    questions = [Question(row["answer"], row["gold"], row.get("kind"), tuple(row.get("choices", ()))) for row in rows]
    _forget()
    return {question: _verdict(question) for question in questions}


def decides() -> bool:
    """Whether some pair has another verdict than with every rule; what was removed must be put back by the caller."""
    before = verdicts()
    _forget()
    try:
        return any(_verdict(question) != verdict for question, verdict in before.items())
    finally:
        _forget()


def without_case(function: Callable[..., Any], module: ModuleType, number: int) -> Callable[..., Any]:
    """`function` without the `number`-th case of its one `match` statement."""
    tree = ast.parse(inspect.getsource(function))
    (match,) = (node for node in ast.walk(tree) if isinstance(node, ast.Match))
    del match.cases[number]
    found: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), module.__file__ or "", "exec"), vars(module) | found, found)
    return FunctionType(found[function.__name__].__code__, vars(module))
