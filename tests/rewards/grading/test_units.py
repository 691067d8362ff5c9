"""What a number measures or counts: known units and nouns; each spelling decides about some pair of `pairs.jsonl`."""

from fractions import Fraction

import pytest

from rewards.grading import units
from rewards.grading.units import conversion, known_unit, measure
from tests.support.rules import decides, verdicts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m/s^2", r"m \cdot s^{-2}"),
        ("m/s^2", "meters per second squared"),
        ("m/s", r"\frac{m}{s}"),
        ("m/s", "ms^{-1}"),
        ("eV", "electron volts"),
        ("cm^3", "cubic centimeters"),
        ("J/(kg K)", "joules per kilogram per kelvin"),
        (r"^\circ C", "degrees Celsius"),
        ("US$", "dollars"),
        (r"\mu m", "micrometers"),
    ],
)
def test_a_unit_has_many_spellings(one: str, other: str) -> None:
    assert conversion(one, other) == conversion(other, one) == 1


@pytest.mark.parametrize(
    "text", ["six", "million", "k", "e", "pi", "negative", "or so", "m^99", "m" * 61, "", "am", "point"]
)
def test_what_is_no_unit(text: str) -> None:
    assert known_unit(text) is None


@pytest.mark.parametrize(
    ("text", "noun", "per"),
    [
        ("apples", "apple", ""),
        ("small red cubes in total", "cube", ""),
        ("slices of pizza", "slice", ""),
        ("of the students", "student", ""),
        ("boxes per day", "box", "day"),
        ("of them", "", ""),
        ("each", "", ""),
    ],
)
def test_what_is_counted(text: str, noun: str, per: str) -> None:
    found = measure(text)
    assert found is not None
    assert found[:3] == (None, noun, per)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("small red cubes in total", {"small", "red"}),
        ("cups of sugar", {"sugar"}),
        ("left", {"left"}),
        ("apples", set()),
    ],
)
def test_what_else_is_said_of_it(text: str, detail: set[str]) -> None:
    found = measure(text)
    assert found is not None
    assert found.detail == detail


@pytest.mark.parametrize("text", ["zorbs", "six apples", "apples or pears", "wrong apples", "of six", "cube", "more"])
def test_a_word_that_is_not_known_measures_nothing(text: str) -> None:
    assert measure(text) is None


@pytest.mark.parametrize(
    ("gold", "given", "factor"),
    [
        ("m", "cm", Fraction(1, 100)),
        ("h", "min", Fraction(1, 60)),
        ("m", "", Fraction(1)),
        ("", "apples", Fraction(1)),
        ("", "K", None),
        ("m", "kg", None),
        ("apples", "pears", None),
        ("$ per hour", "$ per day", None),
    ],
)
def test_units_that_measure_the_same_are_converted(gold: str, given: str, factor: Fraction | None) -> None:
    assert conversion(gold, given) == factor


@pytest.mark.parametrize("number", range(len(units._SPELLINGS)), ids=lambda number: units._SPELLINGS[number][0].pattern)
def test_a_spelling_of_units_decides_a_pair(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts()
    monkeypatch.setattr(units, "_SPELLINGS", [*units._SPELLINGS[:number], *units._SPELLINGS[number + 1 :]])
    assert decides(), "no pair shows what it is for"
