"""What a reward says of itself: which columns it reads, and whether it judges the form alone."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards.accuracy import accuracy
from rewards.contract import enforce_contract, form_alone, is_marked, own_grader, takes
from rewards.load import SHIPPED, load_reward


def _is_form_alone(reward: Callable[..., Any]) -> bool:
    return is_marked(reward, "form_alone")


def _named(completions: Any, answer: Any, **columns: Any) -> list[float | None]:
    return [0.0 for _ in completions]


def _keyword_only(completions: Any, *, answer: Any = None, **_: Any) -> list[float]:
    return [0.0]


def _handed_on(completions: Any, **columns: Any) -> list[float | None]:
    return accuracy(completions, **columns)


def _looked_up(completions: Any, **columns: Any) -> list[float]:
    return [float(gold in "x") for gold in columns["answer"]]


def _in_a_comprehension(completions: Any, **columns: Any) -> list[float]:
    return [float(columns["answer"][index] == "7") for index, _ in enumerate(completions)]


def _in_a_nested_function(completions: Any, **columns: Any) -> list[float]:
    def grade(index: int) -> float:
        return float(columns["answer"][index] == "7")

    return [grade(index) for index in range(len(completions))]


async def _async(completions: Any, **columns: Any) -> list[float | None]:
    return accuracy(completions, **columns)


def _wrapped_by_hand(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(completions: Any, **columns: Any) -> Any:
        return function(completions, **columns)

    return wrapper


class _Judge:
    def __call__(self, completions: Any, answer: Any, **_: Any) -> list[float]:
        return [0.0]


class _Grader:
    def grade(self, completions: Any, **columns: Any) -> list[float | None]:
        return accuracy(completions, **columns)


def _read_by_the_decorator(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(completions: Any, **columns: Any) -> Any:
        return function(completions, gold=columns["answer"])

    return wrapper


def _named_by_the_decorator(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(completions: Any, answer: Any, **_: Any) -> Any:
        return function(completions, answer)

    return wrapper


def _ignored(completions: Any, **_: Any) -> list[float]:
    return [float(len(completions))]


def _other_columns(completions: Any, completion_ids: Any, budget: int = 3, **_: Any) -> list[float]:
    return [0.0]


@pytest.mark.parametrize(
    "reward",
    [
        _named,
        _keyword_only,
        _handed_on,
        _looked_up,
        _in_a_comprehension,
        _in_a_nested_function,
        _async,
        _wrapped_by_hand(_handed_on),
        functools.wraps(_named)(_wrapped_by_hand(_ignored)),
        _read_by_the_decorator(_ignored),
        _named_by_the_decorator(_ignored),
        enforce_contract(_read_by_the_decorator(_ignored), 1.0),
        functools.partial(_named, weight=1),
        functools.partial(functools.partial(_handed_on), weight=1),
        enforce_contract(_handed_on, 1.0),
        enforce_contract(functools.partial(_named), 1.0),
        _Judge(),
        _Grader().grade,
        max,
    ],
)
def test_a_reward_that_can_read_the_answer_takes_it(reward: Callable[..., Any]) -> None:
    assert takes(reward, "answer")


@pytest.mark.parametrize("reward", [_ignored, _other_columns, enforce_contract(_ignored, 1.0)])
def test_a_reward_that_looks_at_no_column_of_that_name_does_not(reward: Callable[..., Any]) -> None:
    assert not takes(reward, "answer")


def test_the_shipped_rewards_say_what_they_read() -> None:
    arguments = {"brevity": {"budget": 9}, "overlong": {"budget": 9, "margin": 3}}
    loaded = {name: load_reward(name, arguments.get(name, {}), Path()) for name in SHIPPED}
    assert {name for name, reward in loaded.items() if takes(reward, "answer")} == {"accuracy", "brevity"}
    assert {name for name, reward in loaded.items() if _is_form_alone(reward)} == {"format", "overlong", "repetition"}


def test_a_reward_of_yours_can_say_that_it_judges_the_form_alone(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from rewards.contract import form_alone\n"
        "@form_alone\ndef short(completions, **_):\n    return [0.0] * len(completions)\n"
    )
    assert _is_form_alone(enforce_contract(load_reward("own.py:short", {}, tmp_path), 1.0))
    assert not _is_form_alone(_ignored)
    assert _is_form_alone(form_alone(lambda completions, **_: [0.0]))


def test_a_mark_is_seen_below_and_above_decorators_and_bound_arguments() -> None:
    below = _read_by_the_decorator(form_alone(lambda completions, **_: [0.0]))
    above = form_alone(_read_by_the_decorator(_other_columns))
    bound = form_alone(functools.partial(_other_columns, budget=1))
    assert all(map(_is_form_alone, (below, above, bound, enforce_contract(above, 1.0), enforce_contract(bound, 1.0))))
    assert is_marked(own_grader(functools.partial(_named)), "own_grader")
