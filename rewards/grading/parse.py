"""What an answer says: its text as a value. The rules are asked in order, and the first that knows the form decides.

A test removes each rule in turn and demands that some pair of `tests/rewards/pairs.jsonl` changes its verdict. A
generated parser would need a grammar of LaTeX, words and units at once; brackets and separators are all that nests.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise

from .formula import FUNCTIONS, GREEK, has_variable, is_expression
from .quantity import Quantity, quantity
from .units import measure
from .value import Assigned, Computed, Expression, Ordered, Relation, Unordered, Value, Words
from .words import LISTS, is_short_word, moment


@lru_cache(maxsize=4096)  # a reference is read once for its kind and once for each completion of its group
def read(text: str) -> Value:
    """The value that `text` (in its `normalize` spelling) writes. Total: what is nothing else is `Words`."""
    text = _without_outer_brackets(text.strip().removeprefix("+").strip())
    if "," in text and _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    for rule in _RULES:
        if (value := rule(text)) is not None:
            return value
    return Words(text)


_GROUPED = re.compile(r"[^,(\[{]*?(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d,])[^,]*[A-Za-z][^,]*")  # 1,000\\pi; no tuple


def _all(parts: Iterable[str]) -> tuple[Value, ...]:
    return tuple(read(part) for part in parts)


# --- words and single values ------------------------------------------------------------------------------------------


def _verbatim(text: str) -> Value | None:
    """A date or a template's `{{...}}`, which may have commas and signs."""
    return Words(text) if text.startswith("{{") or moment(text) else None


def _formula(text: str) -> Value | None:
    """`H_2O`, `SO_4^{2-}`, `NaCl2`: two elements, or one with a charge."""
    is_formula = _FORMULA.fullmatch(text.replace(" ", "") if "_" in text else text)
    return Words(re.sub(r"[_{} ]", "", text), is_formula=True) if is_formula else None


_FORMULA = re.compile(
    r"(?=.*[\d+-])\d?(?:\(?[A-Z][a-z]?(?:_?\{?\d+\}?)?(?:\)(?:_?\{?\d+\}?)?)?){2,}(?:\^?\{?\d?[-+]\}?)?"
    r"|[A-Z][a-z]?\^?\{?\d?[-+]\}?"
)


def _named(text: str) -> Value | None:
    """What has a name: `pi`, `infinity`, `\\emptyset`, `all real numbers`."""
    return read(_NAMED[text.lower()]) if text.lower() in _NAMED else None


_NAMED = {
    **{"pi": r"\pi", "infinity": r"\infty", "-infinity": r"-\infty", r"\emptyset": r"\{\}"},
    **dict.fromkeys(("no solution", "no solutions", "empty set", "the empty set"), r"\{\}"),
    **dict.fromkeys((r"\mathbb{r}", r"\mathbb r", "all real numbers", "all reals"), r"(-\infty,\infty)"),
}


def _product(text: str) -> Value | None:
    """`sin x` and `xy`, which look like words."""
    is_call = text.partition(" ")[0] in FUNCTIONS and is_expression(text)
    return Expression(text) if is_call or (re.fullmatch("[a-z]{2}", text) and not is_short_word(text)) else None


def _words(text: str) -> Value | None:
    return Words(text) if re.fullmatch(r"(?=.*[A-Za-z]{2})[A-Za-z'-]+(?: [A-Za-z'-]+)*", text) else None


def _either_sign(text: str) -> Value | None:
    r"""`2\pm3` as a list of two."""
    if text.count(r"\pm") != 1:
        return None
    signs = (("+", "-"), ("-", "+"))
    pair = (text.replace(r"\pm", plus).replace(r"\mp", minus).removeprefix("+").strip() for plus, minus in signs)
    return Unordered("list", _all(pair))


