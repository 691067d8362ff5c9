"""Verdicts: a table of odd pairs, negatives made from it, and properties of numbers."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from string import ascii_uppercase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.grading import algebra
from rewards.grading.normalize import normalize
from rewards.grading.quantity import quantity
from rewards.grading.verify import Outcome, Question, kind_of, no_answer, usable, verify, verify_all
from tests.support.tables import hostile_answers, table

pytestmark = pytest.mark.slow

PAIRS = table("pairs")


def _question(row: dict[str, Any], answer: str | None = None) -> Question:
    return Question(row["answer"] if answer is None else answer, row["gold"], row.get("kind"), row.get("choices"))


def test_no_wrong_answer_is_paid_and_97_percent_of_right_ones_are() -> None:
    outcomes = verify_all(map(_question, PAIRS))
    paid = [row for row, outcome in zip(PAIRS, outcomes, strict=True) if outcome is Outcome.CORRECT]
    assert [row for row in paid if not row["right"]] == []
    right = sum(row["right"] for row in PAIRS)
    assert len(paid) >= 0.97 * right, [row for row in PAIRS if row["right"] and row not in paid]
    assert Counter(row["right"] for row in PAIRS)[False] > 400


Made = Iterator[tuple[str, Question]]  # by a named mutation

BEHIND = (
    "six|point five|sixteenths|Million|lakh|thousand two|per thousand|wait six|sorry six|negative|doubled|"
    "divided eight|nope|untrue|or so|times two|squared|cubed|dozen|k|mil|grand|minus|halves|by two|and a half"
).split("|")
REFUSED = "cannot be right|crossed out|eliminated|unlikely|nope|my guess before C|mistake|ruled out".split("|")
NEVER = "Not|never|wrong|eight|neither|NO|false|none|half|minus".split("|")


def _negatives() -> Made:
    """Each right pair of the table, made wrong in every way that fits its kind."""
    for number, row in enumerate(PAIRS):
        if row["right"] and row["category"] != "unusable":
            kind = row.get("kind") or kind_of(row["gold"], row.get("choices"))
            makers = [_any, {"choice": _choices, "text": _texts, "number": _numbers, "math": _mathematics}[kind]]
            for maker in makers:
                yield from ((name, _question(row, answer)) for name, answer in maker(row, number))


def _any(row: dict[str, Any], number: int) -> Iterator[tuple[str, str]]:
    answer = row["answer"]
    yield "not", f"not {answer}"
    yield "doubt", f"{answer}?"
    yield "or", f"{answer} or qwerty"
    yield "assigned", f"{NEVER[number % len(NEVER)]} = {answer}"
    yield "two boxes", rf"\boxed{{{answer}}} \boxed{{3}}"


def _choices(row: dict[str, Any], number: int) -> Iterator[tuple[str, str]]:
    letters = [letter for letter in ascii_uppercase[:8] if verify(letter, *_question(row)[1:]) is Outcome.CORRECT]
    if letters:
        yield from (("letter", letter) for letter in "ABCD" if letter != letters[0])
        yield "refused", f"{letters[0]}. {REFUSED[number % len(REFUSED)]}"
        yield "refused", f"({letters[0]}) {REFUSED[-1 - number % len(REFUSED)]}"
        yield "two letters", f"{letters[0]} or H"


def _texts(row: dict[str, Any], number: int) -> Iterator[tuple[str, str]]:
    word = normalize(row["answer"])
    if len(word) > 2 and len(set(word.casefold())) > 2 and not {" ", ","} & set(word):
        yield "anagram", word[1:] + word[0]
        yield "anagram", word[::-1] if word.casefold() != word[::-1].casefold() else word[1:]
    if re.fullmatch(r"[A-Z][a-z]+[A-Z]\w*", word):
        yield "case", word.swapcase()
    if " and " in row["gold"]:
        yield "or for and", row["gold"].replace(" and ", " or ")


def _numbers(row: dict[str, Any], number: int) -> Iterator[tuple[str, str]]:
    found, gold = quantity(normalize(row["answer"])), quantity(normalize(row["gold"]))
    if not found or not gold:
        return
    for step in (1, -1):
        yield "off by one", f"{_decimal(found.value + step)} {found.unit}"
    if found.value:
        yield "sign", f"{_decimal(-found.value)} {found.unit}"
        yield "ten times", f"{_decimal(found.value * 10)} {found.unit}"
        yield "magnitude", f"{_decimal(found.value)} million {found.unit}"
    if gold.unit not in {"", "%"}:
        yield "unit", f"{_decimal(found.value)} {'A' if 'A' not in gold.unit else 'min'}"
        yield "unit", f"{_decimal(found.value)} cd"
    for index in range(4 if gold.value else 0):
        yield "words behind", f"{_decimal(gold.value)} {BEHIND[(4 * number + index) % len(BEHIND)]}"
    if gold.value.denominator == 1:
        size = int(gold.value)
        yield "arithmetic", f"{size - 1}+1"
        yield "arithmetic", rf"{size}\cdot 1"
        yield "range", f"{size}-{size + 1}"
        yield "false equation", f"{size} = {size + 1}"


def _mathematics(row: dict[str, Any], number: int) -> Iterator[tuple[str, str]]:
    answer = row["answer"]
    numbers = re.findall(r"(?<![\w\\])-?\d+", answer)
    if row["category"] in {"tuple", "matrix"} and len(set(numbers)) > 1 and numbers != numbers[::-1]:
        swapped = re.sub(rf"(?<![\w\\]){re.escape(numbers[0])}(?!\d)", "@", answer)
        swapped = re.sub(rf"(?<![\w\\]){re.escape(numbers[-1])}(?!\d)", numbers[0], swapped)
        yield "swapped", swapped.replace("@", numbers[-1])
    if last := list(re.finditer(r"(?<![\d.^_{,])\d(?![\d.,])", answer)):
        place = last[-1]
        yield "digit", f"{answer[: place.start()]}{int(place[0]) + 1}{answer[place.end() :]}"
    if row["category"] in {"expression", "branch"} and re.search(r"(?<![\\a-zA-Z])[a-df-hj-z](?![a-zA-Z])", answer):
        yield "perturbed", f"{answer}+10^{{-25}}"
        yield "perturbed", f"{answer}-0.0001"
    if row["category"] == "tuple" and "," in answer:
        yield "lost comma", answer.replace(",", "")


def _decimal(value: Fraction) -> str:
    return str(value) if value.denominator != 1 else str(value.numerator)


def test_no_wrong_answer_that_is_made_from_a_right_one_is_paid() -> None:
    made = list(_negatives())
    outcomes = verify_all(question for _, question in made)
    paid = [each for each, outcome in zip(made, outcomes, strict=True) if outcome is Outcome.CORRECT]
    assert paid == []
    assert len(made) >= 10_000
    assert len({name for name, _ in made}) >= 15, Counter(name for name, _ in made)


def test_each_usable_reference_of_the_table_verifies_against_itself() -> None:
    golds = list(
        {json.dumps([r["gold"], r.get("kind"), r.get("choices")]) for r in PAIRS if r["category"] != "unusable"}
    )
    references = [tuple(json.loads(gold)) for gold in golds]
    refused = {reference[0] for reference, good in zip(references, usable(references), strict=True) if not good}
    assert refused <= {"", r"\frac{1}{0}"}


@pytest.mark.parametrize(
    ("gold", "kind", "choices"),
    [
        ("", None, None),
        (" ", "text", None),
        ("D", None, ["dog", "cat"]),
        ("mouse", "choice", ["dog", "cat"]),
        ("seven", "number", None),
        (r"\frac{1}{0}", None, None),
        (r"9^{9^9}", None, None),
        (r"x^{9}!!", None, None),
        ("7", "algebra", None),
        ("x" * 300, None, None),
    ],
)
def test_a_reference_that_cannot_be_verified_is_found(gold: str, kind: Any, choices: list[str] | None) -> None:
    assert usable([(gold, kind, choices)]) == [False]
    assert verify("zebra", gold, kind, choices) is not Outcome.CORRECT


def test_hostile_answers_are_never_right_never_raise_and_run_nothing(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    answers = hostile_answers()
    for gold in ("3", r"\frac{\pi}{2}", "B", "Paris", "(1,2)"):
        for kind in (None, "text", "math"):
            outcomes = verify_all(Question(answer, gold, kind) for answer in answers)
            right = [answer for answer, outcome in zip(answers, outcomes, strict=True) if outcome is Outcome.CORRECT]
            assert right == [], gold
    assert list(tmp_path.iterdir()) == []


SIGNS = st.sampled_from("0123456789.,-+*/^_(){}[]|!$%\\ <>=~&#@:;'\"`abcxyzABC²½π√−∞٣€\u200b\ud800\0\n")
COMMANDS = st.sampled_from([r"\frac", r"\sqrt", r"\text{", r"\boxed{", "{", "}", r"\pm", r"\cup", r"\le", " or ", "cm"])
TEXTS = st.one_of(st.lists(SIGNS | COMMANDS, max_size=40).map("".join), st.text(max_size=300))


@settings(max_examples=2000, deadline=None)
@given(TEXTS, st.sampled_from(["7", "B", "Paris", "50%", "(1,2)", "1, 2", "10 cm", "x=3", "x>3", "2/3"]))
def test_any_text_has_a_verdict_without_algebra_being_asked_twice(text: str, gold: str) -> None:
    asked: list[int] = []
    compare, algebra.compare = algebra.compare, lambda pairs: asked.append(len(pairs)) or ["wrong"] * len(pairs)
    try:
        assert verify(text, gold) in Outcome
        assert verify(gold, text) in Outcome
    finally:
        algebra.compare = compare


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece",
    ["A1", "(A1)", "A_{1}", "1,", "1 ", "a ", "a-", "1-", "1/", "x=", "{", "\\frac", "boxed{a", "**", "10^", "1.", "$"],
)
def test_a_repeated_piece_is_read_without_backtracking(piece: str) -> None:
    """Two readings of each piece would make 2^80 of the whole, which no limit but this test's would end."""
    for end in ("", "!", "?", "}", " cm"):
        text = (piece * 256)[: 255 - len(end)] + end
        assert verify(text, "7") is not Outcome.CORRECT
        assert verify("7", text) in Outcome


