"""Is an answer right? Each kind of answer has its own rule; only expressions reach a computer algebra system.

Kinds: `choice` (a letter, or its option's text), `text` (equal in its plain spelling), `number` (exact, with units:
`quantity.py`) and `math` (shapes by `value.py`, expressions by `algebra.py`). All rules are our choice.
"""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from string import ascii_uppercase
from typing import Literal, NamedTuple

from ..response import MAX_ANSWER_CHARS
from . import algebra
from .normalize import normalize
from .quantity import Quantity, quantity, same_quantity
from .value import Unordered, Value, Words, expressions, folded, read, same, spelled

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
    _compared.update(by_pair)
    return [by_pair[outcome] if isinstance(outcome, _Pair) else outcome for outcome in outcomes]


def usable(references: Sequence[tuple[str, Kind | None, Sequence[str] | None]]) -> list[bool]:
    """Whether each reference (gold, kind, choices) can be an answer and verifies against itself, by algebra too."""
    results = [
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
            results[index] = outcome == Outcome.CORRECT
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
    if len(words) > PROSE_WORDS and not is_list and "\\" not in gold:
        return f"is prose of {len(words)} words"
    return ""


class _Pair(NamedTuple):
    """A reference and an answer that only algebra can compare, in their plain spelling."""

    gold: str
    answer: str


_compared: dict[_Pair, Outcome] = {}  # so that a second reward that needs the same verdict asks for nothing


def kind_of(gold: str, choices: Sequence[str] | None = None) -> Kind:
    """The kind of a reference answer that does not declare one."""
    gold = normalize(gold)
    if choices or re.fullmatch(r"[A-Z]|\([A-Z]\)", gold):
        return "choice"
    value = read(gold)
    if isinstance(value, Quantity):
        return "number"
    return "text" if _is_text(value) or _RANGE.search(gold) else "math"


_RANGE = re.compile(r"^\d[\d.]*(?: ?- ?\d[\d.]*)+(?: [a-z]+)?(?:,|$)")  # 10-12, 5-10 years, 21-19, 21-17


def _is_text(value: Value) -> bool:
    if isinstance(value, Unordered):
        return bool(value.items) and any(_is_text(item) for item in value.items)
    return isinstance(value, Words)


def _same_text(gold: str, answer: str) -> bool:
    """Whether two texts are the same, or list the same words."""
    values = read(gold), read(answer)
    if all(isinstance(value, Words | Unordered) for value in values):
        return same(*values, lambda *_: False)
    return folded(gold) == folded(answer)


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
        case "number" if quantity(gold) is None:
            return Outcome.ANSWER_UNUSABLE
        case "number" | "math":
            return _value(answer, gold)
        case _:  # the data declares a kind that there is not
            return Outcome.ANSWER_UNUSABLE


def _judged(equal: bool) -> Outcome:
    return Outcome.CORRECT if equal else Outcome.WRONG


# --- choices ----------------------------------------------------------------------------------------------------------

_LETTER = re.compile(r"\(?(?P<letter>[A-Za-z])(?P<sign>[.:)]{1,2})?(?: ?(?<![A-Za-z])(?P<option>.+))?")
_HEDGE = re.compile(
    r"[,;:?!.|/]|\b[A-Zb-z]\b|\b(?:or|and|not|but|maybe|perhaps|actually|wait|instead|either|neither|no|"
    r"none|all|both|any|is|are|was|wrong|incorrect|false|also|except)\b"
)


def _choice(answer: str, gold: str, choices: Sequence[str]) -> Outcome:
    letters, options = ascii_uppercase[: len(choices) or 26], [normalize(choice) for choice in choices]
    if len({option.casefold() for option in options}) == len(options):  # but Ff and ff are two genotypes
        options, gold, answer = [option.casefold() for option in options], gold.casefold(), answer.casefold()
    right = _option(gold, letters, options)
    if right is None:
        return Outcome.ANSWER_UNUSABLE
    given = _option(answer, letters, options)
    return Outcome.UNPARSEABLE if given is None else _judged(given == right)


def _option(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter that `text` chooses: `B`, `(B)`, `B. cat`, or the text of one option alone; None for anything else.

    A text behind the letter must be that option's. Where the options are not known, it must be one plain phrase.
    """
    match = _LETTER.fullmatch(text)
    if match and (letter := match["letter"].upper()) in letters:
        option = match["option"]
        if not option:
            return letter
        if not options:  # `A dog` begins with an article, `A. dog` with a letter
            return letter if match["sign"] and not _HEDGE.search(option) else None
        if normalize(option) == options[letters.index(letter)]:
            return letter
    same_text = [letter for letter, option in zip(letters, options, strict=False) if option == text]
    if not same_text and (number := quantity(text)):  # 8.0, where an option is 8
        numbers = zip(letters, map(quantity, options), strict=False)
        same_text = [letter for letter, option in numbers if option and same_quantity(option, number)]
    return same_text[0] if len(same_text) == 1 else None


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
