"""Is an answer right? Each kind of answer has its own rule; only mathematics reaches a computer algebra system.

Kinds: `choice` (a letter, with its option's text allowed after it), `number` (exact, as a fraction), `text` (equal
after normalisation) and `math` (math-verify, in a worker process that can be killed). All rules are our choice; what
math-verify alone gets wrong is why letters, words and plain numbers never reach it.
"""

import re
import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from string import ascii_uppercase
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pebble import ProcessPool

Kind = Literal["choice", "number", "text", "math"]

TIMEOUT_S = 2.0  # one mathematical comparison, in the worker
_WORKER_BYTES = 2 * 1024**3
_MAX_NUMBER_CHARS = 64  # longer digit strings are no answers; also bounds the cost of exact arithmetic


class Outcome(StrEnum):
    """What came of a response; the same words in rewards, metrics, evaluation and `python -m rewards score`."""

    CORRECT = "correct"
    WRONG = "wrong"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    ANSWER_UNUSABLE = "answer_unusable"


def verify(answer: str, gold: str, kind: Kind | None = None, choices: Sequence[str] | None = None) -> Outcome:
    """Compare `answer`, the body of the answer tags, with the reference `gold`.

    Args:
        kind: how to compare; worked out from `gold` and `choices` when None.
        choices: the option texts, in the order of their letters; only for `choice`.
    """
    gold, answer = normalise(gold), normalise(answer)
    if not gold:
        return Outcome.ANSWER_UNUSABLE
    match kind or kind_of(gold, choices):
        case "choice":
            return _verify_choice(answer, gold, choices or ())
        case "number":
            return _verify_number(answer, gold)
        case "text":
            return Outcome.CORRECT if answer.casefold() == gold.casefold() else Outcome.WRONG
        case _:
            return _verify_math(answer, gold)


def kind_of(gold: str, choices: Sequence[str] | None = None) -> Kind:
    """The kind of a reference answer that does not declare one."""
    gold = normalise(gold)
    if choices or re.fullmatch(r"\(?[A-Z]\)?", gold):
        return "choice"
    if number(gold) is not None:
        return "number"
    return "math" if re.search(r"[\\^=_{}<>]|\d\s*[a-z(]|[a-z)]\s*[-+*/]\s*[\da-z(]", gold) else "text"


def normalise(text: str) -> str:
    """Undo what carries no meaning: Unicode compatibility forms, control characters, markdown, maths delimiters."""
    text = unicodedata.normalize("NFKC", text.translate(_FRACTION_SIGNS))
    text = "".join(char for char in text if char.isspace() or unicodedata.category(char)[0] != "C")
    text = re.sub(r"\s+", " ", text.replace("−", "-").replace("**", "")).strip()
    text = re.sub(r"^(?:the )?(?:final )?answer(?: is|:)\s*", "", text, flags=re.IGNORECASE)
    previous = None
    while previous != text:
        previous = text
        text = text.strip().removesuffix(".").strip()
        for pattern in _WRAPPERS:
            if match := pattern.fullmatch(text):
                text = match[1]
    return text


_FRACTION_SIGNS = {ord(char): f" {num}/{den}" for char, num, den in [("½", 1, 2), ("¼", 1, 4), ("¾", 3, 4)]}
_WRAPPERS = [
    re.compile(pattern)
    for pattern in (
        r"\$([^$]*)\$",
        r"\\\(((?:(?!\\\)).)*)\\\)",
        r"\\\[((?:(?!\\\]).)*)\\\]",
        r"\\boxed\s?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
        r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}",
    )
]


def _verify_choice(answer: str, gold: str, choices: Sequence[str]) -> Outcome:
    letters = ascii_uppercase[: len(choices) or 26]
    gold_letter = gold.strip("() ").upper()
    if len(gold_letter) != 1 or gold_letter not in letters:
        return Outcome.ANSWER_UNUSABLE
    match = re.fullmatch(r"\(?([A-Za-z])(?:\s*[.:)]\s*(.*))?", answer)
    if not match:
        return Outcome.UNPARSEABLE
    letter, option = match[1].upper(), match[2]
    if option and (not choices or letter not in letters):
        return Outcome.WRONG
    if option and normalise(choices[letters.index(letter)]).casefold() != option.casefold():
        return Outcome.WRONG
    return Outcome.CORRECT if letter == gold_letter else Outcome.WRONG