def _measured(text: str) -> Value | None:
    r"""An expression with the longest unit behind it: `8\sqrt{3} square inches`."""
    for blank in re.finditer(" ", text):
        body, unit = text[: blank.start()], text[blank.end() :]
        if (len(unit) > 1 or unit == "%") and measure(unit) and is_expression(body):
            return Expression(body, unit)
    return None


def _expression(text: str) -> Value | None:
    return Expression(text) if is_expression(text) else None


# --- lists, sets, tuples, intervals -----------------------------------------------------------------------------------


def _matrix(text: str) -> Value | None:
    """A list of rows; a column is a vector, as `(1,2)` is."""
    matrix = _MATRIX.fullmatch(text)
    if matrix is None:
        return None
    rows = [_split(row, "&") for row in _split(matrix[2].strip().removesuffix("\\\\"), "\\\\")]
    if all(len(row) == 1 for row in rows):
        return Ordered("(", _all(row[0] for row in rows), ")")
    return Ordered("[", tuple(Ordered("[", _all(row), "]") for row in rows), "]")


_MATRIX = re.compile(r"[(\[]?\\begin\{([pbB]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}[)\]]?")


def _union(text: str) -> Value | None:
    r"""`(0,1)\cup(2,3)`, and `\mathbb{R}\setminus\{2\}`, which is one too."""
    if without := re.fullmatch(r"\\mathbb ?\{?R\}? ?(?:\\setminus|\\backslash|-) ?\\\{(.+)\\\}", text):
        points = [read(point) for point in _split(without[1], ",")]
        if not all(isinstance(point, Quantity) for point in points):
            return None
        borders = [read(r"-\infty"), *sorted(points), read(r"\infty")]
        return Unordered("union", tuple(Ordered("(", pair, ")") for pair in pairwise(borders)))
    parts = _split(re.sub(r"(?<=[)\]]) ?U ?(?=[(\[])", r"\\cup ", text), r"\cup")
    return Unordered("union", _all(parts)) if len(parts) > 1 else None


def _vector(text: str) -> Value | None:
    """`<1,2>`."""
    inside = _inside(text, "<", ">")
    parts = _coordinates(inside) if inside else []
    return Ordered("(", _all(parts), ")") if len(parts) > 1 else None


def _turned_brackets(text: str) -> Value | None:
    """`]2,5]`, as some write `(2,5]`."""
    turned = re.fullmatch(r"([\[\]])([^\[\]]+)([\[\]])", text)
    if turned is None or turned[1] + turned[3] == "[]" or len(parts := _coordinates(turned[2])) != 2:
        return None
    return Ordered("(["[turned[1] == "["], _all(parts), ")]"[turned[3] == "]"])


def _list(text: str) -> Value | None:
    """What `or`, `and`, a semicolon or a comma separates, outside all brackets."""
    text = text.replace(", and ", " and ").replace(", or ", " or ").replace(" & ", " and ")
    for separator in (" or ", " and ", "; ", ", ", ";", ","):
        if len(parts := _split(text, separator)) > 1:
            return _listed(_all(parts), separator)
    return None


def _listed(items: tuple[Value, ...], separator: str) -> Value:
    kind = {" or ": "or", " and ": "and"}.get(separator, "list")
    names = [item.variable if isinstance(item, Assigned) else "" for item in items]
    values = tuple(item.value if isinstance(item, Assigned) else item for item in items)
    if len(set(names)) > 1:
        indexed = [re.fullmatch(r"(\w)_\{? ?\d ?\}?", name) for name in names]
        if all(indexed) and {name[1] for name in indexed if name} == {"x"}:  # x_1=2, x_2=3: roots, in any order
            return Unordered(kind, values)
        if not any(names[1:]) and kind != "or":  # x = 2, 3
            return Unordered(kind, values)
        return Unordered("or" if kind == "or" else "system", items)
    if separator == " or " and all(isinstance(item, Ordered) for item in items):  # x<1 or x>2
        return Unordered("union", items)
    if separator == " and " and (between := _intersection(items)):
        return between
    return Unordered(kind, _flat(items, {"list", kind}))  # `1, 2 and 3`, `1 \\pm 2, 5`


