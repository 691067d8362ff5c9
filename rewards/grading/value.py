"""What an answer is made of, and when two are the same: numbers, words, expressions, and the lists made of them.

The shape is compared here, without algebra: a tuple is no set, an open interval is no closed one, the order of a tuple
counts and that of a set does not, an equation is no number. Only two expressions in the same place ask for algebra.
All rules are our choice; math-verify, which has none of them, takes a tuple, a set and an interval for the same.
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from .quantity import Quantity, known_unit, quantity, same_quantity


class Words(NamedTuple):
    """A word, a date, a time: equal when spelled the same, whatever the case; a formula's case counts."""

    text: str
    is_formula: bool = False


class Expression(NamedTuple):
    """Mathematics that only algebra can compare, and a unit that stands behind it."""

    text: str
    unit: str = ""


class Assigned(NamedTuple):
    """`x = value`."""

    variable: str
    value: "Value"
    text: str  # the whole equation as `left - (right)`


class Relation(NamedTuple):
    """An equation that assigns nothing or an inequality that is no interval: `difference sign 0`."""

    sign: str  # `=`, `\\ne`, `<` or `\\le`
    difference: str


class Ordered(NamedTuple):
    """A tuple, an interval or the rows of a matrix: `(1,2)`, `[1,2)`, `1<x<2`."""

    opens: str
    items: "tuple[Value, ...]"
    closes: str
    variable: str = ""  # of an inequality


class Unordered(NamedTuple):
    """A set `{1,2}`, a list without brackets `1, 2`, assignments `x=1, y=2` or a union of intervals."""

    kind: str  # `set`, `list`, `system` or `union`
    items: "tuple[Value, ...]"


Value = Words | Expression | Quantity | Assigned | Relation | Ordered | Unordered
# (reference, answer, sign): are two expressions the same, or, with a sign, the relations `expression sign 0`?
Algebra = Callable[[str, str, str], bool]


# --- reading ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)  # a reference is read once for its kind and once for each completion of its group
def read(text: str) -> Value:
    """The value that `text` (in its `normalize` spelling) writes. Total: what is nothing else is `Words`."""
    text = _without_outer_brackets(text.strip().removeprefix("+").strip())
    if text.startswith("{{"):  # a template's, not LaTeX's
        return Words(text)
    if found := quantity(text):
        return found
    if matrix := _MATRIX.fullmatch(text):
        rows = _split(matrix[2].strip().removesuffix("\\\\"), "\\\\")
        return Ordered("[", tuple(Ordered("[", _all(_split(row, "&")), "]") for row in rows), "]")
    if len(parts := _split(text, r"\cup")) > 1:
        return Unordered("union", _all(parts))
    text = text.replace(", and ", " and ").replace(", or ", " or ")
    for separator in (" or ", " and ", "; ", ", ", ";", ","):
        if len(parts := _split(text, separator)) > 1:
            return _list(_all(parts), separator)
    if _FORMULA.fullmatch(text.replace(" ", "") if "_" in text else text):
        return Words(re.sub(r"[_{}^ ]", "", text), is_formula=True)
    if re.fullmatch(r"(?=.*[A-Za-z]{2})[A-Za-z'-]+(?: [A-Za-z'-]+)*", text):
        return Words(text)
    for opens, closes in ((r"\{", r"\}"), ("{", "}")):
        if (inside := _inside(text, opens, closes)) is not None:
            return Unordered("set", _all(_split(inside, ",")) if inside else ())
    if text == r"\emptyset":
        return Unordered("set", ())
    if text in {r"\mathbb{R}", r"\mathbb R"}:
        return Ordered("(", _all((r"-\infty", r"\infty")), ")")
    for opens, closes in ("()", "(]", "[)", "[]"):
        inside = _inside(text, opens, closes)
        if inside is not None and len(parts := _coordinates(inside)) > 1:
            return Ordered(opens, _all(parts), closes)
    return _relation(text) or _scalar(text)


