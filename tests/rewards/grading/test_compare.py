"""Two values: their shapes are compared without algebra, which sees the expressions in them alone."""

import ast
import inspect

import pytest

from rewards.grading import compare, verify
from rewards.grading.compare import same
from rewards.grading.parse import read
from tests.support.rules import decides, verdicts, without_case


@pytest.mark.parametrize(
    ("gold", "given", "equal"),
    [
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "{1,2}", False),
        ("{1,2}", "{2,1,1}", True),
        ("1, 2", "2 and 1", True),
        ("1, 1", "1", False),
        ("[1,2)", "(1,2)", False),
        ("(1,2)", "1<x<2", True),
        ("x>3", r"(3,\infty)", True),
        ("x=3", "3", True),
        ("{3}", "3", True),
        ("Paris", "paris", True),
        ("H_2O", "h_2o", False),
        ("7:45 AM", "07:45 a.m.", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", False),
        ("x+1", "( x + 1 )", True),
    ],
)
def test_the_shape_of_an_answer_decides_without_algebra(gold: str, given: str, equal: bool) -> None:
    def algebra(*asked: str) -> bool:
        pytest.fail(f"algebra is asked about {asked}")

    assert same(read(gold), read(given), algebra) == equal


@pytest.mark.parametrize(
    ("gold", "given", "asked"),
    [
        ("x+1", "1+x", [("x+1", "1+x", "")]),
        ("(x+1,2)", "(1+x,2)", [("x+1", "1+x", "")]),
        ("2x+y=3", "4x+2y=6", [("2x+y-(3)", "4x+2y-(6)", "=")]),
    ],
)
@pytest.mark.parametrize("verdict", [True, False])
def test_algebra_is_asked_about_what_stands_in_the_same_place_and_decides(
    gold: str, given: str, asked: list[tuple[str, str, str]], verdict: bool
) -> None:
    seen: list[tuple[str, ...]] = []

    def algebra(*expressions: str) -> bool:
        seen.append(expressions)
        return verdict

    assert same(read(gold), read(given), algebra) == verdict
    assert seen == asked


CASES = [
    ast.unparse(case.pattern)
    for node in ast.walk(ast.parse(inspect.getsource(same)))
    if isinstance(node, ast.Match)
    for case in node.cases
]


@pytest.mark.parametrize("number", range(len(CASES)), ids=CASES.__getitem__)
def test_a_case_decides_a_pair(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts()
    changed = without_case(same, compare, number)
    monkeypatch.setattr(compare, "same", changed)
    monkeypatch.setattr(verify, "same", changed)
    assert decides(), "no pair shows what it is for"
