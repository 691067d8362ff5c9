"""Is an answer right? Each kind of answer has its own rule; only expressions reach a computer algebra system.

Kinds: `choice` (a letter, or its option's text), `text` (equal in its plain spelling), `number` (exact, with units:
`quantity.py`) and `math` (`parse.py`, `compare.py`, and `algebra.py` for expressions). All rules are our choice.
"""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from string import ascii_uppercase
from typing import Literal, NamedTuple

from ..response import MAX_ANSWER_CHARS
from . import algebra
from .choice import chosen, lettered, several
from .compare import same
from .formula import spelled
from .normalize import normalize
from .parse import read
from .quantity import Quantity
from .value import Expression, Ordered, Relation, Unordered, Value, Words, expressions
from .words import same_words

Kind = Literal["choice", "text", "number", "math"]


class Outcome(StrEnum):
    """What came of a response; the same words in rewards, metrics, evaluation and `python -m rewards score`."""

    CORRECT = "correct"
    WRONG = "wrong"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    ANSWER_UNUSABLE = "answer_unusable"

    @property
    def reward(self) -> float | None:
        """1 for a right answer, else 0; None where the reference is to blame."""
        return None if self is Outcome.ANSWER_UNUSABLE else float(self is Outcome.CORRECT)


class Question(NamedTuple):
    """An answer and what it is compared with."""

    answer: str  # the body of the answer tags
    gold: str  # the reference
    kind: Kind | None = None  # worked out from `gold` and `choices` when None
    choices: Sequence[str] | None = None  # the option texts, in the order of their letters


def verify(answer: str, gold: str, kind: Kind | None = None, choices: Sequence[str] | None = None) -> Outcome:
    """Compare one answer with its reference; `verify_all` does many at once."""
    return verify_all([Question(answer, gold, kind, choices)])[0]


def verify_all(questions: Iterable[Question]) -> list[Outcome]:
    """One outcome a question, in order. What needs algebra is compared in the workers, each different pair once."""
    outcomes: list[Outcome | _Pair] = [_verdict(question) for question in questions]
    pairs = {outcome for outcome in outcomes if isinstance(outcome, _Pair)}
    by_pair = {pair: _compared[pair] for pair in pairs & _compared.keys()}
    new = list(pairs - by_pair.keys())
    by_pair |= zip(new, map(Outcome, algebra.compare(new)), strict=True)
    if len(_compared) > 10_000:
        _compared.clear()
    _compared.update((pair, outcome) for pair, outcome in by_pair.items() if outcome is not Outcome.TIMEOUT)
    return [by_pair[outcome] if isinstance(outcome, _Pair) else outcome for outcome in outcomes]


def usable(references: Sequence[tuple[str, Kind | None, Sequence[str] | None]]) -> list[bool | None]:
    """Whether each reference (gold, kind, choices) can be an answer and verifies against itself, by algebra too.

    None where algebra ran out of time: that condemns no reference, and is no verdict to be kept.
    """
    results: list[bool | None] = [
        not no_answer(gold, kind, choices) and _verdict(Question(gold, gold, kind, choices)) is Outcome.CORRECT
        for gold, kind, choices in references
    ]
    asked: dict[str, list[int]] = {}
    for index, (gold, kind, choices) in enumerate(references):
        text = normalize(gold) if results[index] else ""
        if results[index] and (kind or kind_of(gold, choices)) == "math" and expressions(read(text)):
            if algebra.is_costly(text) or algebra.is_undefined(text):
                results[index] = False
            else:
                asked.setdefault(text, []).append(index)
    for indices, outcome in zip(asked.values(), algebra.read_references(list(asked)), strict=True):
        for index in indices:
            results[index] = None if outcome == Outcome.TIMEOUT else outcome == Outcome.CORRECT
    return results


_PLACEHOLDER = re.compile(r"(?i:n/?a|nan|null|todo|tbd)|[?.\-_*#\s]+|\[\]|\{\}")
_ALTERNATIVES = re.compile(r"[\w .,%-]+(?:\|[\w .,%-]+)+")
PROSE_WORDS = 12  # our choice: longer texts are never met word by word


def no_answer(gold: str, kind: Kind | None = None, choices: Sequence[str] | None = None) -> str:
    """Why no response will be `gold`; "" where one may. What declares its kind, or has options, is taken as it is."""
    gold = gold.strip()
    if kind or choices or not gold:
        return "" if gold else "is empty"
    if _PLACEHOLDER.fullmatch(gold):
        return "stands for no answer"
    if _ALTERNATIVES.fullmatch(gold):
        return "has several answers, and one is compared"
    words = gold.split()
    is_list = all(len(item.split()) <= 3 for item in re.split(r"[,;]", gold))
    is_prose = len(re.findall(r"[^\W\d_]{2,}", gold)) > PROSE_WORDS / 2  # x ^ { 2 } - 3 x has none
    if len(words) > PROSE_WORDS and is_prose and not is_list and "\\" not in gold:
        return f"is prose of {len(words)} words"
    return ""


