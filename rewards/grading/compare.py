"""When two values are the same answer. Their shape decides here; only two expressions in one place ask for algebra.

A tuple is no set, an open interval is no closed one, the order of a tuple counts and that of a set does not, an
equation is no number. All rules are our choice; math-verify takes a tuple, a set and an interval for the same.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction

from .formula import has_variable, is_expression, is_value, spelled
from .quantity import Quantity, quantity, same_quantity
from .units import conversion, known_unit
from .value import Assigned, Computed, Expression, Ordered, Relation, Unordered, Value, Words, expressions
from .words import same_words

# (reference, answer, sign): are two expressions the same, or, with a sign, the relations `expression sign 0`?
Algebra = Callable[[str, str, str], bool]


def same(gold: Value, given: Value, algebra: Algebra) -> bool:
    """Whether `given` is the reference `gold`. What `algebra` raises passes through."""
    match gold, given:
        case Computed(), _:
            return same(gold.value, given, algebra)
        case _, Computed():
            return same(gold, given.value, algebra) and all(
                _same_number(given.value, side, algebra) for side in given.sides
            )
        case Assigned(), Assigned() if _same_name(gold.variable, given.variable):
            return same(gold.value, given.value, algebra)
        case Assigned(value=Quantity() | Expression()), Relation() if not any(map(has_variable, expressions(gold))):
            return False  # an equation that is not solved
        case Assigned() | Relation(), Assigned() | Relation():
            return _same_relation(gold, given, algebra)
        case Assigned(), _:
            return same(gold.value, given, algebra)
        case _, Assigned():
            return same(gold, given.value, algebra)
        case Ordered(), Ordered():
            shape = (gold.opens, gold.closes, len(gold.items)) == (given.opens, given.closes, len(given.items))
            named = not gold.variable or not given.variable or gold.variable == given.variable
            return shape and named and all(same(*pair, algebra) for pair in zip(gold.items, given.items, strict=True))
        case (Unordered("union"), _) | (_, Unordered("union")) if (spans := _spans(gold)) and (others := _spans(given)):
            return spans == others
        case Unordered(), Unordered():
            return _same_items(gold, given, algebra) or _same_items(*_without_names(gold, given), algebra)
        case Ordered(opens="("), Unordered("system"):
            values = _in_order(given)
            return values is not None and same(gold, gold._replace(items=values), algebra)
        case Unordered("system"), Ordered(opens="("):
            values = _in_order(gold)
            return values is not None and same(given._replace(items=values), given, algebra)
        case Unordered("set", (one,)), _:  # the solution set of one solution
            return same(one, given, algebra)
        case _, Unordered("set", (one,)):
            return same(gold, one, algebra)
        case Quantity(), Quantity():
            return same_quantity(gold, given)
        case ((Expression() | Quantity()), (Expression() | Quantity())):
            return _same_measured(gold, given, algebra)
        case Words(), Words():
            if not gold.is_formula and not given.is_formula:
                return same_words(gold.text, given.text)
            charges = ("^" in gold.text) == ("^" in given.text)  # `SO4^2-` may be written `SO42-`
            return gold == given or (not charges and gold.text.replace("^", "") == given.text.replace("^", ""))
    return False


def _same_name(gold: str, given: str) -> bool:
    """Whether two names are one: `R` is no `r`, but `X` is `x`, `Area` is `area`, and `f(x)` may be called `y`."""
    pair = {gold, given}
    is_word = gold.isalpha() and (len(gold) > 2 or gold in "xyzXYZ")
    return len({name.casefold() if is_word else name for name in pair}) == 1 or (
        "y" in pair and pair <= {"y", "f(x)", "g(x)", "h(x)"}
    )


# --- numbers and expressions ------------------------------------------------------------------------------------------


def _same_measured(gold: Expression | Quantity, given: Expression | Quantity, algebra: Algebra) -> bool:
    """Two numbers or expressions, one of which may be algebra or a number with its unit: `5m`."""
    if isinstance(gold, Quantity) and isinstance(given, Expression):
        if gold.unit and not given.unit and (found := quantity(given.text, glued=True)) and found.unit:
            return same_quantity(gold, found)
        if not is_value(given.text):
            return False
    elif isinstance(gold, Expression) and isinstance(given, Quantity) and given.unit and not gold.unit:
        found = quantity(gold.text, glued=True)
        if found and found.unit:
            return conversion(found.unit, given.unit) == 1 and same_quantity(found, given)
    match _angle(gold), _angle(given):
        case "degree", "radian":
            return algebra(_latex(gold), rf"({_latex(given)})*180/\pi", "")
        case "radian", "degree":
            return algebra(_latex(gold), rf"({_latex(given)})*\pi/180", "")
    factor = conversion(gold.unit, given.unit) if "%" not in gold.unit + given.unit else 1
    return factor == 1 and _same_number(gold, given, algebra)


def _angle(value: Expression | Quantity) -> str:
    """`degree`, or `radian`: also of `\\pi/2` without a unit, beside one in degrees."""
    if not value.unit:
        return "radian" if isinstance(value, Expression) and r"\pi" in value.text else ""
    return next((unit for unit in ("degree", "radian") if known_unit(value.unit) == known_unit(unit)), "")


def _same_number(gold: Expression | Quantity, given: Expression | Quantity, algebra: Algebra) -> bool:
    here, there = _latex(gold), _latex(given)
    return spelled(here) == spelled(there) or algebra(here, there, "")


def _latex(value: Expression | Quantity) -> str:
    if isinstance(value, Expression):
        return value.text
    number = value.value / 100 if value.unit == "%" else value.value
    if not value.exact and (decimal := _decimal(number)):
        return decimal
    return str(number) if number.denominator == 1 else rf"\frac{{{number.numerator}}}{{{number.denominator}}}"


def _decimal(number: Fraction) -> str | None:
    """`number` written out, where that ends: algebra takes a decimal for rounded, a fraction for exact."""
    places = next((n for n in range(60) if (number * 10**n).denominator == 1), None)
    if places is None:
        return None
    digits = str(abs(number * 10**places).numerator).rjust(places + 1, "0")
    return f"{'-' * (number < 0)}{digits[: len(digits) - places]}.{digits[len(digits) - places :]}0"


def _same_relation(gold: Assigned | Relation, given: Assigned | Relation, algebra: Algebra) -> bool:
    left, right = (side if isinstance(side, Relation) else Relation("=", side.text) for side in (gold, given))
    if left.sign != right.sign or not (is_expression(left.difference) and is_expression(right.difference)):
        return False
    return left == right or algebra(left.difference, right.difference, left.sign)


# --- lists and intervals ----------------------------------------------------------------------------------------------


def _same_items(gold: Unordered, given: Unordered, algebra: Algebra) -> bool:
    kinds = {gold.kind, given.kind}
    if len(kinds) > 1 and (
        not kinds <= {"set", "list", "and", "or"} or ("or" in kinds and not _may_be_or(gold, given))
    ):
        return False
    if kinds <= {"set", "union"} or "set" in kinds:  # what is said twice counts once
        matched = [[same(one, other, algebra) for other in given.items] for one in gold.items]
        return (
            all(map(any, matched))
            and all(map(any, zip(*matched, strict=True)))
            and bool(gold.items) == bool(given.items)
        )
    left = list(given.items)
    for one in gold.items:
        found = next((other for other in left if same(one, other, algebra)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _without_names(gold: Unordered, given: Unordered) -> tuple[Unordered, Unordered]:
    """The values of `a_1=1, a_2=4`, if the other side is a list without names."""
    if {gold.kind, given.kind} & {"list", "and", "set"} and "system" in {gold.kind, given.kind}:
        return _indexed(gold), _indexed(given)
    return gold, given


def _indexed(items: Unordered) -> Unordered:
    names = [re.fullmatch(r"(\w)_\{? ?\w ?\}?", item.variable) for item in items.items if isinstance(item, Assigned)]
    if items.kind != "system" or len({name and name[1] for name in names}) != 1 or None in names:
        return items
    return Unordered("list", tuple(item.value for item in items.items if isinstance(item, Assigned)))


def _may_be_or(gold: Unordered, given: Unordered) -> bool:
    """`x=2 or x=3` lists the solutions `2, 3`; but `2 and 3` are two things, as words and labels are."""
    return not {"and", "system"} & {gold.kind, given.kind} and not any(
        isinstance(item, Words) or (isinstance(item, Expression) and re.fullmatch("[A-Za-z]", item.text))
        for item in (*gold.items, *given.items)
    )


def _in_order(system: Unordered) -> tuple[Value, ...] | None:
    """The values of `x=2, y=3` in the order of the alphabet, where these letters belong together."""
    given = {item.variable: item.value for item in system.items if isinstance(item, Assigned)}
    names = "".join(sorted(given))
    ordered = len(names) == len(given) == len(system.items) and names in {"xy", "xyz", "ab", "abc", "mn", "pq", "uv"}
    return tuple(given[name] for name in names) if ordered else None


Border = tuple[float | Fraction, bool]  # where, and whether it lies behind that point: `(2` and `2]`


def _spans(value: Value) -> list[tuple[Border, Border]] | None:
    """A union of intervals as few as possible, in order; None where a border is no number."""
    found = []
    for interval in value.items if isinstance(value, Unordered) and value.kind == "union" else (value,):
        if not isinstance(interval, Ordered) or len(interval.items) != 2 or interval.variable not in {"", "x"}:
            return None
        low, high = map(_border, interval.items)
        if low is None or high is None:
            return None
        found.append(((low, interval.opens == "("), (high, interval.closes == "]")))
    merged: list[tuple[Border, Border]] = []
    for begin, end in sorted(found):
        before = merged[-1][1] if merged else begin
        if merged and (begin[0] < before[0] or (begin[0] == before[0] and (before[1] or not begin[1]))):
            merged[-1] = (merged[-1][0], max(before, end))
        else:
            merged.append((begin, end))
    return merged


def _border(value: Value) -> float | Fraction | None:
    if isinstance(value, Quantity) and not value.unit:
        return value.value
    infinite = {r"\infty": math.inf, r"-\infty": -math.inf, r"+\infty": math.inf}
    return infinite.get(value.text.strip()) if isinstance(value, Expression) else None
