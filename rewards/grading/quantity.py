"""Numbers, exactly, with what they measure or count (`units.py`). README.md has the rules, all of them our choice."""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from .units import conversion, measure

TOLERANCE = Fraction(1, 10**6)
_MAX_CHARS = 64  # a longer number is no answer; it also bounds the cost of exact arithmetic


class Quantity(NamedTuple):
    """A number and the text of what it measures or counts, empty where nothing stands."""

    value: Fraction
    unit: str
    exact: bool = True  # False for a decimal or a power of ten, which may have been rounded


def quantity(text: str, glued: bool = False) -> Quantity | None:
    """The number in `text` (in its `normalize` spelling) with its unit; None for anything else.

    With `glued`, a unit of one letter may follow at once: `5m`, which is algebra where no unit is expected.
    """
    if len(text) > _MAX_CHARS or not text.isascii():
        return None
    return _of_one_unit(text, glued) or _of_several_units(text)


def _of_one_unit(text: str, glued: bool = False) -> Quantity | None:
    lead = _LEAD.match(text)
    assert lead is not None  # every part may be absent
    text = text[lead.end() :]
    found = _number(text)
    if found is None:
        return None
    value, written, exact = found
    rest = text[len(written) :]
    for _ in range(2):
        if magnitude := _MAGNITUDE.match(rest):
            value, rest = value * _MAGNITUDES[magnitude[1].lower()], rest[magnitude.end() :]
    unit = _unit_behind(rest, glued, value)
    if unit is None or (unit and _is_label(written)):
        return None
    if lead[2]:
        here, there = measure(lead[2]), measure(unit)
        if here is None or there is None or (there.unit not in {None, here.unit}) or there.noun or unit == "%":
            return None
        unit = lead[2] + (f" per {there.per}" if there.per else "")
    negative = [lead[1], lead[3]].count("-") == 1
    return Quantity(-value if negative else value, unit, exact or value.denominator == 1)


def _of_several_units(text: str) -> Quantity | None:
    """`5 ft 3 in`, in the first of its units; each is smaller than the one before it."""
    if not _PARTS.fullmatch(text):
        return None
    first: Quantity | None = None
    total, size = Fraction(0), None
    for part in re.finditer(_PART, text):
        found = _of_one_unit(part[0])
        factor = conversion(first.unit if first else found.unit, found.unit) if found and found.unit else None
        if found is None or factor is None or (size is not None and factor >= size):
            return None
        first, total, size = first or found, total + found.value * factor, factor
    return Quantity(total, first.unit) if first else None


_LEAD = re.compile(r"(?:([-+]) ?)?(?:(US ?\$|\$|USD|EUR|GBP|JPY|INR|CNY) ?([-+])?)?", re.IGNORECASE)
_PART = r"\d+(?:\.\d+)? ?[A-Za-z]+"
_PARTS = re.compile(rf"{_PART}(?:(?:(?:(?<=s)|(?<=min)|(?<=hr)|(?<= h)|(?<=ft)),)? (?:and )?{_PART})+")
_MAGNITUDES = {
    **{"dozen": 12, "hundred": 100, "thousand": 10**3, "lakh": 10**5, "million": 10**6},
    **{"crore": 10**7, "billion": 10**9, "trillion": 10**12},
}
_MAGNITUDE = re.compile(rf" ?({'|'.join(_MAGNITUDES)})s?\b", re.IGNORECASE)

# --- the forms of a number --------------------------------------------------------------------------------------------


def _number(text: str) -> tuple[Fraction, str, bool] | None:
    """The number at the begin of `text`: its value, how it is written, whether it is exact."""
    for pattern, value_of, exact in _FORMS:
        if match := pattern.match(text):
            value = value_of(match)
            return None if value is None else (value, match[0], exact)
    return None


def _fraction(match: re.Match[str]) -> Fraction | None:
    """`1/2`, `\\frac12`, and the mixed `1 1/2`, whose fraction is a proper one."""
    numerator, denominator = (int(match[name] or match[f"{name}_"] or match[f"{name}__"]) for name in ("over", "under"))
    if denominator == 0 or (match["whole"] and numerator >= denominator):
        return None
    return int(match["whole"] or 0) + Fraction(numerator, denominator)


def _in_base(match: re.Match[str]) -> Fraction | None:
    base = int(match["base"] or match["base_"])
    if base > 16 or any(digit.islower() for digit in match["figures"]):  # 2a_{11} has an index
        return None
    try:
        return Fraction(int(match["figures"], base or -1))
    except ValueError:  # a digit or a radix that there is not
        return None


def _periodic(match: re.Match[str]) -> Fraction:
    """`0.\\overline{3}`, `0.(3)`, and `0.333...`, where the period stands three times, or twice if it is longer."""
    begins, period = match["begins"], match["period"] or match["round"] or match["digit"] or match["block"]
    shift = 10 ** len(begins.partition(".")[2])
    return Fraction("0" + begins + "0") + Fraction(int(period), (10 ** len(period) - 1) * shift)


def _decimal(match: re.Match[str]) -> Fraction:
    exponent = int(match["exponent"] or match["power"] or match["power_"] or 0)
    return Fraction(re.sub("[, ]", "", match["digits"] or "1")) * Fraction(10) ** exponent


