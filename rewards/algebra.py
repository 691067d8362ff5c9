"""Are two expressions equal? math-verify decides, in a process that can be killed, on what a static look lets through.

The checks are our choice. Any expression of a few characters can keep a computer algebra system busy for hours, and a
big-integer power holds the interpreter's lock, so no thread and no signal can stop it; only a process can be killed.
"""

import math
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .quantity import TOLERANCE
from .value import expressions, read, same

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

TIMEOUT_S = 2.0  # one comparison, in the worker
WORKER_BYTES = 1024**3

_TOO_COSTLY = re.compile(
    r"\d{31}"
    r"|(?:\^|\*\*)\s*[{(]?\s*[\w.]*[\de]\s*[})]?\s*(?:\^|\*\*)"  # a tower of numbers
    r"|(?:\^|\*\*)[\s{(]*-?[\d ]{4}"  # a huge exponent
    r"|\d{4}\s*!|[)\]}!]\s*!"  # the factorial of something large
    r"|[)\]}]\s*(?:\^|\*\*)[\s{(]*\d\d"  # a bracket multiplied out
    r"|\\(?:int|iint|oint|sum|prod|lim|det|binom)"
)
_UNDEFINED = re.compile(r"\\frac ?\{[^{}]*\} ?\{ ?0+(?:\.0*)? ?\}|\\frac ?(?:\d|\{[^{}]*\}) ?0|/ ?0+(?:\.0*)?(?![\d.])")
_MAX_DEPTH = 6


def is_costly(text: str) -> bool:
    """Whether `text` might keep algebra busy, by its shape: then it is not tried."""
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest > _MAX_DEPTH or bool(_TOO_COSTLY.search(text))


def is_undefined(text: str) -> bool:
    """Whether `text` divides by a zero that stands there."""
    return bool(_UNDEFINED.search(text))


# --- this process -----------------------------------------------------------------------------------------------------

_starting = threading.Lock()
_pool: "ProcessPool | None" = None
_lost_at = -math.inf  # when a worker was last killed
_START_S = 2.0  # one that is ended while it starts in its place prints a traceback


