"""When two expressions are equal, by sympy over math-verify's parser. Runs in the workers, which may be killed.

An equality of functions is shown by algebra (a difference of quotients of polynomials that is zero), or by points: of
every scale and sign, and on both sides of each place where an inner expression of either side changes its sign. What
neither shows is not equal. All of it is our choice: math-verify rounds, and takes unequal functions for equal.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from .compare import same
from .formula import FUNCTIONS, with_braces
from .parse import read
from .quantity import TOLERANCE
from .units import known_unit
from .value import expressions


class Unreadable(Exception):
    """Algebra cannot read one side: `answer_unusable` for the reference, `unparseable` for the answer."""


_TYPICAL = [
    (r"\frac{2\sqrt{3}}{5}", r"2\sqrt{3}/5"),
    (r"(x+1)(x-2)", r"x^2-x-2"),
    (r"\frac{x+1}{x-2}", r"1+\frac{3}{x-2}"),
    (r"\sin(2x)+e^{3x}", r"\sin 2x+e^{4x}"),
    (r"\log_{2} 3", r"\frac{\ln 3}{\ln 2}"),
    (r"3+2i", r"2i+3"),
    (r"2x_1-y", r"a^{-1}"),
    (r"|x|+\sqrt{x^2+1}", r"\sqrt{x^2+1}+|x|"),
]


def warm_up() -> None:
    """Import algebra and fill the parser's caches: seconds that no answer should pay."""
    for pair in _TYPICAL:
        _equal(*pair, "")
    known_unit("km/h")


def equal(gold: str, answer: str) -> bool:
    """Whether `answer` is the reference, both in their `normalize` spelling. Raises: `Unreadable`."""
    return same(read(gold), read(answer), _equal)


def readable(gold: str) -> bool:
    """Whether algebra can read each expression in `gold`."""
    return all(_parse(text) is not None for text in expressions(read(gold)))


def _equal(gold: str, answer: str, sign: str) -> bool:
    """Whether two expressions are equal, or two relations `expression sign 0` say the same."""
    here, there = _parse(gold), _parse(answer)
    if here is None:
        raise Unreadable("answer_unusable")
    if there is None:
        raise Unreadable("unparseable")
    if sign:
        return _same_relation(here, there, sign)
    if here.free_symbols or there.free_symbols:
        return _same_function(here, there)
    return _same_constant(here, there)


# --- functions --------------------------------------------------------------------------------------------------------

_NEEDED = 6  # points at which the reference has a value
_FORM = (1.2636, 2.0183, 0.7071, 3.3301, 1.6127, 2.7639)  # the variables' values beside each other; solve nothing
_SCALES = (1e-3, 0.0371, 0.2903, 0.6189, 1.1447, 2.1107, 3.1931, 4.4721, 7.3137, 23.59, 101.7, 1234.5, 98765.4, 3.3e7)


def _same_function(gold: Any, answer: Any) -> bool:
    import sympy
    from sympy.core.function import AppliedUndef

    gold, answer = _exact(gold), _exact(answer)
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    difference = gold - answer
    if difference == 0:
        return True
    if difference.atoms(AppliedUndef):  # f(x), of which nothing is known
        return False
    if difference.is_rational_function(*symbols) and not difference.atoms(sympy.Function):
        return bool(sympy.cancel(sympy.together(difference)) == 0)
    digits = 1200 if _has_tiny(difference) else 40
    values = _Values(gold, answer, symbols, digits)
    points = _points(gold, answer, symbols)
    verdict = values.agree(points)
    if verdict is None:  # the reference is real at whole numbers alone, as (-1)^n is
        whole = [[sympy.Integer(n + k) for k in range(len(symbols))] for n in range(1, 14)]
        verdict = values.agree(whole)
    return bool(verdict)


def _exact(expression: Any) -> Any:
    """A decimal as the fraction that is written: 0.1 is a tenth."""
    import sympy

    return expression.xreplace({number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)})