class _Pair(NamedTuple):
    """A reference and an answer that only algebra can compare, in their plain spelling."""

    gold: str
    answer: str


_compared: dict[_Pair, Outcome] = {}  # so that a second reward that needs the same verdict asks for nothing


def kind_of(gold: str, choices: Sequence[str] | None = None) -> Kind:
    """The kind of a reference answer that does not declare one."""
    gold = normalize(gold[: MAX_ANSWER_CHARS + 1])
    if choices or re.fullmatch(r"[A-Z]|\([A-Z]\)", gold) or lettered(gold):
        return "choice"
    if _letters(gold):
        return "text"
    value = read(gold)
    if isinstance(value, Quantity):
        return "number"
    return "text" if _is_text(value) or _RANGE.search(gold) else "math"


_RANGE = re.compile(r"^\d[\d.]*(?: ?- ?\d[\d.]*)+(?: [a-z]+)?(?:,|$)")  # 10-12, 5-10 years, 21-19, 21-17


def _is_text(value: Value) -> bool:
    if isinstance(value, Unordered):
        return bool(value.items) and any(_is_text(item) for item in value.items)
    return isinstance(value, Words)


def _letters(text: str) -> str:
    """Several letters, in order or set apart: `ABD` and `B, A, D`, but not `BAD`."""
    letters = several(text)
    return letters if letters == text or not text.isalpha() else ""


def _same_text(gold: str, answer: str) -> bool:
    """Whether two texts are the same, or list the same words; `ABD`, letters in their order, is `A, B, D`."""
    if (letters := _letters(gold)) and letters == _letters(answer):
        return True
    values = read(gold), read(answer)
    if all(isinstance(value, Words | Unordered) for value in values):
        return same(*values, lambda *_: False)
    return same_words(gold, answer)


def _verdict(question: Question) -> Outcome | _Pair:
    if not 0 < len(question.gold) <= MAX_ANSWER_CHARS:
        return Outcome.ANSWER_UNUSABLE
    gold = normalize(question.gold)
    if not gold:
        return Outcome.ANSWER_UNUSABLE
    kind = question.kind or kind_of(question.gold, question.choices)
    if len(question.answer) > MAX_ANSWER_CHARS:
        return Outcome.UNPARSEABLE
    answer = normalize(question.answer)
    match kind:
        case "choice":
            return _choice(answer, gold, question.choices or ())
        case "text":
            return _judged(_same_text(gold, answer))
        case "number" if not isinstance(read(gold), Quantity):  # also `\\approx 3`
            return Outcome.ANSWER_UNUSABLE
        case "number" | "math":
            return _value(answer, gold)
        case _:  # the data declares a kind that there is not
            return Outcome.ANSWER_UNUSABLE


def _choice(answer: str, gold: str, choices: Sequence[str]) -> Outcome | _Pair:
    right, given = chosen(answer, gold, choices)
    if right is None:
        return Outcome.ANSWER_UNUSABLE
    if given is not None:
        return _judged(given == right)
    value = read(answer)
    is_formula = isinstance(value, Expression | Relation) or (isinstance(value, Ordered) and value.variable.islower())
    if choices and len(right) == 1 and is_formula:
        outcome = _value(answer, normalize(choices[ascii_uppercase.index(right)]))  # its formula, written otherwise
        return Outcome.UNPARSEABLE if outcome is Outcome.WRONG else outcome
    return Outcome.UNPARSEABLE


def _judged(equal: bool) -> Outcome:
    return Outcome.CORRECT if equal else Outcome.WRONG


# --- numbers and mathematics ------------------------------------------------------------------------------------------


class _NeedsAlgebra(Exception):
    pass


def _ask(gold: str, answer: str, sign: str) -> bool:
    raise _NeedsAlgebra


def _value(answer: str, gold: str) -> Outcome | _Pair:
    if spelled(answer) == spelled(gold):
        return Outcome.CORRECT
    expected, given = read(gold), read(answer)
    try:
        equal = same(expected, given, _ask)
    except _NeedsAlgebra:
        if algebra.is_costly(gold) or algebra.is_undefined(gold):
            return Outcome.ANSWER_UNUSABLE
        if algebra.is_costly(answer) or algebra.is_undefined(answer):
            return Outcome.UNPARSEABLE
        return _Pair(gold, answer)
    if not equal and isinstance(given, Words) and not isinstance(expected, Words):
        return Outcome.UNPARSEABLE
    return _judged(equal)
