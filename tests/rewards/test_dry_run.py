"""Rewards on canned completions: what they pay, and what that would teach."""

from dataclasses import replace
from typing import Any

import pytest

from rewards.accuracy import accuracy
from rewards.contract import RewardError, enforce_contract
from rewards.dry_run import dry_run
from rewards.format import format
from rewards.load import SHIPPED

ROWS = [
    {"id": "0", "question": "?", "answer": "7"},
    {"id": "1", "question": "?", "answer": "B", "choices": ["dog", "cat"], "kind": "choice"},
    {"id": "2", "question": "?", "answer": "cat", "choices": ["dog", "cat"]},
    {"id": "3", "question": "?", "answer": "Paris"},
    {"id": "4", "question": "?", "answer": r"\frac{\pi}{2}"},
    {"id": "5", "question": "?", "answer": "10 cm"},
]


def test_accuracy_pays_right_answers_alone_and_format_well_formed_ones() -> None:
    right = dry_run(enforce_contract(accuracy, 1), ROWS)
    assert right.paid == {"right": 1.0, "wrong": 0.0, "malformed": 0.0, "empty": 0.0}
    assert right.warning() is None
    form = dry_run(enforce_contract(format, 1), ROWS)
    assert form.paid == {"right": 1.0, "wrong": 1.0, "malformed": 0.0, "empty": 0.0}
    assert form.warning() is None  # it is meant to
    assert replace(form, form_alone=False).warning() == "pays a wrong answer as much as a right one"


def test_every_shipped_reward_can_be_tried() -> None:
    arguments = {"brevity": {"budget": 100}, "overlong": {"budget": 100, "margin": 20}}
    for name, function in SHIPPED.items():
        reward = enforce_contract(lambda f=function, n=name, **columns: f(**columns, **arguments.get(n, {})), 1)
        assert dry_run(reward, ROWS).paid["empty"] == 0.0, name


def test_a_reward_gets_the_arguments_of_the_trainer() -> None:
    seen: dict[str, Any] = {}

    def reward(completions: Any, completion_ids: Any, prompts: Any, trainer_state: Any, **columns: Any) -> list[float]:
        columns["log_metric"]("x", 1.0)
        columns["log_extra"]("column", [1] * len(completions))
        seen.update(
            columns, step=trainer_state.global_step, text=completions[0][-1]["content"], length=len(completion_ids)
        )
        return [0.0] * len(completions)

    dry_run(enforce_contract(reward, 1), ROWS)
    assert seen["answer"] == [row["answer"] for row in ROWS]
    assert seen["choices"][:2] == [None, ["dog", "cat"]]
    assert seen["length"] == len(ROWS)


@pytest.mark.parametrize(
    ("value", "warning"),
    [
        (1.0, "pays a wrong and a malformed answer as much as a right one"),
        (None, "gives no value, even for right answers"),
    ],
)
def test_a_reward_that_teaches_nothing_is_warned_about(value: float | None, warning: str) -> None:
    assert dry_run(enforce_contract(lambda completions, **_: [value] * len(completions), 1), ROWS).warning() == warning


def test_a_reward_that_needs_what_the_data_lacks_fails_before_training() -> None:
    def reward(completions: Any, solution: Any, **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match="missing 1 required positional argument: 'solution'; an argument comes from"):
        dry_run(enforce_contract(reward, 1), ROWS)
