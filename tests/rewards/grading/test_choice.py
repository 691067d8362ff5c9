"""Options: which one an answer chooses, and which it only mentions."""

import pytest

from rewards.grading.choice import chosen, lettered, several

ANIMALS = ["cat", "dog", "3", r"$\frac13$"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "b"),
        ("(b)", "b"),
        ("B. dog", "b"),
        ("dog (B)", "b"),
        ("Option B: dog", "b"),
        ("dog", "b"),
        ("3.0", "c"),
        ("D. 1/3", "d"),
        ("B. cat", None),
        ("B or C", None),
        ("not B", None),
        ("E", None),
        ("horse", None),
    ],
)
def test_an_answer_chooses_one_of_the_options_or_none(answer: str, letter: str | None) -> None:
    right, given = chosen(answer, "B", ANIMALS)
    assert right == "B"
    assert given == (letter.upper() if letter else None)


@pytest.mark.parametrize(
    ("answer", "letters"), [("C, A", "AC"), ("AC", "AC"), ("(A) and (C)", "AC"), ("A or C", None), ("A, E", None)]
)
def test_several_right_letters_are_all_to_be_named(answer: str, letters: str | None) -> None:
    assert chosen(answer, "A, C", ANIMALS) == ("AC", letters)


@pytest.mark.parametrize(
    ("answer", "letter"), [("B", "B"), ("5", "B"), ("B. 5", "B"), ("B. 6", None), ("B. cannot be right", None)]
)
def test_a_reference_with_its_letter_is_an_option(answer: str, letter: str | None) -> None:
    assert chosen(answer, "(B) 5", ()) == ("B", letter)


def test_letters_are_told_from_words() -> None:
    assert several("BAD") == "ABD"
    assert several("BOB") == several("A cat") == several("A") == ""
    assert lettered("(B) 5 cm") == ("B", "5 cm")
    assert lettered("D. the sun") == ("D", "the sun")
    assert lettered("A. Lincoln") is None