NUMBERS = st.fractions(-(10**9), 10**9, max_denominator=10**4)


@settings(deadline=None)  # the first unit loads pint's list
@given(st.integers(-(10**12), 10**12))
def test_an_integer_is_right_in_every_spelling_and_its_neighbours_in_none(number: int) -> None:
    gold = str(number)
    spellings = [
        f"{number:,}",
        f"{number}.0",
        f"{number:,}".replace(",", " "),
        rf"\boxed{{{number}}}",
        f"${number}$",
        f"{number} cm",
    ]
    assert all(verify(spelling, gold) is Outcome.CORRECT for spelling in spellings)
    others = [number + 1, number - 1, number + 10, -number - 1]
    assert all(verify(f"{other:,}", gold) is not Outcome.CORRECT for other in others)


@settings(deadline=None)
@given(NUMBERS)
def test_a_fraction_is_right_as_fraction_decimal_and_mixed_number(value: Fraction) -> None:
    gold, sign, size = f"{value.numerator}/{value.denominator}", "-" * (value < 0), abs(value)
    whole, rest = divmod(size, 1)
    spellings = [rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}", f"{float(value):.12f}"]
    if rest and whole:
        spellings += [f"{sign}{whole} {rest}", rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}"]
    assert [s for s in spellings if verify(s, gold, "number") is not Outcome.CORRECT] == []
    nearby = value + Fraction(1, 10**5)
    assert verify(f"{nearby.numerator}/{nearby.denominator}", gold, "number") is not Outcome.CORRECT