def _flat(items: tuple[Value, ...], kinds: set[str]) -> tuple[Value, ...]:
    inside = [item.items if isinstance(item, Unordered) and item.kind in kinds else (item,) for item in items]
    return tuple(each for part in inside for each in part)


def _intersection(items: tuple[Value, ...]) -> Value | None:
    """`x>1 and x<2` as `1<x<2`."""
    match sorted(items, key=lambda item: isinstance(item, Ordered) and item.items[0] == read(r"-\infty")):
        case [Ordered(opens, (low, up), ")", str(name)), Ordered("(", (down, high), closes, str(same_name))]:
            if name == same_name != "" and up == read(r"\infty") and down == read(r"-\infty"):
                return Ordered(opens, (low, high), closes, name)
    return None


def _set(text: str) -> Value | None:
    r"""`\{1,2\}`, `{1,2}`; `\{x \mid x>2\}` is what stands behind the bar."""
    for opens, closes in ((r"\{", r"\}"), ("{", "}")):
        if (inside := _inside(text, opens, closes)) is not None:
            if builder := _BUILDER.fullmatch(inside):
                return read(builder[1])
            return Unordered("set", _flat(_all(_split(inside, ",")), {"list"}) if inside else ())
    return None


_BUILDER = re.compile(r"[a-z](?: ?\\in ?\\mathbb ?\{?R\}?)? ?(?:\||\\mid|:) ?(.*[<>\\].*)")


def _tuple(text: str) -> Value | None:
    """`(1,2)`, `[1,2)`, `A(1,2)`; `[[1],[2]]` is a column."""
    label = re.match(r"[A-Z](?= ?\()", text)
    text = text[1:].strip() if label else text
    for opens, closes in ("()", "(]", "[)", "[]"):
        inside = _inside(text, opens, closes)
        if inside is not None and len(parts := _coordinates(inside)) > 1:
            rows = [_inside(part, "[", "]") or "," for part in parts]
            if opens == "[" and not any("," in row for row in rows):
                return Ordered("(", _all(rows), ")")
            return Ordered(opens, _all(parts), closes, label[0] if label else "")
    return None


def _coordinates(inside: str) -> list[str]:
    """The parts of a tuple: at `, ` where commas also set thousands apart, else at each comma or semicolon."""
    parts = _split(inside, ", ")
    if len(parts) > 1 and all("," not in part or quantity(part) for part in parts):
        return parts
    return _split(inside, "," if "," in inside else ";")


# --- equations and inequalities ---------------------------------------------------------------------------------------

_VARIABLE = rf"(?:[A-Za-z]|\\(?:{'|'.join(GREEK)}))(?:_(?:\w|\{{ ?\w+ ?\}}))?'{{0,2}}"
# What a value can be given to: also f(-1), |AB|, m\angle ABC, \overline{AB}, (x, y), and a few named quantities
_NAME = "|".join(
    [
        _VARIABLE,
        r"(?!x)[A-Za-z]'{0,2} ?\([-\w.,\\/^ ]{1,12}\)",
        r"(?:m ?)?\\angle ?(?:[A-Z]{1,3}|\d+)",
        r"(?!NO)([A-Z])(?!\1)[A-Z]|\|[A-Z]{2}\||\\overline ?\{[A-Z]{2}\}",
        rf"\({_VARIABLE}(?:, ?{_VARIABLE})+\)",
        rf"(?i:{LISTS['named'].replace(' ', '|')})",
    ]
)
_SIGN = re.compile(r" ?(\\(?:le|ge|ne|approx)(?![A-Za-z])|[=<>]) ?")
_TURNED = {">": "<", r"\ge": r"\le"}


def _member(text: str) -> Value | None:
    r"""`x \in (2,5)`."""
    member = re.fullmatch(rf"{_VARIABLE} ?\\in(?![A-Za-z]) ?(.+)", text)
    return read(member[1]) if member else None


