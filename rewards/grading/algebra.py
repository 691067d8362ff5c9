"""Are two expressions equal? Decided by math-verify and its parser, in processes that can be killed.

A static look at the shape comes first, and values at points before algebra (both our choice). Any expression of a few
characters can keep a computer algebra system busy for hours, and a big-integer power holds the interpreter's lock, so
no thread and no signal can stop it; only a process can be killed.
"""

import gc
import logging
import math
import multiprocessing
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .quantity import TOLERANCE
from .value import FUNCTIONS, expressions, read, same

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

TIMEOUT_S = 2.0  # one comparison, in the worker
WORKER_BYTES = 1024**3

_TOO_COSTLY = re.compile(
    r"\d{31}"
    r"|\^\s*[{(]?\s*(?:[\d.]+|e)\s*[})]?\s*\^"  # a tower of numbers
    r"|\^[\s{(]*-?[\d ]{4}"  # a huge exponent
    r"|\d{4}\s*!|[)\]}!]\s*!"  # the factorial of something large
    r"|\\(?:int|iint|oint|sum|prod|lim|det|binom)"
)
_UNDEFINED = re.compile(r"\\frac ?\{[^{}]*\} ?\{ ?0+(?:\.0*)? ?\}|\\frac ?(?:\d|\{[^{}]*\}) ?0|/ ?0+(?:\.0*)?(?![\d.])")
_MAX_DEPTH = 6


def is_costly(text: str) -> bool:
    """Whether `text` might keep algebra busy, by its shape: then it is not tried."""
    text = text.replace("**", "^")
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
# Stopped from outside: a cluster's signal goes to all processes of a run, which still finishes its step.
_STOPPED = {signal.SIGTERM, signal.SIGUSR1}
_START_S = 2.0  # one that is ended while it starts in its place prints a traceback