class _Values:
    """Both sides as functions of their variables, at a precision that shows small differences."""

    def __init__(self, gold: Any, answer: Any, symbols: list[Any], digits: int) -> None:
        import mpmath
        import sympy

        self.sides = [sympy.lambdify(symbols, side, "mpmath") for side in (gold, answer)]
        self.digits, self.error = digits, mpmath.mpf(10) ** (12 - digits)
        self.complex = gold.has(sympy.I)
        self.positive = _positive(gold, symbols)
        self.is_wider = False  # the answer is real where the reference is not: `\\ln|x-1|` for `\\ln(x-1)`

    def agree(self, points: list[list[Any]]) -> bool | None:
        """Whether the answer has the reference's value wherever that has one; None where it has too few."""
        import mpmath

        agreed, self.is_wider = 0, False
        with mpmath.workdps(self.digits):
            for point in points:
                point = [
                    abs(value) if positive else value for value, positive in zip(point, self.positive, strict=True)
                ]
                verdict = self._at([mpmath.mpf(value.p) / value.q for value in point])
                if verdict is False:
                    return False
                agreed += verdict is True
        return not self.is_wider if agreed >= _NEEDED else None

    def _at(self, point: list[Any]) -> bool | None:
        import mpmath

        try:
            here = mpmath.mpmathify(self.sides[0](*point))
        except (ZeroDivisionError, ValueError, OverflowError):
            return None
        if not mpmath.isfinite(here):
            return None
        is_real = self.complex or abs(mpmath.im(here)) <= self.error * (1 + abs(here))
        try:
            there = mpmath.mpmathify(self.sides[1](*point))
        except (ZeroDivisionError, ValueError, OverflowError):
            return None  # a hole in the answer's domain
        if not mpmath.isfinite(there):
            return None
        if not is_real:
            self.is_wider = self.is_wider or not mpmath.im(there)
            return None
        size = max(abs(here), mpmath.mpf(10) ** -30)
        return bool(abs(here - there) <= self.error * size)


def _positive(gold: Any, symbols: list[Any]) -> list[bool]:
    r"""The variables that the reference takes for positive: factors, of odd power, in its logarithms and even roots.

    So `\ln(xy)` is `\ln x+\ln y`, but `\ln(x^2)` is not `2\ln x`, and `x` in no `x+2`.
    """
    import sympy

    found: set[Any] = set()
    for inner in _inner(gold, (sympy.log,), even_roots=True):
        powers = inner.as_powers_dict()
        found |= {base for base, power in powers.items() if base.is_Symbol and power.is_Integer and power % 2}
    return [symbol in found for symbol in symbols]


def _inner(expression: Any, functions: tuple[Any, ...], even_roots: bool = False) -> Iterator[Any]:
    """The arguments of `functions` in `expression`, and the radicands of its even roots."""
    import sympy

    for part in sympy.preorder_traversal(expression):
        if isinstance(part, functions):
            yield part.args[0]
        elif even_roots and part.is_Pow and part.exp.is_Rational and part.exp.q % 2 == 0:
            yield part.base


def _points(gold: Any, answer: Any, symbols: list[Any]) -> list[list[Any]]:
    """Points of every scale, both signs, and both sides of each root of what stands within either side."""
    import sympy

    form = [sympy.Rational(str(value)) for value in (_FORM * len(symbols))[: len(symbols)]]
    points = []
    for index, scale in enumerate(_SCALES[:8] if _is_steep(gold) or _is_steep(answer) else _SCALES):
        value = sympy.Rational(str(scale))
        for turn in range(2 if len(symbols) == 1 else 4):
            signs = [(-1) ** ((turn >> (place % 2)) & 1) for place in range(len(symbols))]
            step = index if len(symbols) > 1 else 0
            points.append(
                [
                    sign * (value if place == step % len(symbols) or index % 3 == 0 else size)
                    for place, (sign, size) in enumerate(zip(signs, form, strict=True))
                ]
            )
    for symbol_place, symbol in enumerate(symbols):
        others = {other: size for other, size in zip(symbols, form, strict=True) if other != symbol}
        for root in _roots(gold, answer, symbol, others):
            for nearby in (
                root - abs(root) / 1000 - sympy.Rational(1, 997),
                root + abs(root) / 1000 + sympy.Rational(1, 997),
            ):
                points.append([*form[:symbol_place], nearby, *form[symbol_place + 1 :]])
    return points


def _is_steep(expression: Any) -> bool:
    """Whether a power stands in an exponent, so that large numbers would have more digits than there is room for."""
    import sympy

    powers = expression.atoms(sympy.Pow, sympy.exp)
    return any(inner.free_symbols for power in powers for inner in power.exp.atoms(sympy.Pow, sympy.exp))