def _verify_number(answer: str, gold: str) -> Outcome:
    expected, given = number(gold), number(answer)
    if expected is None:
        return Outcome.ANSWER_UNUSABLE
    if given is None:
        return Outcome.UNPARSEABLE
    return Outcome.CORRECT if given == expected else Outcome.WRONG


_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?"
_NUMBER = re.compile(rf"(?P<sign>[-+]?)\$?(?P<value>{_DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,2}}))?")
_FRACTION = re.compile(r"(?P<sign>[-+]?)(?:(?P<whole>\d+) )?(?P<num>\d+) ?/ ?(?P<den>\d+)")


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed fraction or scientific notation; None for anything else.

    A comma is read only as a separator of thousands, a percent sign is dropped (`50%` is 50).
    """
    text = text.removesuffix("%").removesuffix("\\").strip()
    if len(text) > _MAX_NUMBER_CHARS or not text.isascii():
        return None
    if match := _FRACTION.fullmatch(text):
        if int(match["den"]) == 0:
            return None
        value = int(match["whole"] or 0) + Fraction(int(match["num"]), int(match["den"]))
        return -value if match["sign"] == "-" else value
    match = _NUMBER.fullmatch(text)
    if not match or not match["value"]:
        return None
    value = Fraction(match["value"].replace(",", "")) * Fraction(10) ** int(match["exponent"] or 0)
    return -value if match["sign"] == "-" else value


# What would keep the algebra system busy for long is rejected by its shape, before a worker sees it.
_TOO_COSTLY = re.compile(
    r"\d{31}|(?:\^|\*\*)[^-+]*(?:\^|\*\*)|(?:\^|\*\*)\s*\{?\s*\d{4}|\d{4}\s*!|[)!]\s*!"
    r"|\\(?:int|iint|oint|sum|prod|lim|det|binom)|\d[eE]\+?\d{3}"
)
_MAX_DEPTH = 6


def _costly(text: str) -> bool:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return len(text) > 256 or deepest > _MAX_DEPTH or bool(_TOO_COSTLY.search(text))


def _verify_math(answer: str, gold: str) -> Outcome:
    if answer == gold:
        return Outcome.CORRECT
    if _costly(gold):
        return Outcome.ANSWER_UNUSABLE
    if _costly(answer):
        return Outcome.UNPARSEABLE
    from pebble import ProcessExpired

    try:
        return Outcome(_pool().schedule(_math_outcome, args=(answer, gold), timeout=TIMEOUT_S).result())
    except TimeoutError:
        return Outcome.TIMEOUT
    except (MemoryError, ProcessExpired):  # the answer took the worker past its memory; the pool starts another
        return Outcome.UNPARSEABLE


@lru_cache(maxsize=1)
def _pool() -> "ProcessPool":
    import multiprocessing

    from pebble import ProcessPool

    return ProcessPool(
        max_workers=1, max_tasks=1000, initializer=_limit_worker, context=multiprocessing.get_context("spawn")
    )


def close() -> None:
    """End the worker process, if one was started; the next comparison starts another."""
    if _pool.cache_info().currsize:
        _pool().stop()
        _pool().join()
        _pool.cache_clear()


def _limit_worker() -> None:
    import resource

    import math_verify  # noqa: F401  # seconds, which would count against the first comparison's deadline

    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_BYTES, _WORKER_BYTES))


def _math_outcome(answer: str, gold: str) -> str:
    """Runs in the worker, where the caller's deadline is the only limit: math-verify's own uses signals."""
    from math_verify import parse, verify

    parsed_gold = parse(f"${gold}$", parsing_timeout=None)
    if not parsed_gold:
        return Outcome.ANSWER_UNUSABLE
    parsed_answer = parse(f"${answer}$", parsing_timeout=None)
    if not parsed_answer:
        return Outcome.UNPARSEABLE
    return Outcome.CORRECT if verify(parsed_gold, parsed_answer, timeout_seconds=None) else Outcome.WRONG