def compare(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Compare each (reference, answer), both in their `normalize` spelling; all at once, in the workers.

    Returns for each `correct`, `wrong`, `answer_unusable` (algebra cannot read the reference), `unparseable` (nor the
    answer, or the worker died of it) or `timeout`. Callable from any thread.
    """
    return _ask(_compare, pairs)


def read_references(golds: Sequence[str]) -> list[str]:
    """`correct` for each reference that algebra can read, else what `compare` would say of it."""
    return _ask(_read_reference, [(gold,) for gold in golds])


def _ask(function: Callable[..., str], calls: Sequence[tuple[str, ...]]) -> list[str]:
    global _lost_at
    from pebble import ProcessExpired

    results: list[str | None] = [None] * len(calls)
    # Delete when pebble replaces an idle worker that dies (`pebble/pool/process.py:305`; noxdafox/pebble#70, closed).
    for _ in range(3):  # pebble gives up a pool whose idle worker dies: what it did not answer is asked again
        asked = {index: _schedule(function, calls[index]) for index, result in enumerate(results) if result is None}
        for index, (pool, future) in asked.items():
            try:
                results[index] = future.result()
            except TimeoutError:
                results[index], _lost_at = "timeout", time.monotonic()
            except ProcessExpired as expired:  # the pool starts another worker
                if expired.exitcode not in _STOPPED:
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for pair in _TYPICAL:  # imports and the grammar's caches: seconds that no answer should pay
        _equal(*pair, "")
    gc.freeze()  # the parser's tables, through which each full collection would go
    _limit(resource.RLIMIT_AS, WORKER_BYTES)


def _compare(gold: str, answer: str) -> str:
    _limit_time()
    try:
        return "correct" if same(read(gold), read(answer), _equal) else "wrong"
    except _Unreadable as error:
        return str(error)
    except Exception:  # whatever algebra raises over a model's text has an outcome of its own, and is counted
        return "unparseable"


def _read_reference(gold: str) -> str:
    _limit_time()
    try:
        return "correct" if all(_parse(text) is not None for text in expressions(read(gold))) else "answer_unusable"
    except Exception:
        return "answer_unusable"


def _limit_time() -> None:
    """A limit of its own for the case that nobody is left to kill this process."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(spent.ru_utime + spent.ru_stime) + 10)


def _limit(what: int, amount: int) -> None:
    """Set a soft limit, below the hard one that the system may have set."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))


def _equal(gold: str, answer: str, sign: str) -> bool:
    """Whether two expressions are equal, or two relations `expression sign 0` say the same."""
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


def _same_function(gold: Any, answer: Any) -> bool:
    """Equal by algebra, or to 20 digits at every point that was tried, of both signs; a point refutes at once.

    The points also keep math-verify from rounding a difference of 1e-7 away, and find identities that it misses.
    """
    import sympy
    from math_verify import verify

    digits = 1e-12 if gold.atoms(sympy.Float) or answer.atoms(sympy.Float) else 1e-20
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    agreed = 0
    for point in _POINTS:
        values = dict(zip(symbols, point * len(symbols), strict=False))
        here, there = (side.evalf(30, subs=values) for side in (gold, answer))
        if here.is_real and there.is_real:
            if abs(here - there) > digits * (1 + abs(here)):
                return False
            agreed += 1
            if agreed == 4:
                return True
    return bool(verify(gold, answer, timeout_seconds=None))


# Values for the variables, repeated when there are more of them; they solve nothing by accident.
_POINTS = [
    (1.2636, 2.0183, 0.7071, 3.3301),
    (-1.3572, 0.6189, -2.1107),
    (0.3719, 0.8127, 1.9203),
    (-0.4431, -3.0071, -1.6127, -0.2903),
    (4.4721, 1.1447, 2.7639),
    (2.2913, -1.7771),
    (0.9173, 3.1931, 0.2287),
]


def _same_relation(here: Any, there: Any, sign: str) -> bool:
    """The two expressions differ by a constant factor; a positive one, where the sign is that of an inequality."""
    import sympy

    factor = sympy.cancel(here / there)
    if not factor.is_number:
        factor = sympy.simplify(factor)
    return bool(factor.is_number and factor.is_finite and (factor.is_positive or sign in {"=", r"\ne"}) and factor != 0)


def _same_constant(gold: Any, answer: Any) -> bool:
    """Exactly equal; or, where a decimal stands on one side, within the tolerance of numbers.

    math-verify rounds decimals to six places: 1e-7 is 0.0. Delete when it does not (huggingface/Math-Verify#21).
    """
    import sympy

    difference = gold - answer
    size, error = abs(gold.evalf(60)), abs(difference.evalf(60, maxn=300))
    if not (size.is_finite and error.is_finite):
        return bool(gold == answer)
    if gold.atoms(sympy.Float) or answer.atoms(sympy.Float):
        return bool(error <= TOLERANCE * min(1, size))
    if error >= sympy.Float("1e-50", 60):
        return False
    tiny = difference.has(sympy.exp) or any(
        abs(power.exp) > 40 for power in difference.atoms(sympy.Pow) if power.exp.is_Integer
    )
    digits = 1200 if tiny else 120  # 10^{-999} and e^{-999} are not 0
    return bool(abs(difference.evalf(digits, maxn=digits + 100)) < sympy.Float(10, 60) ** (20 - digits))


@lru_cache(maxsize=256)  # a reference is read once for its group
def _parse(text: str) -> Any:
    """The sympy expression, `i` as the imaginary unit; None for what is none or has no value."""
    import sympy
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    literal = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
    try:
        parsed = latex2sympy(_latex(text), is_real=True, normalization_config=None, conversion_config=literal)
    except Exception:  # it raises what its parser happens to
        return None
    if not isinstance(parsed, sympy.Expr):
        return None
    parsed = parsed.subs(sympy.Symbol("i", real=True), sympy.I)
    value = parsed.doit()
    infinite = value.has(sympy.oo) or value.has(-sympy.oo)
    return None if value.has(sympy.nan, sympy.zoo) or (infinite and not value.is_infinite) else parsed


_NAMED = re.compile(rf"(?<![\\A-Za-z])({'|'.join(sorted(FUNCTIONS))})(?![A-Za-z])")
_TOKEN = re.compile(r" ?(?:\{|\\[A-Za-z]+|\d|[A-Za-z])")


def _latex(text: str) -> str:
    r"""What people write for LaTeX: `2^10`, `sqrt(2)`, `√12`, `2**3`, `1/2x` (a half of x), `\frac\pi2`."""
    text = _NAMED.sub(r"\\\1 ", text.replace("**", "^"))
    text = re.sub(r"\^(-?\d+|-[a-z])", r"^{\1}", text)
    text = re.sub(r"\\sqrt ?(?:\(([^()]*)\)|(\d+))", lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = re.sub(r"(?<![\d.}\w^])(\d+) ?/ ?(\d+)(?![\d.!^])", r"\\frac{\1}{\2}", text)
    text = _with_braces(text)
    return re.sub(r"([\d)])\(", r"\1\\cdot (", text)


def _with_braces(text: str) -> str:
    r"""`text` with braces round each argument of `\frac` and `\sqrt`."""
    out, at = "", 0
    for match in re.finditer(r"\\(?:frac|sqrt)(?![A-Za-z])", text):
        if match.start() < at:  # inside an argument, which is done
            continue
        out, at = out + text[at : match.end()], match.end()
        if match[0] == r"\sqrt" and (index := re.match(r" ?\[[^\]]*\]", text[at:])):
            out, at = out + index[0], at + index.end()
        for _ in range(1 + (match[0] == r"\frac")):
            end = _argument_end(text, at)
            argument = text[at:end].strip()
            out, at = out + f"{{{_with_braces(argument[1:-1] if argument.startswith('{') else argument)}}}", end
    return out + text[at:]


def _argument_end(text: str, at: int) -> int:
    """Where the LaTeX argument that begins at `at` ends: a group, a command with its arguments, or one character."""
    token = _TOKEN.match(text, at)
    if token is None:
        return at
    if token[0].endswith("{"):
        depth = 0
        for index in range(token.end() - 1, len(text)):
            depth += (text[index] == "{") - (text[index] == "}")
            if depth == 0:
                return index + 1
        return len(text)
    end = token.end()
    if "sqrt" in token[0] or "frac" in token[0]:
        for _ in range(1 + ("frac" in token[0])):
            end = _argument_end(text, end)
    return end