def test_the_kind_of_a_reference_is_worked_out() -> None:
    golds = [
        "B",
        "(C)",
        "3.5",
        "1/2",
        "10 cm",
        "50%",
        "east",
        "10:30",
        "10-12",
        "H2O",
        r"\frac{\pi}{2}",
        "x^2",
        "(1,2)",
        "x",
    ]
    kinds = ["choice", "choice", *["number"] * 4, *["text"] * 4, *["math"] * 4]
    assert [kind_of(gold) for gold in golds] == kinds
    assert kind_of("cat", choices=["dog", "cat"]) == "choice"


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("N/A", "stands for no answer"),
        ("nan", "stands for no answer"),
        ("null", "stands for no answer"),
        ("?", "stands for no answer"),
        ("[]", "stands for no answer"),
        ("7|seven", "has several answers"),
        ("yes | no", "has several answers"),
        ("We count them one by one and get 0, so it is 0.", "is prose of 13 words"),
        ("The mitochondria turn food into energy that the cell can use for all of its work.", "is prose of 16 words"),
    ],
)
def test_a_reference_that_is_no_answer_is_told_from_one(gold: str, why: str) -> None:
    assert no_answer(gold).startswith(why)
    assert usable([(gold, None, None)]) == [False]
    if gold.strip():
        assert no_answer(gold, "text") == no_answer(gold, None, ["a", gold]) == ""


@pytest.mark.parametrize(
    "gold",
    [
        "7",
        "|x-1|",
        "P(A|B)",
        "8 x ^ { 2 } - 3 x y + y ^ { 2 }",
        r"\text{a long sentence of more than twelve words that someone has put into a box}",
        "none of them",
        "None",
        "undefined",
        "red, green, blue, dark grey, light grey, black, white, pink, purple, brown, beige, teal, lime",
        "x|y=2",
        "-1",
        "3.5",
    ],
)
def test_what_can_be_an_answer_is_left_to_the_verifier(gold: str) -> None:
    assert no_answer(gold) == ""
