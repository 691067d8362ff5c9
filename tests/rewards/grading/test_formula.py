"""Mathematics and words, values and work that was not done."""

import pytest

from rewards.grading.formula import has_variable, is_expression, is_value, spelled


@pytest.mark.parametrize("text", ["x+1", r"\frac{\pi}{2}", "2x^2", "sin x", "|x-1|", "x_1", "5!"])
def test_what_algebra_may_see(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text", ["cat", "7 8", "5 ft 3 in", "2020-01-02", "1/2/2020", "x+", "--1", "1.2.3", r"\text{x}", "x=1", "9 am"]
)
def test_what_it_may_not(text: str) -> None:
    assert not is_expression(text)


@pytest.mark.parametrize(
    "text", ["3", r"\frac12", "2^{10}", r"\sqrt{2}", r"\frac{\pi}{6}", "|-8|", "2+1/4", r"\sqrt[3]{8}"]
)
def test_a_value(text: str) -> None:
    assert is_value(text)


@pytest.mark.parametrize("text", ["17*23", "1+1", "5!", r"2\cdot3", "2(3)", r"\log_2 8", "x", "2+5/4", "3-1"])
def test_work_that_was_not_done(text: str) -> None:
    assert not is_value(text)


def test_a_letter_alone_is_a_variable_and_e_is_a_number() -> None:
    assert has_variable("2x")
    assert not has_variable("2e")
    assert not has_variable(r"\pi")


def test_blanks_that_separate_nothing_are_no_difference() -> None:
    assert spelled("( x + 1 )") == spelled("(x+1)")
    assert spelled("7 8") != spelled("78")
