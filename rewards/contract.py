"""A reward function held to its contract: one finite number, or None, for each completion. What breaks it is named.

TRL 1.16 trains on the keys of a dict, on infinities and on nothing at all when every value is None, without an error.
Delete when it refuses them (`trl/trainer/grpo_trainer.py:1630`; huggingface/trl#6534 taught it to count).
"""

import dis
import functools
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Literal

OnError = Literal["fail", "zero"]
Reward = Callable[..., Any]
CEILING = 10  # calls in a row that `zero` forgives (our choice)


class RewardError(RuntimeError):
    """A reward function broke its contract; the message has its name, the row and what is wrong."""


# --- what a reward says of itself -------------------------------------------------------------------------------------


def form_alone(function: Reward) -> Reward:
    """Mark a reward that is meant to pay a wrong answer as much as a right one, such as `format`."""
    function.form_alone = True  # type: ignore[attr-defined]
    return function


def own_grader(function: Reward) -> Reward:
    """Mark a reward that compares with the column `answer` by rules of its own: ours need not read the references."""
    function.own_grader = True  # type: ignore[attr-defined]
    return function


def is_marked(function: Reward, mark: str) -> bool:
    """Whether the reward was marked by `form_alone` or `own_grader`, below or above its decorators."""
    return any(getattr(layer, mark, False) for layer in _layers(function))


def takes(function: Reward, column: str) -> bool:
    """Whether the reward or a decorator around it reads `column`: as a parameter, or by any use of its `**columns`.

    True where nothing can be known, of what is no Python function.
    """
    return any(_reads(layer, column) for layer in _layers(function) if not isinstance(layer, functools.partial))


def _reads(function: Reward, column: str) -> bool:
    code = getattr(function if inspect.isroutine(function) else type(function).__call__, "__code__", None)
    if code is None:
        return True
    if code in enforce_contract.__code__.co_consts:  # our wrapper, which hands all columns on
        return False
    count = code.co_argcount + code.co_kwonlyargcount
    if column in code.co_varnames[:count]:
        return True
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return False
    rest = code.co_varnames[count + bool(code.co_flags & inspect.CO_VARARGS)]
    reads = (step.argval for step in dis.get_instructions(code) if "LOAD_" in step.opname)
    return any(rest in (names if isinstance(names, tuple) else (names,)) for names in reads)


def _layers(function: Reward) -> Iterator[Reward]:
    """The function, what its decorators say that they wrap, and what bound arguments belong to."""
    layer: Any = function
    while layer is not None:
        yield layer
        layer = layer.func if isinstance(layer, functools.partial) else getattr(layer, "__wrapped__", None)


def is_async(function: Reward) -> bool:
    """Whether a call of `function` must be awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


# --- what it returns --------------------------------------------------------------------------------------------------


def enforce_contract(function: Reward, max_abs: float, on_error: OnError = "fail") -> Reward:
    """`function`, sync or async as it was, whose every call returns a list of finite floats and Nones.

    Args:
        function: TRL's reward signature, called with keywords alone; its `__name__` stands in messages.
        max_abs: the largest absolute value that is no mistake.
        on_error: `fail` raises; `zero` puts 0 for the values concerned, says so on stderr, and fails when that
            happens in `CEILING` calls in a row.

    Raises (when called):
        RewardError: the function raised, or returned something else.
    """
    guard = _Guard(function, max_abs, on_error)

    if is_async(function):

        @functools.wraps(function)
        async def wrapper(**columns: Any) -> list[float | None]:
            return await guard.call(columns)

    else:

        @functools.wraps(function)
        def wrapper(**columns: Any) -> list[float | None]:
            return _result(guard.call(columns))

    return wrapper


def _result(coroutine: Coroutine[Any, Any, list[float | None]]) -> list[float | None]:
    """The value of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return list(finished.value)
    raise AssertionError("a sync reward waited for something")


