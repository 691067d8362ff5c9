"""Verdicts by kind of answer."""

import os
import threading
from collections.abc import Iterator
from fractions import Fraction

import pytest

from rewards import verify as module
from rewards.verify import Outcome, kind_of, number, verify


@pytest.fixture(autouse=True, scope="module")
def _no_worker_left() -> Iterator[None]:
    yield
    module.close()


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (
            "7",
            ["7", "07", "7.0", "+7", "7.", r"\boxed{7}", "$7$", "The answer is 7.", "７"],
            ["8", "-7", "77", "7 or 8"],
        ),
        ("1000", ["1,000", "1e3", "1000.00"], ["1,00", "100"]),
        ("0.5", ["1/2", ".5", "½"], ["0.51", "1/3"]),
        ("3/2", ["1 1/2", "1.5"], ["1/2"]),
        ("-5", ["−5"], ["5"]),
        ("50%", ["50", "50 %"], ["49"]),
    ],
)
def test_numbers_are_compared_exactly(gold: str, right: list[str], wrong: list[str]) -> None:
    assert [verify(answer, gold) for answer in right] == [Outcome.CORRECT] * len(right)
    assert Outcome.CORRECT not in [verify(answer, gold) for answer in wrong]


def test_letters_are_right_alone_or_with_their_own_option() -> None:
    choices = ["dog", "cat"]
    assert all(
        verify(answer, "B", choices=choices) is Outcome.CORRECT for answer in ["B", "(B)", "b", "B. cat", "(B) Cat"]
    )
    assert verify("A", "B", choices=choices) is Outcome.WRONG
    assert verify("B. dog", "B", choices=choices) is Outcome.WRONG
    assert verify("A or B", "B", choices=choices) is Outcome.UNPARSEABLE
    assert verify("B", "C", choices=choices) is Outcome.ANSWER_UNUSABLE


def test_words_are_equal_only_when_they_are_the_same() -> None:
    assert verify("East", "east") is Outcome.CORRECT
    assert verify("Seat", "east") is Outcome.WRONG


def test_mathematics_is_equal_by_value() -> None:
    assert verify(r"(x+1)^2", r"x^2+2x+1") is Outcome.CORRECT
    assert verify(r"x^2+2x+2", r"x^2+2x+1") is Outcome.WRONG


@pytest.mark.parametrize("hostile", ["9^{9^{9}}", "(((3!)!)!)!", "(" * 300, r"\frac{1}{" * 20 + "3" + "}" * 20])
def test_costly_mathematics_is_rejected_before_it_runs(hostile: str) -> None:
    assert verify(hostile, r"\frac{\pi}{2}") is Outcome.UNPARSEABLE


def test_a_hung_comparison_is_killed_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_costly", lambda text: False)
    assert verify("9^{9^{9^{9}}}", r"\frac{\pi}{2}") is Outcome.TIMEOUT
    assert verify(r"\pi/2", r"\frac{\pi}{2}") is Outcome.CORRECT


def test_a_worker_that_dies_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_math_outcome", _die)
    assert verify(r"\pi/2", r"\frac{\pi}{2}") is Outcome.UNPARSEABLE
    monkeypatch.undo()
    assert verify(r"\pi/2", r"\frac{\pi}{2}") is Outcome.CORRECT


def _die(answer: str, gold: str) -> str:
    os._exit(1)


def test_mathematics_is_verified_off_the_main_thread() -> None:
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(verify(r"\frac{2\pi}{4}", r"\frac{\pi}{2}")))
    thread.start()
    thread.join()
    assert found == [Outcome.CORRECT]


def test_the_kind_of_a_reference_is_worked_out() -> None:
    assert [kind_of(gold) for gold in ["B", "(C)", "3.5", "1/2", "east", r"\frac{\pi}{2}", "x^2"]] == [
        "choice", "choice", "number", "number", "text", "math", "math"
    ]  # fmt: skip
    assert kind_of("cat", choices=["dog", "cat"]) == "choice"


def test_a_number_is_its_exact_value_or_none() -> None:
    assert number("2.5e-3") == Fraction(1, 400)
    assert [number(text) for text in ["", "1/0", "1,2", "5!", "10 cm", "9" * 100, "1e999"]] == [None] * 7
