"""Numbers, exactly, with the units that stand behind them. README.md has the rules, all of them our choice."""

import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pint

TOLERANCE = Fraction(1, 10**6)
_MAX_CHARS = 64  # a longer number is no answer; it also bounds the cost of exact arithmetic

_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+"
_DECIMAL = rf"(?:(?:{_DIGITS})(?:\.\d*)?|\.\d+)"
_POWER = r"10 ?\^ ?(?:\{ ?([-+]?\d{1,3}) ?\}|([-+]?\d{1,3})(?!\d))"
_FRACTION = r"(?:\\frac ?(?:\{ ?(\d+) ?\}|(\d)) ?(?:\{ ?(\d+) ?\}|(\d))|(\d+) ?/ ?(\d+)(?![\d.]))"
_NUMBER = re.compile(
    rf"(?P<fraction>(?:(?P<whole>\d+)(?: (?=\d)| ?(?=\\frac)))?{_FRACTION})"
    rf"|(?P<base>(?P<figures>\d[0-9A-Za-z]*)_ ?(?:\{{ ?(\d\d?) ?\}}|(\d\d?)(?!\d)))"
    rf"|(?P<power>{_POWER})"
    r"|(?P<periodic>(?P<begins>\d*\.\d*)\\(?:overline|bar) ?\{ ?(?P<period>\d{1,12}) ?\})"
    rf"|(?P<decimal>(?P<digits>{_DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,3}})(?!\d)"
    rf"| ?(?:\\times|\\cdot|\*|x) ?{_POWER})?)"
)
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_GLUED = re.compile(r"(?:[ckm]m|kg|m[lL]|ft|lb|oz|[A-Za-z]+/|[A-Za-z]{3})")  # `5cm`; but `5m`, `3mg` may be algebra
_PERCENT = {"%", "percent", "per cent", "pct"}
# What is counted, as in `3 apples`: a few words, none of which says another number or takes the number back.
_WORDS = re.compile(
    r"(?!.*\b(?:and|or|not|but|to|of|by|out|at|than|is|more|less|fewer|most|least|over|under|above|below|about|around|plus|minus"
    r"|times|mod|base|squared|cubed|factorial|dozens?|scores?|gross|pairs?|hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|sixths?"
    r"|sevenths?|eighths?|ninths?|(?:ten|hundred|thousand|million)ths?|wrong|incorrect|maybe|perhaps|nan|inf(?:inity)?)\b)"
    r"[A-Za-z]{3,}(?: [A-Za-z]{2,}){0,2}",
    re.IGNORECASE,
)


class Quantity(NamedTuple):
    """A number and the text of its unit, empty where none stands."""

    value: Fraction
    unit: str
    exact: bool = True  # False for a decimal or a power of ten, which may have been rounded


def quantity(text: str) -> Quantity | None:
    """The number in `text` (in its `normalize` spelling) with its unit; None for anything else."""
    if len(text) > _MAX_CHARS or not text.isascii():
        return None
    lead = re.match(r"(?:([-+]) ?)?(?:(\$|EUR|GBP|JPY|INR) ?([-+])?)?", text)
    assert lead is not None  # every part may be absent
    text = text[lead.end() :]
    match = _NUMBER.match(text)
    value = _value(match) if match else None
    if match is None or value is None:
        return None
    rest = text[match.end() :]
    for word, exponent in _MAGNITUDES.items():
        if rest.strip().startswith(word):
            value, rest = value * 10**exponent, rest.strip().removeprefix(word)
    unit = "%" if rest.strip().casefold() in _PERCENT else rest.strip()
    apart = rest[:1] == " " or not unit[:1].isalpha()
    known = (apart or _GLUED.match(unit)) and known_unit(unit)
    if unit not in {"", "%"} and not known and not (apart and _WORDS.fullmatch(unit)):
        return None
    if lead[2]:
        if unit:
            return None
        unit = lead[2]
    negative = [lead[1], lead[3]].count("-") == 1
    return Quantity(-value if negative else value, unit, exact=match["decimal"] is None or value.denominator == 1)


