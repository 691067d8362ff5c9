"""Values: what of them algebra may be asked about."""

import pytest

from rewards.grading.parse import read
from rewards.grading.value import expressions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x+1", ["x+1"]),
        ("(x+1, 2, y)", ["x+1", "y"]),
        (r"z = \sqrt2", [r"\sqrt2"]),
        ("2x+y=3", ["2x+y-(3)"]),
        (r"1, \{ab, 3\}", ["ab"]),
        ("Paris", []),
        ("5 cm", []),
    ],
)
def test_the_expressions_of_a_value_are_found_wherever_they_stand(text: str, found: list[str]) -> None:
    assert expressions(read(text)) == found