_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+"
_POWER = r"10 ?\^ ?(?:\{ ?(?P<power>[-+]?\d{1,3}) ?\}|(?P<power_>[-+]?\d{1,3})(?!\d))"
_FORMS: list[tuple[re.Pattern[str], Callable[[re.Match[str]], Fraction | None], bool]] = [
    (re.compile(pattern), value_of, exact)
    for pattern, value_of, exact in [
        (
            r"(?:(?P<whole>\d+)(?: and (?=\d+/)| (?=\d)| ?(?=\\frac)))?"
            r"(?:\\frac ?(?:\{ ?(?P<over>\d+) ?\}|(?P<over_>\d)) ?(?:\{ ?(?P<under>\d+) ?\}|(?P<under_>\d))"
            r"|(?P<over__>\d+) ?/ ?(?P<under__>\d+)(?![\d.]))",
            _fraction,
            True,
        ),
        (r"(?P<figures>\d[0-9A-Za-z]*)_ ?(?:\{ ?(?P<base>\d\d?) ?\}|(?P<base_>\d\d?)(?!\d))", _in_base, True),
        (
            r"(?P<begins>\d*\.\d*?)(?:\\(?:overline|bar|dot) ?\{ ?(?P<period>\d{1,12}) ?\}|\((?P<round>\d{1,12})\)"
            r"|(?:(?P<digit>\d)(?P=digit){2,}|(?P<block>\d{2,6})(?P=block)+)(?:\.\.\.|\\l?dots(?![a-z])))",
            _periodic,
            True,
        ),
        (rf"(?P<exponent>)(?P<digits>){_POWER}", _decimal, True),
        (
            rf"(?P<digits>(?:(?:{_DIGITS})(?:\.\d*)?|\.\d+))"
            rf"(?:[eE](?P<exponent>[-+]?\d{{1,3}})(?!\d)| ?(?:\\times|\\cdot|\*|x) ?{_POWER})?",
            _decimal,
            False,
        ),
    ]
]

# --- what stands behind it --------------------------------------------------------------------------------------------

_PERCENT = {"%", "percent", "per cent", "pct"}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
_NAMES = dict(zip([*_SMALL, *_TENS, "one hundred"], [*range(20), *range(20, 101, 10)], strict=True))
_NAMES |= {f"{ten} {one}": _NAMES[ten] + _NAMES[one] for ten in _TENS for one in _SMALL[1:10]}
_GLUED = re.compile(r"(?:[cdkm]m|kg|[kMG]B|m[lL]|ft|lb|oz|Hz|eV|[A-Za-z]+/|[A-Za-z]{3})")  # but `5m` may be algebra


def _unit_behind(rest: str, glued: bool, value: Fraction) -> str | None:
    """What `rest` says that the number measures; None where it says anything else."""
    unit = rest.strip()
    if unit.casefold().partition(" of ")[0] in _PERCENT:  # `%`, `% of the students`
        _, of, whole = unit.partition(" of ")
        return "%" if not of or measure(f"of {whole}") else None
    if inside := re.fullmatch(r"\(([^()]+)\) ?(.*)", unit):  # `12 (cm)`, `12 (eggs)`, `12 (twelve) eggs`
        if _NAMES.get(inside[1].casefold().replace("-", " ")) == value:
            return inside[2] if measure(inside[2]) else None
        return inside[1] if measure(inside[1]) and not inside[2] else None
    if unit[:1].isalpha() and rest[:1] != " " and not glued and not _GLUED.match(unit):
        return None
    return unit if not unit or measure(unit) else None


def _is_label(text: str) -> bool:
    """Whether a fraction is not in lowest terms: with a unit, it is a label: `20/20 vision`, `120/80 mmHg`."""
    slash = re.fullmatch(r"(?:\d+ (?:and )?)?(\d+) ?/ ?(\d+)", text)
    return slash is not None and math.gcd(int(slash[1]), int(slash[2])) != 1


# --- comparing --------------------------------------------------------------------------------------------------------


def same_value(gold: Fraction, given: Fraction, exact: bool) -> bool:
    """Whether two numbers count as equal: exactly, or within a millionth."""
    if exact:
        return gold == given
    return abs(gold - given) <= min(TOLERANCE, TOLERANCE * abs(gold))


def same_quantity(gold: Quantity, given: Quantity) -> bool:
    """Whether two quantities are equal; a unit or noun that one side leaves out is the other side's."""
    exact = gold.exact and given.exact
    if gold.unit == "%" or given.unit == "%":
        return _same_percentage(gold, given, exact)
    factor = conversion(gold.unit, given.unit)
    if factor is None:
        return False
    return same_value(gold.value, given.value * factor, exact and factor.denominator < 10**9)


def _same_percentage(gold: Quantity, given: Quantity, exact: bool) -> bool:
    """`50%` is 50 and 0.5. A bare reference above 1 may be a percentage (50: `50%`), below it is a share."""
    same = same_value(gold.value, given.value, exact)
    if gold.unit == given.unit:
        return same
    if gold.unit and given.unit:
        return False
    if gold.unit:
        return same or same_value(gold.value / 100, given.value, exact)
    return same_value(gold.value, given.value / 100, exact) or (abs(gold.value) > 1 and same)