def compare(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Compare each (reference, answer), both in their `plain` spelling; all at once, in the workers.

    Returns for each `correct`, `wrong`, `answer_unusable` (algebra cannot read the reference), `unparseable` (nor the
    answer, or the worker died of it) or `timeout`. Callable from any thread.
    """
    return _ask(_compare, pairs)


def check(golds: Sequence[str]) -> list[str]:
    """`correct` for each reference that algebra can read, else what `compare` would say of it."""
    return _ask(_check, [(gold,) for gold in golds])


def _ask(function: Callable[..., str], calls: Sequence[tuple[str, ...]]) -> list[str]:
    global _lost_at
    from pebble import ProcessExpired

    results: list[str | None] = [None] * len(calls)
    for _ in range(2):  # pebble gives up a pool whose idle worker dies: what it did not answer is asked once more
        asked = {index: _schedule(function, calls[index]) for index, result in enumerate(results) if result is None}
        for index, (pool, future) in asked.items():
            try:
                results[index] = future.result()
            except TimeoutError:
                results[index], _lost_at = "timeout", time.monotonic()
            except ProcessExpired:  # the pool starts another worker
                results[index], _lost_at = "unparseable", time.monotonic()
            except (MemoryError, RecursionError):
                results[index] = "unparseable"
            except (BrokenExecutor, CancelledError):
                close(pool)
    return [result or "unparseable" for result in results]


def _schedule(function: Callable[..., str], arguments: tuple[str, ...]) -> "tuple[ProcessPool, ProcessFuture[str]]":
    global _pool
    with _starting:
        if _pool is None or not _pool.active:
            from pebble import ProcessPool

            cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            workers = min(max(cores, 3), 8)  # a rank's; the others go on while one is replaced, which takes a second
            context = multiprocessing.get_context("spawn")
            _pool = ProcessPool(max_workers=workers, max_tasks=1000, initializer=_prepare_worker, context=context)
        return _pool, _pool.schedule(function, args=arguments, timeout=TIMEOUT_S)


def close(pool: "ProcessPool | None" = None) -> None:
    """End the worker processes (of `pool` alone, if it is given); the next comparison starts others."""
    global _pool
    with _starting:
        if _pool is not None and pool in {None, _pool}:
            time.sleep(max(0.0, _lost_at + _START_S - time.monotonic()))
            _pool.stop()
            _pool.join()
            _pool = None


# --- the worker -------------------------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """Algebra cannot read one side: `answer_unusable` for the reference, `unparseable` for the answer."""


_TYPICAL = [
    (r"\frac{2\sqrt{3}}{5}", r"2\sqrt{3}/5"),
    (r"(x+1)(x-2)", r"x^2-x-2"),
    (r"\frac{x+1}{x-2}", r"1+\frac{3}{x-2}"),
    (r"\sin(2x)+e^{3x}", r"\sin 2x+e^{4x}"),
    (r"\log_{2} 3", r"\frac{\ln 3}{\ln 2}"),
    (r"3+2i", r"2i+3"),
    (r"2x_1-y", r"a^{-1}"),
]


def _prepare_worker() -> None:
    import logging
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for pair in _TYPICAL:  # imports and the grammar's caches: seconds that no answer should pay
        _equal(*pair, "")
    _limit(resource.RLIMIT_AS, WORKER_BYTES)


def _compare(gold: str, answer: str) -> str:
    _limit_time()
    try:
        return "correct" if same(read(gold), read(answer), _equal) else "wrong"
    except _Unreadable as error:
        return str(error)
    except Exception:  # whatever algebra raises over a model's text has an outcome of its own, and is counted
        return "unparseable"


def _check(gold: str) -> str:
    _limit_time()
    return "correct" if all(_parse(text) is not None for text in expressions(read(gold))) else "answer_unusable"


def _limit_time() -> None:
    """A limit of its own for the case that nobody is left to kill this process."""
    import resource

    spent = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(spent.ru_utime + spent.ru_stime) + 10)


def _limit(what: int, amount: int) -> None:
    """Set a soft limit, below the hard one that the system may have set."""
    import resource

    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))


def _equal(gold: str, answer: str, sign: str) -> bool:
    """Whether two expressions are equal, or two relations `expression sign 0` say the same."""
    if _only_case_differs(gold, answer):
        return False
    here, there = _parse(gold), _parse(answer)
    if here is None:
        raise _Unreadable("answer_unusable")
    if there is None:
        raise _Unreadable("unparseable")
    if sign:
        return _same_relation(here, there, sign)
    if here.free_symbols or there.free_symbols:
        return _same_function(here, there)
    return _same_constant(here, there)


def _only_case_differs(gold: str, answer: str) -> bool:
    """Whether a variable is written in capitals on one side alone; math-verify reads `A` and `a` as one symbol."""
    here, there = (set(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])", text)) for text in (gold, answer))
    return here != there and {word.lower() for word in here} == {word.lower() for word in there}


def _same_function(gold: Any, answer: Any) -> bool:
    """Equal at a point, which is quick to refute, and then by algebra.

    The point also keeps math-verify from rounding a difference of 1e-7 away.
    """
    import sympy
    from math_verify import verify

    difference = _at_a_point(gold - answer)
    if difference.is_finite and abs(difference) > 1e-12 * (1 + abs(_at_a_point(gold))):
        return False
    return sympy.expand(gold - answer) == 0 or bool(verify(gold, answer, timeout_seconds=None))


def _at_a_point(expression: Any) -> Any:
    """The value where each variable has a number of its own that solves nothing by accident."""
    import sympy

    symbols = sorted(expression.free_symbols, key=str)
    return expression.subs({symbol: sympy.Rational(10007 + 1999 * i, 7919) for i, symbol in enumerate(symbols)}).evalf(
        30
    )


def _same_relation(here: Any, there: Any, sign: str) -> bool:
    """The two expressions differ by a constant factor; a positive one, where the sign is that of an inequality."""
    import sympy

    factor = sympy.cancel(here / there)
    if not factor.is_number:
        factor = sympy.simplify(factor)
    return bool(factor.is_number and factor.is_finite and (factor.is_positive or sign in {"=", r"\ne"}) and factor != 0)


def _same_constant(gold: Any, answer: Any) -> bool:
    """Equal to 50 digits; or, where a decimal or a fraction stands on one side, within the tolerance of numbers.

    math-verify rounds constants to six decimals, by which 1e-7 is 0.
    """
    import sympy

    size, difference = abs(gold.evalf(60)), abs((gold - answer).evalf(60, maxn=300))
    if not (size.is_finite and difference.is_finite):
        return False
    if any(side.atoms(sympy.Float) or (side.is_Rational and not side.is_Integer) for side in (gold, answer)):
        return bool(difference <= TOLERANCE * min(1, size))
    return bool(difference < sympy.Float("1e-50", 60))


@lru_cache(maxsize=256)  # a reference is read once for its group
def _parse(text: str) -> Any:
    """The sympy expression, or None for what is none or has no value."""
    import sympy
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    as_it_stands = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    )
    found = parse(
        f"${_latex(text)}$",
        [LatexExtractionConfig(normalization_config=as_it_stands)],
        "no_fallback",
        parsing_timeout=None,
    )
    if not found or not isinstance(found[0], sympy.Expr):
        return None
    value = found[0].doit()
    undefined = value.has(sympy.nan, sympy.zoo) or (value.has(sympy.oo, -sympy.oo) and not value.is_infinite)
    return None if undefined or (value.free_symbols and value.has(sympy.oo)) else found[0]


_NAMED = re.compile(
    r"(?<![\\A-Za-z])(sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
)


def _latex(text: str) -> str:
    """What people write for LaTeX: `2^10`, `sqrt(2)`, `√12`, `2**3`, and `2(3)`, which math-verify takes for 2 + 3."""
    text = _NAMED.sub(r"\\\1 ", text.replace("**", "^"))
    text = re.sub(r"\\frac ?(\d) ?(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\^(-?\d+|-[a-z])", r"^{\1}", text)
    text = re.sub(r"\\sqrt ?(?:\(([^()]*)\)|(\d+|[A-Za-z]))", lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = re.sub(r"(?<=\d)i(?![A-Za-z])", " i", text)  # math-verify knows the imaginary unit when it stands alone
    return re.sub(r"([\d)])\(", r"\1\\cdot (", text)
