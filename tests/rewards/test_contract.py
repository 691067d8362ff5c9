"""A reward that breaks its contract is named; one that keeps it passes through, sync or async."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rewards.contract import CEILING, RewardError, enforce_contract

COLUMNS = {"completions": ["a", "b", "c"], "id": ["r1", "r2", "r3"]}


def _returns(value: Any) -> Callable[..., Any]:
    def reward(completions: list[str], **columns: Any) -> Any:
        return value

    return reward


@pytest.mark.parametrize(
    "value",
    [
        [1, 0.5, True],
        (1, 0.5, 1),
        np.array([1, 0.5, 1]),
        torch.tensor([[1.0], [0.5], [1.0]]),
        [np.float32(1), torch.tensor(0.5), 1],
        (each for each in [1, 0.5, 1]),
    ],
)
def test_numbers_in_any_container_are_a_list_of_floats(value: Any) -> None:
    values = enforce_contract(_returns(value), max_abs=1)(**COLUMNS)
    assert values == [1.0, 0.5, 1.0]
    assert all(type(each) is float for each in values)


def test_none_is_no_mistake() -> None:
    assert enforce_contract(_returns([1, None, 0]), max_abs=1)(**COLUMNS) == [1.0, None, 0.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "returned 2 values for 3 completions"),
        ({"r1": 1, "r2": 2, "r3": 3}, "returned a dict"),
        (None, "returned a NoneType"),
        (1.0, "returned a float"),
        ("abc", "returned a str"),
        ([0, float("nan"), 0], "row id=r2: nan is no finite number"),
        ([0, 0, float("-inf")], "row id=r3: -inf is no finite number"),
        ([0, 7, 8], r"row id=r2: 7 is beyond max_abs 5.*2 of 3 values"),
        ([0, "1", 0], "row id=r2: '1' is no number"),
        ([0, 1j, 0], "row id=r2: 1j is no number"),
    ],
)
def test_what_no_reward_may_return_is_named_with_its_row(value: Any, message: str) -> None:
    with pytest.raises(RewardError, match=f"reward 'reward'.*{message}"):
        enforce_contract(_returns(value), max_abs=5)(**COLUMNS)


def _fails_on_b(completions: list[str], **columns: Any) -> list[float]:
    return [{"a": 1.0, "c": 0.0}[completion] for completion in completions]


def test_an_exception_is_reported_with_its_row_and_place() -> None:
    place = r"reward '_fails_on_b', row id=r2: raised KeyError: 'b' \(.*test_contract.py:\d+"
    with pytest.raises(RewardError, match=place) as caught:
        enforce_contract(_fails_on_b, max_abs=1)(**COLUMNS)
    assert isinstance(caught.value.__cause__, KeyError)


def test_zero_goes_on_and_says_so_and_has_a_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    reward = enforce_contract(_returns([1, float("inf"), 0.5]), max_abs=1, on_error="zero")
    assert reward(**COLUMNS) == [1.0, 0.0, 0.5]
    assert "WARNING reward 'reward', row id=r2: inf" in capsys.readouterr().err
    failing = enforce_contract(_fails_on_b, max_abs=1, on_error="zero")
    for _ in range(CEILING - 1):
        assert failing(**COLUMNS) == [0.0, 0.0, 0.0]
    assert failing(completions=["a", "c"]) == [1.0, 0.0]  # a good call: the count begins again
    for _ in range(CEILING - 1):
        failing(**COLUMNS)
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(RewardError, match=f"{CEILING} calls in a row"):
        failing(**COLUMNS)


def test_an_async_reward_stays_async_and_is_checked() -> None:
    async def slow(completions: list[str], value: float = 0, **columns: Any) -> list[float]:
        await asyncio.sleep(0.01)
        return [value] * len(completions)

    class Slow:
        __name__ = "Slow"

        async def __call__(self, completions: list[str], **columns: Any) -> list[float]:
            return await slow(completions, **columns)

    for reward in (enforce_contract(slow, max_abs=1), enforce_contract(Slow(), max_abs=1)):
        assert inspect.iscoroutinefunction(reward)
        assert asyncio.run(reward(**COLUMNS, value=1)) == [1.0] * 3
        with pytest.raises(RewardError, match="beyond max_abs"):
            asyncio.run(reward(**COLUMNS, value=2))