def _value(match: re.Match[str]) -> Fraction | None:
    groups: Any = match.groups()
    if match["fraction"]:
        numerator, denominator = (int(part) for part in groups[2:8] if part is not None)
        if denominator == 0 or (match["whole"] is not None and numerator >= denominator):
            return None
        return int(match["whole"] or 0) + Fraction(numerator, denominator)
    if match["base"]:
        try:
            return Fraction(int(match["figures"], int(groups[10] or groups[11]) or -1))
        except ValueError:  # a digit or a radix that there is not
            return None
    if match["power"]:
        return Fraction(10) ** int(groups[13] or groups[14])
    if match["periodic"]:
        begins, period = match["begins"], match["period"]
        shift = 10 ** len(begins.partition(".")[2])
        return Fraction("0" + begins + "0") + Fraction(int(period), (10 ** len(period) - 1) * shift)
    exponent = int(match["exponent"] or groups[-2] or groups[-1] or 0)
    return Fraction(re.sub("[, ]", "", match["digits"])) * Fraction(10) ** exponent


def same_value(gold: Fraction, given: Fraction, exact: bool) -> bool:
    """Whether two numbers count as equal: exactly, or within a millionth."""
    if exact:
        return gold == given
    return abs(gold - given) <= min(TOLERANCE, TOLERANCE * abs(gold))


def same_quantity(gold: Quantity, given: Quantity) -> bool:
    """Whether two quantities are equal; a missing unit is the other side's, an unknown one is not."""
    exact = gold.exact and given.exact
    if gold.unit == "%" or given.unit == "%":
        return _same_percentage(gold, given, exact)
    here, there = known_unit(gold.unit), known_unit(given.unit)
    if not given.unit or not gold.unit or gold.unit == given.unit:
        return same_value(gold.value, given.value, exact)
    if here is None or there is None:  # apples, as a word
        return _noun(gold.unit) == _noun(given.unit) and same_value(gold.value, given.value, exact)
    if not here.is_compatible_with(there):
        return False
    converted = here._REGISTRY.Quantity(given.value, there).to(here)
    return same_value(gold.value, Fraction(converted.magnitude), exact)


def _noun(unit: str) -> str:
    return unit.casefold().rstrip("s")


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


@lru_cache(maxsize=1024)
def known_unit(text: str) -> "pint.Unit | None":
    """The unit that `text` names, such as `km/h`, `m^2`, `square feet` or `^\\circ`; None when it is none of ours."""
    text = {"^\\circ": "degree", "$": "dollar"}.get(text, text)
    text = re.sub(r"(?:degrees?|deg|\^\\circ) ?(celsius|fahrenheit|C|F)\b", _temperature, text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:square|sq\.?) (\w+)", r"\1^2", text, flags=re.IGNORECASE)
    text = re.sub(r"\bcubic (\w+)", r"\1^3", text, flags=re.IGNORECASE)
    text = re.sub(r"\^ ?\{ ?([-+]?\d) ?\}", r"^\1", text).replace(r"\cdot", "*").replace(r"\mu ", "u")
    text = text.replace(" per ", "/").removesuffix(".")
    if len(text) > 40 or not _UNIT.fullmatch(text):
        return None
    from pint.errors import UndefinedUnitError

    spelled_out = text.isalpha() and (len(text) > 3 or text in {"CM", "MM", "KM", "KG", "ML", "FT", "MPH"})
    for spelling in (text, text.lower()) if spelled_out else (text,):
        try:
            return _registry().parse_units(spelling)
        except (UndefinedUnitError, ValueError):  # ValueError: `nan`, which pint reads as a number
            continue
    return None


def _temperature(match: re.Match[str]) -> str:
    return f"deg{match[1][0].upper()}"


_UNIT = re.compile(r"[A-Za-z]+(?:\^[-+]?\d)?(?: ?[/* ] ?[A-Za-z]+(?:\^[-+]?\d)?){0,3}")


@lru_cache(maxsize=1)
def _registry() -> "pint.UnitRegistry[Any]":
    import pint

    return pint.UnitRegistry(str(Path(__file__).with_name("units.txt")), non_int_type=Fraction)
