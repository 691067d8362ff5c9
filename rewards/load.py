"""Find the reward function that a recipe names: a shipped one, one in a file, or one in an installed package."""

import difflib
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from .accuracy import accuracy
from .format import format

SHIPPED: dict[str, Callable[..., Any]] = {"accuracy": accuracy, "format": format}


def load_reward(use: str, arguments: dict[str, Any], folder: Path) -> Callable[..., Any]:
    """The reward `use`, with `arguments` bound.

    Args:
        use: `accuracy`, `format`, `file.py:function` (relative to `folder`, or absolute) or `package.module.function`.
        arguments: keyword arguments given to each call.
        folder: where a relative file is looked for; the recipe's folder.

    Raises:
        ValueError: nothing of that name, not callable, or it does not take one of `arguments`.
    """
    function = _find(use, folder)
    if not callable(function):
        raise ValueError(f"reward {use!r} is a {type(function).__name__}, not a function")
    _check_signature(use, function, arguments)
    bound = functools.partial(function, **arguments)
    bound.__name__ = use.rpartition(":")[2].rpartition(".")[2]  # type: ignore[attr-defined]  # TRL's metric key
    return bound


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with the nearest of the `known` words, or an empty string when none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else ""


def _find(use: str, folder: Path) -> Any:
    if use in SHIPPED:
        return SHIPPED[use]
    if ":" in use:
        file, _, name = use.rpartition(":")
        return _attribute(_import_file(folder / file, use), name, use)
    module, _, name = use.rpartition(".")
    if not module:
        known = f"Known: {', '.join(SHIPPED)}; yours: file.py:function or package.module.function."
        raise ValueError(f"unknown reward {use!r}. {known} {did_you_mean(use, SHIPPED)}".rstrip())
    try:
        return _attribute(importlib.import_module(module), name, use)
    except ModuleNotFoundError as error:
        raise ValueError(f"reward {use!r}: {error}") from error


def _import_file(path: Path, use: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"reward {use!r}: no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, name: str, use: str) -> Any:
    if not hasattr(module, name):
        hint = did_you_mean(name, vars(module))
        raise ValueError(f"reward {use!r}: {module.__name__} has no {name!r}. {hint}".rstrip())
    return getattr(module, name)


def _check_signature(use: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ValueError(f"reward {use!r} must accept **kwargs: TRL hands it every column of the data set")
    if unknown := [name for name in arguments if name not in parameters]:
        raise ValueError(f"reward {use!r} takes no argument {unknown[0]!r}. It takes: {', '.join(parameters)}")