# A chemical formula: two elements, or one with a charge. Its case says what it is.
_FORMULA = re.compile(
    r"(?=.*[\d+-])(?:\(?[A-Z][a-z]?(?:_?\{?\d+\}?)?(?:\)(?:_?\{?\d+\}?)?)?){2,}(?:\^?\{?\d?[-+]\}?)?"
    r"|[A-Z][a-z]?\^?\{?\d?[-+]\}?"
)
_MATRIX = re.compile(r"[(\[]?\\begin\{([pbB]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}[)\]]?")
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Sigma Phi Psi Omega".split()
)
_VARIABLE = rf"(?:[A-Za-z]|\\(?:{'|'.join(_GREEK)}))(?:_(?:\w|\{{ ?\w+ ?\}}))?"
# What a value can be given to: also f(x), AB, |AB|, m\angle ABC, \overline{AB}, (x, y), Area
_NAME = (
    rf"{_VARIABLE}|[A-Za-z]\([A-Za-z0-9]\)|(?:m ?)?\\angle ?(?:[A-Z]{{1,3}}|\d+)|(?!NOT)[A-Z]{{2,3}}|\|[A-Z]{{2}}\|"
    rf"|\\overline ?\{{[A-Z]{{2}}\}}|\({_VARIABLE}(?:, ?{_VARIABLE})+\)|(?!not\b)[A-Z]?[a-z]{{2,}}"
)
_SIGN = re.compile(r" ?(\\(?:le|ge|ne|approx)(?![A-Za-z])|[=<>]) ?")


def _coordinates(inside: str) -> list[str]:
    """The parts of a tuple: at `, ` where commas also set thousands apart, else at each comma or semicolon."""
    parts = _split(inside, ", ")
    if len(parts) > 1 and all("," not in part or quantity(part) for part in parts):
        return parts
    return _split(inside, "," if "," in inside else ";")


def _all(parts: Iterable[str]) -> tuple[Value, ...]:
    return tuple(read(part) for part in parts)


def _list(items: tuple[Value, ...], separator: str) -> Value:
    variables = {item.variable for item in items if isinstance(item, Assigned)}
    if len(variables) > 1:
        return Unordered("system", items)
    if separator == " or " and all(isinstance(item, Ordered) for item in items):  # x<1 or x>2
        return Unordered("union", items)
    if separator == " and " and (between := _intersection(items)):
        return between
    flat = [
        each
        for item in items
        for each in (item.items if isinstance(item, Unordered) and item.kind == "list" else [item])
    ]
    return Unordered("list", tuple(flat))  # `1, 2 and 3`, `1 \\pm 2, 5`


def _intersection(items: tuple[Value, ...]) -> Value | None:
    """`x>1 and x<2` as `1<x<2`."""
    match sorted(items, key=lambda item: isinstance(item, Ordered) and item.items[0] == read(r"-\infty")):
        case [Ordered(opens, (low, up), ")", str(name)), Ordered("(", (down, high), closes, str(same_name))]:
            if name == same_name != "" and up == read(r"\infty") and down == read(r"-\infty"):
                return Ordered(opens, (low, high), closes, name)
    return None


def _relation(text: str) -> Value | None:
    if member := re.fullmatch(rf"{_VARIABLE} ?\\in(?![A-Za-z]) ?(.+)", text):
        return read(member[1])
    sides, signs = _SIGN.split(text)[::2], _SIGN.split(text)[1::2]
    if not signs or len(signs) > 2 or (len(signs) == 2 and not sides[1]) or not sides[-1]:
        return None
    if not sides[0]:  # "≈ 3", "= 3"
        return read(sides[1]) if len(signs) == 1 and signs[0] in {"=", r"\approx"} else None
    if signs[0] in {">", r"\ge"}:
        sides, signs = sides[::-1], [_TURNED.get(sign, sign) for sign in signs[::-1]]
    if set(signs) <= {"<", r"\le"}:
        return _interval(sides, signs) or _difference(sides, signs)
    return _assigned(sides, signs) or _difference(sides, signs)


_TURNED = {">": "<", r"\ge": r"\le"}