def _roots(gold: Any, answer: Any, symbol: Any, others: dict[Any, Any]) -> list[Any]:
    """Where an inner expression of either side, as a function of one variable, is 0, 1 or -1; at most 24 places."""
    import sympy

    inner: list[Any] = []
    for side in (gold, answer):
        inner += [part.base for part in side.atoms(sympy.Pow) if not part.exp.is_nonnegative or not part.exp.is_Integer]
        inner += [argument for part in side.atoms(sympy.Function) for argument in part.args]
    found: list[Any] = []
    for part in dict.fromkeys(inner):
        for level in (0, 1, -1):
            at = sympy.together(part.subs(others) - level)
            if at.is_rational_function(symbol) and symbol in at.free_symbols and not at.atoms(sympy.Function):
                polynomial = sympy.Poly(sympy.fraction(at)[0], symbol)
                if 0 < polynomial.degree() <= 8:
                    roots = polynomial.nroots(n=15, maxsteps=200)
                    found += [sympy.Rational(str(root)) for root in roots if root.is_real]
    return list(dict.fromkeys(found))[:24]


def _has_tiny(expression: Any) -> bool:
    """Whether a number in it may be far smaller than the others: 10^{-999}, e^{-999}."""
    import sympy

    return (
        any(exp.args[0].is_number for exp in expression.atoms(sympy.exp))
        or any(abs(power.exp) > 40 for power in expression.atoms(sympy.Pow) if power.exp.is_Integer)
        or any(number.p.bit_length() > 90 or number.q.bit_length() > 90 for number in expression.atoms(sympy.Rational))
    )


# --- relations, constants ---------------------------------------------------------------------------------------------


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

    exact = gold.doit(), answer.doit()
    if gold == answer or all(value.is_Rational for value in exact):  # however large: 2^{2024}
        return bool(exact[0] == exact[1])
    difference = gold - answer
    size, error = abs(gold.evalf(60)), abs(difference.evalf(60, maxn=300))
    if not (size.is_finite and error.is_finite):
        return bool(gold == answer)
    if gold.atoms(sympy.Float) or answer.atoms(sympy.Float):
        return bool(error <= TOLERANCE * min(1, size))
    if error >= sympy.Float("1e-50", 60):
        return False
    digits = 1200 if _has_tiny(difference) else 120  # 10^{-999} and e^{-999} are not 0
    return bool(abs(difference.evalf(digits, maxn=digits + 100)) < sympy.Float(10, 60) ** (20 - digits))


# --- reading ----------------------------------------------------------------------------------------------------------


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


def _latex(text: str) -> str:
    r"""What people write for LaTeX: `2^10`, `sqrt(2)`, `√12`, `2**3`, `1/2x` (a half of x), `\frac\pi2`."""
    text = _NAMED.sub(r"\\\1 ", text.replace("**", "^"))
    text = re.sub(r"_ ?(?:\{ ?e ?\}|e(?![A-Za-z]))", "_{ee}", text)
    text = re.sub(r"\\lg(?![A-Za-z])", r"\\log_{10}", text)
    text = _TAKEN.sub(_plain_symbol, text)
    text = re.sub(r"\^(-?\d+|-[a-z])", r"^{\1}", text)
    text = re.sub(r"\\sqrt ?(?:\(([^()]*)\)|(\d+))", lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = re.sub(r"(?<![\d.}\w^])(\d+) ?/ ?(\d+)(?![\d.!^])", r"\\frac{\1}{\2}", text)
    text = with_braces(re.sub(r"(\d)\.(?!\d)", r"\1", text))  # 1./3
    return re.sub(r"(?<!_)(?<!_\d)([\d)])\(", r"\1\\cdot (", text)


# What the parser takes for a constant or a function (I for the imaginary unit, \gamma for Euler's), with its index.
_TAKEN = re.compile(r"(\\[A-Za-z]+|I|E|e(?=_))(?: ?_ ?(?:\{ ?(\w+) ?\}|(\w)))?")


def _plain_symbol(match: re.Match[str]) -> str:
    """`I_1` as a symbol that the parser does not know: every letter but `e`, `i` and `\\pi` is a variable."""
    name = match[1].removeprefix("\\")
    is_call = name == "Gamma" and match.string[match.end() :].lstrip().startswith("(")
    if match[1].startswith("\\") and (name not in {"gamma", "Gamma"} or is_call):
        return match[0]
    return f" Z_{{{name}{match[2] or match[3] or ''}}} "