class _Guard:
    def __init__(self, function: Reward, max_abs: float, on_error: OnError) -> None:
        self.function, self.max_abs, self.on_error = function, max_abs, on_error
        self.name = getattr(function, "__name__", type(function).__name__)
        self.forgiven = 0  # calls in a row

    async def call(self, columns: dict[str, Any]) -> list[float | None]:
        count = len(columns["completions"])
        try:
            values = self._listed(await self._invoke(columns), count)
        except Exception as error:
            message = await self._located(error, columns)
            self._forgive(message, error)
            return [0.0] * count
        problems = {index: problem for index, value in enumerate(values) if (problem := self._problem(value))}
        if problems:
            index, problem = next(iter(problems.items()))
            self._forgive(f"{self._at(columns, index)}: {problem} ({len(problems)} of {count} values)")
        else:
            self.forgiven = 0
        return [
            0.0 if index in problems else None if value is None else float(value) for index, value in enumerate(values)
        ]

    async def _invoke(self, columns: dict[str, Any]) -> Any:
        returned = self.function(**columns)
        return await returned if inspect.isawaitable(returned) else returned

    def _listed(self, returned: Any, count: int) -> list[Any]:
        """What the function returned as a list of `count` scalars."""
        if hasattr(returned, "tolist"):  # a tensor, an array
            returned = returned.tolist()
        if isinstance(returned, dict | str | bytes) or not hasattr(returned, "__iter__"):
            raise RewardError(f"returned a {type(returned).__name__}, not a list with one number a completion")
        values = [each[0] if isinstance(each, list | tuple) and len(each) == 1 else each for each in returned]
        if len(values) != count:
            raise RewardError(f"returned {len(values)} values for {count} completions")
        return values

    def _problem(self, value: Any) -> str | None:
        if value is None:
            return None
        try:
            number = float(value) if not isinstance(value, str) else None
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None:
            return f"{value!r:.60} is no number"
        if not math.isfinite(number):
            return f"{value!r:.60} is no finite number"
        if abs(number) > self.max_abs:
            return f"{number:g} is beyond max_abs {self.max_abs:g}; give the reward a larger `max_abs` if it is meant"
        return None

    def _at(self, columns: dict[str, Any], index: int) -> str:
        return f"reward {self.name!r}, row id={columns['id'][index] if 'id' in columns else index}"

    async def _located(self, error: Exception, columns: dict[str, Any]) -> str:
        """The message of a failed call, with the first row that fails alone."""
        count = len(columns["completions"])
        if isinstance(error, RewardError):
            ids = f", rows id={columns['id'][0]} to {columns['id'][-1]}" if count and "id" in columns else ""
            return f"reward {self.name!r}{ids}: {error}"
        for index in range(count):
            try:
                await self._invoke(_row(columns, index, count))
            except Exception as alone:
                return f"{self._at(columns, index)}: raised {describe(alone)}"
        return f"reward {self.name!r}: raised {describe(error)}, with these {count} completions together"

    def _forgive(self, message: str, error: Exception | None = None) -> None:
        self.forgiven += 1
        if self.on_error == "fail":
            raise RewardError(message) from error
        if self.forgiven >= CEILING:
            raise RewardError(f"{message} ({CEILING} calls in a row; `on_error: zero` forgives no more)") from error
        if error is not None and self.forgiven == 1:
            traceback.print_exception(error)
        print(f"WARNING {message}; counted as 0 (on_error: zero)", file=sys.stderr, flush=True)


def _row(columns: dict[str, Any], index: int, count: int) -> dict[str, Any]:
    """The arguments of a call with the completion at `index` alone."""
    return {
        name: values[index : index + 1] if isinstance(values, Sequence) and len(values) == count else values
        for name, values in columns.items()
    }


def describe(error: Exception) -> str:
    """What was raised, and where, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, TypeError) and frames and frames[-1].filename == __file__:  # the call itself
        place = "; an argument comes from the recipe, from a column of the data, or has a default"
    else:
        place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}".replace("\n", " ")
