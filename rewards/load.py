"""Find the reward function that a recipe names: a shipped one, one in a file, or one in an installed package."""

import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from .accuracy import accuracy
from .brevity import brevity
from .contract import describe
from .format import format
from .overlong import overlong
from .repetition import repetition

SHIPPED: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (accuracy, format, brevity, overlong, repetition)
}


def load_reward(use: str, arguments: dict[str, Any], folder: Path) -> Callable[..., Any]:
    """The reward `use`, with `arguments` bound.

    Args:
        use: `accuracy`, `format`, `file.py:function` (relative to `folder`, or absolute) or `package.module.function`.
        arguments: keyword arguments given to each call.
        folder: where a relative file is looked for; the recipe's folder.

    Raises:
        ValueError: nothing of that name, its file does not run, it is not callable, does not take one of `arguments`,
            or lacks one that no data set gives.
    """
    function = _find(use, folder)
    if not callable(function):
        raise ValueError(f"reward {use!r} is a {type(function).__name__}, not a function")
    _check_signature(use, function, arguments)
    bound = functools.partial(function, **arguments)
    bound.__name__ = use.rpartition(":")[2].rpartition(".")[2]  # type: ignore[attr-defined]  # TRL's metric key
    return bound


def _find(use: str, folder: Path) -> Any:
    if use in SHIPPED:
        return SHIPPED[use]
    if ":" in use:
        file, _, name = use.rpartition(":")
        return _attribute(_import_file(folder / file, use), name, use)
    module, _, name = use.rpartition(".")
    if not module:
        known = f"Known: {', '.join(SHIPPED)}; yours: file.py:function or package.module.function."
        raise ValueError(f"unknown reward {use!r}. {known}{_hint(use, SHIPPED)}")
    try:
        return _attribute(importlib.import_module(module), name, use)
    except Exception as error:  # whatever the user's module does when it is imported
        raise ValueError(f"reward {use!r}: {describe(error)}") from error


def _import_file(path: Path, use: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"reward {use!r}: no file {path}")
    spec = importlib.util.spec_from_file_location(f"reward_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"reward {use!r}: {path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file does when it is run
        raise ValueError(f"reward {use!r}: {describe(error)}") from error
    return module


def _attribute(module: ModuleType, name: str, use: str) -> Any:
    if not hasattr(module, name):
        raise ValueError(f"reward {use!r}: {module.__name__} has no {name!r}.{_hint(name, vars(module))}")
    return getattr(module, name)


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _check_signature(use: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ValueError(f"reward {use!r} must accept **kwargs: TRL hands it every column of the data set")
    if unknown := [name for name in arguments if name not in parameters]:
        renamed = "; `bound` is `max_abs` now" if unknown[0] == "bound" else ""
        taken = ", ".join(parameters)
        raise ValueError(f"reward {use!r} takes no argument {unknown[0]!r}. It takes: {taken}{renamed}")
