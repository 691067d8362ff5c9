"""What an answer can be, once it is read (`parse.py`): a few types, each compared in its own way (`compare.py`)."""

from typing import NamedTuple

from .quantity import Quantity


class Words(NamedTuple):
    """A word, a date, a time, a chemical formula."""

    text: str
    is_formula: bool = False  # its case says what it is


class Expression(NamedTuple):
    """Mathematics that only algebra can compare, and a unit that stands behind it."""

    text: str
    unit: str = ""


class Assigned(NamedTuple):
    """`x = value`."""

    variable: str
    value: "Value"
    text: str  # the whole equation as `left - (right)`


class Computed(NamedTuple):
    r"""`6 \cdot 12 = 72`: its last side, if the sides are equal."""

    value: Quantity
    sides: tuple[Expression, ...]  # the others


class Relation(NamedTuple):
    """An equation that assigns nothing or an inequality that is no interval: `difference sign 0`."""

    sign: str  # `=`, `\\ne`, `<` or `\\le`
    difference: str


class Ordered(NamedTuple):
    """A tuple, an interval or the rows of a matrix: `(1,2)`, `[1,2)`, `1<x<2`."""

    opens: str
    items: "tuple[Value, ...]"
    closes: str
    variable: str = ""  # of an inequality; the name of a point: `A(1,2)`


class Unordered(NamedTuple):
    """A set `{1,2}`, a list without brackets `1, 2`, assignments `x=1, y=2` or a union of intervals."""

    kind: str  # `set`, `list`, `and`, `or`, `system` or `union`
    items: "tuple[Value, ...]"


Value = Words | Quantity | Expression | Assigned | Computed | Relation | Ordered | Unordered


def expressions(value: Value) -> list[str]:
    """What algebra may be asked about `value`."""
    match value:
        case Expression():
            return [value.text]
        case Relation():
            return [value.difference]
        case Assigned() | Computed():
            return expressions(value.value)
        case Ordered() | Unordered():
            return [text for item in value.items for text in expressions(item)]
    return []