def _interval(sides: list[str], signs: list[str]) -> Value | None:
    """`a < x`, `x < b` or `a < x < b` as an interval, where `x` is a variable and the borders are constants."""
    if len(sides) == 2:
        if re.fullmatch(_VARIABLE, sides[1]):
            sides, signs = [*sides, r"\infty"], [*signs, "<"]
        else:
            sides, signs = [r"-\infty", *sides], ["<", *signs]
    low, variable, high = sides
    if not re.fullmatch(_VARIABLE, variable) or any(_has_variable(border) for border in (low, high)):
        return None
    return Ordered("(["[signs[0] == r"\le"], _all([low, high]), ")]"[signs[1] == r"\le"], variable)


def _has_variable(text: str) -> bool:
    return bool(re.search(r"(?<![\\A-Za-z])[A-Za-df-z](?![A-Za-z])", text))


def _assigned(sides: list[str], signs: list[str]) -> Assigned | None:
    if len(sides) != 2 or signs[0] not in {"=", r"\approx"}:
        return None
    for variable, value in (sides, sides[::-1]):
        if re.fullmatch(_NAME, variable) and variable not in value:
            return Assigned(variable.replace(" ", ""), read(value), f"{variable}-({value})")
    return None


def _difference(sides: list[str], signs: list[str]) -> Value | None:
    if len(sides) != 2 or not all(is_expression(side) for side in sides):
        return None
    return Relation(signs[0].replace(r"\approx", "="), f"{sides[0]}-({sides[1]})")


def _scalar(text: str) -> Value:
    if text.count(r"\pm") == 1:
        signs = (("+", "-"), ("-", "+"))
        pair = (text.replace(r"\pm", plus).replace(r"\mp", minus).removeprefix("+").strip() for plus, minus in signs)
        return Unordered("list", _all(pair))
    for blank in re.finditer(" ", text):  # the longest unit: `8\sqrt{3} square inches`
        body, unit = text[: blank.start()], text[blank.end() :]
        if (len(unit) > 1 or unit == "%") and known_unit(unit) and is_expression(body):
            return Expression(body, unit)
    return Expression(text) if is_expression(text) else Words(text)


FUNCTIONS = set("sqrt sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp pi".split())
_COMMANDS = FUNCTIONS | {*"frac infty times cdot div lg lfloor rfloor lceil rceil".split(), *_GREEK}
_NO_EXPRESSION = re.compile(
    r"(?<![_\d])\d+ \d|\d ?\\frac"  # `7 8` and `2\frac12` are no products
    r"|(?<!\d)\.(?!\d)|\.\d*\.|\d_|(?<![\d.])0\d|[-+][-+]|- [-+]|[-+*/^_]$"
    r"|^\d+-\d+-\d+$|^\d+/\d+/\d+$"  # dates
)


def is_expression(text: str) -> bool:
    """Whether `text` is made of numbers, variables, functions and operators alone, so that algebra may see it."""
    if not re.fullmatch(r"[-\w+*/^(){}\[\]|!. \\]+", text, re.ASCII) or _NO_EXPRESSION.search(text):
        return False
    if not set(re.findall(r"\\([A-Za-z]+)", text)) <= _COMMANDS or re.search(r"\\[^A-Za-z]", text):
        return False
    words = re.findall(r"([A-Za-z]+)(\d?)", re.sub(r"\\[A-Za-z]+", " ", text))  # `H2O` is no product
    if re.search(r"\d [A-Za-z]{1,2} \d|\d [A-Za-z]{2}$", text) and "\\" not in text:  # `5 ft 3 in`, `3 to 5`, `9 am`
        return False
    longest = 3 if "\\" in text or "^" in text or re.fullmatch(r"\d+[a-z]{3}", text) else 2
    return all(word in FUNCTIONS or (len(word) <= longest and not digit) for word, digit in words)


def _depths(text: str) -> list[int]:
    """The bracket depth before each character."""
    depths, depth = [], 0
    for char in text:
        depth -= char in ")]}"
        depths.append(depth)
        depth += char in "([{"
    return depths


def _split(text: str, separator: str) -> list[str]:
    """`text` cut at the separators outside all brackets."""
    if separator not in text:
        return [text]
    depths, parts, begin, at = _depths(text), [], 0, text.find(separator)
    while at >= 0:
        if depths[at] == 0:
            parts.append(text[begin:at])
            begin = at + len(separator)
        at = text.find(separator, at + len(separator))
    return [part.strip() for part in [*parts, text[begin:]]]