def _relation(text: str) -> Value | None:
    """One or two signs between expressions: an interval, a value that is assigned, or neither."""
    sides, signs = _SIGN.split(text)[::2], _SIGN.split(text)[1::2]
    if set(signs) == {"="} and sides[-1] and (computed := _computed(sides)):
        return computed
    if not signs or len(signs) > 2 or (len(signs) == 2 and not sides[1]) or not sides[-1]:
        return None
    if signs == [r"\ne"] and re.fullmatch(_VARIABLE, sides[0]) and not has_variable(sides[1]):
        below, above = (_interval([sides[0], sides[1]], ["<"]), _interval([sides[1], sides[0]], ["<"]))
        return Unordered("union", (below, above)) if below and above else None
    if not sides[0]:  # "≈ 3", "= 3"
        return read(sides[1]) if len(signs) == 1 and signs[0] in {"=", r"\approx"} else None
    if signs[0] in {">", r"\ge"}:
        sides, signs = sides[::-1], [_TURNED.get(sign, sign) for sign in signs[::-1]]
    if set(signs) <= {"<", r"\le"}:
        return _interval(sides, signs) or _difference(sides, signs)
    return _assigned(sides, signs) or _difference(sides, signs)


def _computed(sides: list[str]) -> Computed | None:
    r"""`17 \cdot 23 = 391`, also behind a name: the last side, where the others are numbers too."""
    values = sides[1:] if re.fullmatch(_NAME, sides[0]) else sides
    if len(values) < 2 or not all(is_expression(side) and re.search(r"\d", side) for side in values):
        return None
    last = read(values[-1])
    if any(has_variable(side) for side in values) or not isinstance(last, Quantity):
        return None
    return Computed(last, tuple(map(Expression, values[:-1])))


def _interval(sides: list[str], signs: list[str]) -> Value | None:
    """`a < x`, `x < b` or `a < x < b` as an interval, where `x` is a variable and the borders are constants."""
    if len(sides) == 2:
        if re.fullmatch(_VARIABLE, sides[1]):
            sides, signs = [*sides, r"\infty"], [*signs, "<"]
        else:
            sides, signs = [r"-\infty", *sides], ["<", *signs]
    low, variable, high = sides
    if not re.fullmatch(_VARIABLE, variable) or any(has_variable(border) for border in (low, high)):
        return None
    return Ordered("(["[signs[0] == r"\le"], _all([low, high]), ")]"[signs[1] == r"\le"], variable)


def _assigned(sides: list[str], signs: list[str]) -> Assigned | Unordered | None:
    if len(sides) != 2 or signs[0] not in {"=", r"\approx"}:
        return None
    for variable, value in (sides, sides[::-1]):
        if re.fullmatch(_NAME, variable) and variable not in value:
            found = Expression(value) if re.fullmatch("[a-zA-Z]{2}", value) else read(value)
            names = _split(variable[1:-1], ",") if variable.startswith("(") else []
            if names and isinstance(found, Ordered) and len(names) == len(found.items):  # (x,y)=(2,3)
                return Unordered("system", tuple(Assigned(*pair, "") for pair in zip(names, found.items, strict=True)))
            return Assigned(variable.replace(" ", ""), found, f"{variable}-({value})")
    return None


def _difference(sides: list[str], signs: list[str]) -> Value | None:
    if len(sides) != 2 or not all(is_expression(side) for side in sides):
        return None
    return Relation(signs[0].replace(r"\approx", "="), f"{sides[0]}-({sides[1]})")


_RULES: list[Callable[[str], Value | None]] = [
    *(quantity, _verbatim, _matrix, _union, _vector, _turned_brackets, _list, _formula, _named, _product, _words),
    *(_set, _tuple, _member, _relation, _either_sign, _measured, _expression),
]

# --- brackets ---------------------------------------------------------------------------------------------------------


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
