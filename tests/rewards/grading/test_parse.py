"""What an answer says: its text as a value; each rule decides about some pair of `pairs.jsonl`."""

from fractions import Fraction

import pytest

from rewards.grading import parse
from rewards.grading.parse import read
from rewards.grading.quantity import Quantity
from rewards.grading.value import Assigned, Expression, Ordered, Unordered, Value, Words
from tests.support.rules import decides, verdicts

ONE, TWO = Quantity(Fraction(1), ""), Quantity(Fraction(2), "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(2)", TWO),
        ("Paris", Words("Paris")),
        ("H_2O", Words("H2O", is_formula=True)),
        ("July 4, 1776", Words("July 4, 1776")),
        ("sin x", Expression("sin x")),
        (r"8\sqrt{3} cm", Expression(r"8\sqrt{3}", "cm")),
        (r"1,000\pi", Expression(r"1000\pi")),
        ("x=2", Assigned("x", TWO, "x-(2)")),
        ("1, 2", Unordered("list", (ONE, TWO))),
        ("1 or 2", Unordered("or", (ONE, TWO))),
        ("x=1, 2", Unordered("list", (ONE, TWO))),
        (r"\{1,2\}", Unordered("set", (ONE, TWO))),
        ("no solution", Unordered("set", ())),
        ("(1,2]", Ordered("(", (ONE, TWO), "]")),
        ("]1,2]", Ordered("(", (ONE, TWO), "]")),
        (r"1<x\le 2", Ordered("(", (ONE, TWO), "]", "x")),
        (r"x>1 and x\le 2", Ordered("(", (ONE, TWO), "]", "x")),
        (r"\{x \mid 1<x\le 2\}", Ordered("(", (ONE, TWO), "]", "x")),
        ("<1,2>", Ordered("(", (ONE, TWO), ")")),
        ("A(1,2)", Ordered("(", (ONE, TWO), ")", "A")),
        ("{{1,2", Words("{{1,2")),
        ("anything at all?", Words("anything at all?")),
    ],
)
def test_a_text_is_read_as_what_it_says(text: str, value: Value) -> None:
    assert read(text) == value


@pytest.mark.parametrize("number", range(len(parse._RULES)), ids=lambda number: parse._RULES[number].__name__)
def test_a_rule_decides_a_pair(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts()
    monkeypatch.setattr(parse, "_RULES", [*parse._RULES[:number], *parse._RULES[number + 1 :]])
    assert decides(), "no pair shows what it is for"