def _inside(text: str, opens: str, closes: str) -> str | None:
    """What stands between a bracket that opens `text` and its partner, if that ends `text`."""
    if len(text) < len(opens + closes) or not (text.startswith(opens) and text.endswith(closes)):
        return None
    inside = text[len(opens) : -len(closes)]
    return inside.strip() if min(_depths(inside + "."), default=0) >= 0 else None


def _without_outer_brackets(text: str) -> str:
    if text.startswith("{{"):
        return text
    for opens, closes in ("()", "{}"):
        inside = _inside(text, opens, closes)
        if inside and len(_split(inside, ",")) == len(_split(inside, ";")) == 1:
            return _without_outer_brackets(inside)
    return text


# --- comparing --------------------------------------------------------------------------------------------------------


def same(gold: Value, given: Value, algebra: Algebra) -> bool:
    """Whether `given` is the reference `gold`. What `algebra` raises passes through."""
    match gold, given:
        case Assigned(), Assigned() if gold.variable == given.variable:
            return same(gold.value, given.value, algebra)
        case Assigned(value=Quantity()), Relation():  # an equation that is not solved
            return False
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
        case Unordered(), Unordered():
            return _same_items(gold, given, algebra)
        case (Unordered("set", (one,)), other) | (other, Unordered("set", (one,))):  # the solution set of one solution
            return same(one, other, algebra) if gold is not other else same(other, one, algebra)
        case Quantity(), Quantity():
            return same_quantity(gold, given)
        case ((Expression() | Quantity()), (Expression() | Quantity())):
            if given.unit and gold.unit and known_unit(gold.unit) != known_unit(given.unit):
                return False
            here, there = _expression(gold), _expression(given)
            return spelled(here) == spelled(there) or algebra(here, there, "")
        case Words(), Words():
            return gold == given or (not gold.is_formula and folded(gold.text) == folded(given.text))
    return False


def _same_relation(gold: Assigned | Relation, given: Assigned | Relation, algebra: Algebra) -> bool:
    left, right = (side if isinstance(side, Relation) else Relation("=", side.text) for side in (gold, given))
    if left.sign != right.sign or not (is_expression(left.difference) and is_expression(right.difference)):
        return False
    return left == right or algebra(left.difference, right.difference, left.sign)


def _same_items(gold: Unordered, given: Unordered, algebra: Algebra) -> bool:
    kinds = {gold.kind, given.kind}
    if len(kinds) > 1 and kinds != {"set", "list"}:
        return False
    if gold.kind != "system" and kinds != {"list"}:  # sets: what is said twice counts once
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


def _expression(value: Expression | Quantity) -> str:
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


def expressions(value: Value) -> list[str]:
    """What algebra may be asked about `value`."""
    match value:
        case Expression():
            return [value.text]
        case Relation():
            return [value.difference]
        case Assigned():
            return expressions(value.value)
        case Ordered() | Unordered():
            return [text for item in value.items for text in expressions(item)]
    return []


def folded(text: str) -> str:
    """`text` as words are compared: without case, and times and ratios in one form (`07:45 a.m.` is `7:45 AM`)."""
    text = re.sub(r" ?([:-]) ?", r"\1", text)
    text = re.sub(r"(?<=\d) ?([ap])\.?m\b\.?", lambda half: f" {half[1].lower()}m", text, flags=re.IGNORECASE)
    if not re.search(r"[\\^_]|\d ?[A-Za-z]{1,2}$", text) and (len(text) > 2 or text.casefold() in _SHORT_WORDS):
        text = text.casefold()  # but Ff is not ff, and 5 Nm not 5 nm
    return re.sub(r"(?<![\d.,:])0(?=\d:)", "", text)


_SHORT_WORDS = {"no", "ok", "up", "on", "in", "am", "pm", "us", "uk", "eu"}


def spelled(text: str) -> str:
    """`text` without blanks that separate nothing: two texts of one spelling are equal without algebra."""
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)
