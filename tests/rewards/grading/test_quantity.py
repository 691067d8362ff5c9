"""Numbers with their units: what is read as one, what is none, and which two are equal."""

from fractions import Fraction

import pytest

from rewards.grading.quantity import Quantity, quantity, same_quantity


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("05", 5, ""),
        (".5", Fraction(1, 2), ""),
        (r"0.\overline{3}", Fraction(1, 3), ""),
        ("-1,234,567", -1_234_567, ""),
        ("1 234 567", 1_234_567, ""),
        (r"1\frac12", Fraction(3, 2), ""),
        ("2 1/3", Fraction(7, 3), ""),
        (r"2.5\times10^{-3}", Fraction(1, 400), ""),
        ("1010_2", 10, ""),
        ("3 million", 3_000_000, ""),
        ("50%", 50, "%"),
        ("-$5", -5, "$"),
        ("5 km/h", 5, "km/h"),
        ("3 apples", 3, "apples"),
        ("3 dozen", 36, ""),
        ("12 (twelve) eggs", 12, "eggs"),
        ("USD 2.40", Fraction(12, 5), "USD"),
        ("5 ft 3 in", Fraction(21, 4), "ft"),
        ("2 hours and 30 minutes", Fraction(5, 2), "hours"),
        ("70% of the students", 70, "%"),
    ],
)
def test_a_number_is_read_exactly_with_its_unit(text: str, value: Fraction, unit: str) -> None:
    found = quantity(text)
    assert found is not None
    assert (found.value, found.unit) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seven",
        "1,23",
        "12,34,567",
        "1 2/1",
        "1/0",
        "1.2.3",
        "12_2",
        "3 to 5",
        "3 not 4",
        "5 m 3 m",
        "30 s 5 min",
        "5 min 3 m",
        "9" * 65,
    ],
)
def test_what_has_another_form_is_no_number(text: str) -> None:
    assert quantity(text) is None


def _quantity(text: str) -> Quantity:
    found = quantity(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("gold", "given", "equal"),
    [
        ("10 cm", "0.1 m", True),
        ("10 cm", "10 m", False),
        ("10 cm", "10 kg", False),
        ("10 cm", "10", True),
        ("1/3", "0.3333333", True),
        ("1/3", "0.333", False),
        ("50%", "0.5", True),
        ("50", "50%", True),
        ("0.3", "50%", False),
        ("3 apples", "3 apple", True),
        ("3 apples", "3 pears", False),
    ],
)
def test_units_are_converted_and_decimals_may_be_rounded_to_a_millionth(gold: str, given: str, equal: bool) -> None:
    assert same_quantity(_quantity(gold), _quantity(given)) == equal
