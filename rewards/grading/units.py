"""What a number measures or counts: units, currencies, counted nouns. README.md has the rules, all of them our choice.

Each word must be known: a unit of pint's list, a noun of `words.txt`, or a few words such as `each` and `in total`. So
no word that names another number, a magnitude, a sign or a doubt can stand behind a number.
"""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .words import LISTS

if TYPE_CHECKING:
    import pint


class Measure(NamedTuple):
    """A unit or a noun, and what it is counted by: `dollars per hour`."""

    unit: "pint.Unit | None" = None
    noun: str = ""  # singular
    per: str = ""
    detail: frozenset[str] = frozenset()  # what else is said of it: `red`, `of sugar`, `left`


@lru_cache(maxsize=4096)
def measure(text: str) -> Measure | None:
    """What `text` behind a number says, where each word is known: `km/h`, `red apples in total`, `$ per hour`."""
    text = text.strip()
    if not text:
        return Measure()
    if unit := known_unit(text):
        return Measure(unit)
    if (words := _AFTER.sub("", text)) != text:
        found, said = measure(words), text[len(words) :].strip(", ").lower()
        return found and found._replace(detail=found.detail | ({said} - _TOTAL))
    if per := _PER.search(text):
        found = measure(text[: per.start()])
        name = (per[1] or per[2]).lower()
        by_what = {"hr": "hour", "kg": "kilogram"}.get(name, name if name in _BY else _singular(name))
        plain = found and (found.noun or found.unit is None or _is_currency(found.unit))
        return found._replace(per=by_what) if found and plain and by_what and not found.per else None
    if (of := text.find(" of ")) > 0 and (unit := known_unit(text[:of])) and is_noun(text[of + 4 :]):  # grams of sugar
        return Measure(unit, detail=frozenset({text[of + 4 :].lower()}))
    if inside := _INSIDE.search(text):
        return measure(text[: inside.start()]) if is_noun(inside[1]) else None
    if of_all := re.fullmatch(r"of (?:the|an?|all(?: the)?) (.+)", text):  # 2/3 of the pizza
        text = of_all[1]
    return _noun(text)


def is_noun(text: str) -> bool:
    """Whether `text` is a noun of the list, with adjectives of the list."""
    return _noun(text) is not None


def conversion(gold: str, given: str) -> Fraction | None:
    """How many of the reference's unit one of the answer's is; None where they measure different things."""
    if gold == given or not given:
        return Fraction(1)
    if not gold:
        return None if given in _MAGNITUDE_LETTERS else Fraction(1)
    here, there = measure(gold), measure(given)
    if here is None or there is None or (there.per and here.per != there.per and (here.per or here.noun)):
        return None
    if here.detail and there.detail and here.detail != there.detail:
        return None
    if here.noun or there.noun:
        return Fraction(1) if here.noun == there.noun or not (here.noun or here.unit) else None
    if here.unit is None or there.unit is None or here.unit == there.unit:
        return Fraction(1)
    if any(given in spellings and here.unit == known_unit(unit) for unit, spellings in _ALSO.items()):
        return Fraction(1)
    if not here.unit.is_compatible_with(there.unit):
        return None
    return Fraction(here.unit._REGISTRY.Quantity(Fraction(1), there.unit).to(here.unit).magnitude)


_MAGNITUDE_LETTERS = {"k", "K", "M", "B", "T", "G"}  # thousands or kelvin, millions or mol/l: the reference must say
_ALSO = {"sterling": ("pound", "pounds"), "celsius": ("C",), "fahrenheit": ("F",)}


# --- nouns ------------------------------------------------------------------------------------------------------------


def _noun(text: str) -> Measure | None:
    """The noun that `text` is, with its adjectives and `of ...`; None where a word of it is unknown."""
    whole = re.fullmatch(r"([A-Za-z ]+?)(?: of ([A-Za-z ]+))?", text)
    if whole is None:
        return None
    nouns, said = [], []
    for part in filter(None, whole.groups()):
        *before, noun = part.lower().split() or [""]
        nouns.append(_singular(noun))
        if len(before) > 2 or not all(word in _ADJECTIVES or _singular(word) for word in before):
            return None
        said += [word for word in before if word not in _TOTAL]
    return Measure(noun=nouns[0], detail=frozenset([*said, *nouns[1:]])) if all(nouns) else None


def _singular(noun: str) -> str:
    forms = [noun, noun.removesuffix("s"), noun.removesuffix("es")]
    forms.append(f"{noun.removesuffix('ies')}y" if noun.endswith("ies") else noun)
    found = next((form for form in forms if form in _NOUNS), "")
    return _IRREGULAR.get(found, found)


_NOUNS = frozenset(LISTS["nouns"].split())
_ADJECTIVES = frozenset(f"{LISTS['colours']} {LISTS['adjectives']}".split())
_AFTER = re.compile(rf"(?:^|,? )(?:{LISTS['after']})$", re.IGNORECASE)
_PER = re.compile(r"(?:^| )(?:per|an?|for each) ([a-z]+)$|/ ?([a-z]+)$", re.IGNORECASE)
_INSIDE = re.compile(r" in (?:the|each|all|all the) ([a-z ]+)$", re.IGNORECASE)
_TOTAL = {"in total", "total", "in all", "altogether", "overall", "together", "of them"}
_BY = frozenset(LISTS["per"].split())
_IRREGULAR = dict(pair.split("/") for pair in LISTS["irregular"].split())


# --- units ------------------------------------------------------------------------------------------------------------

# The units of pint's list that answers are given in: it also has constants (c, e, k) and names that are words.
_UNITS = frozenset(
    """meter inch foot yard mile nautical_mile light_year astronomical_unit parsec angstrom second minute hour day
    week fortnight month year decade century gram metric_ton pound ounce ton stone kelvin ampere mole molar
    degree radian arcminute arcsecond steradian hertz newton joule calorie watt pascal volt ohm coulomb farad
    henry tesla weber siemens lumen lux candela becquerel gray sievert liter gallon quart pint cup fluid_ounce
    tablespoon teaspoon acre hectare knot mile_per_hour kilometer_per_hour bar standard_atmosphere millimeter_Hg
    pound_force_per_square_inch electron_volt unified_atomic_mass_unit bit byte watt_hour cubic_centimeter
    horsepower british_thermal_unit dyne erg newton_meter gauss revolutions_per_minute decibel micron dollar cent euro
    sterling yen rupee yuan celsius fahrenheit unit""".split()
)
_LONG_NAMES = re.compile("|".join(name.replace("_", " ") for name in sorted(_UNITS) if "_" in name), re.IGNORECASE)
_PREFIXES = frozenset("kilo centi milli micro nano mega giga deci hecto tera pico".split()) | {""}
_WITHOUT_PREFIX = set("inch foot yard mile hectare acre dollar cent euro sterling yen rupee yuan unit".split())
_NOT_UNITS = set("has mis am pm at as a b d".split())  # words, and letters that are more often algebra
_CAPITALS = {"CM": "cm", "MM": "mm", "KM": "km", "KG": "kg", "ML": "mL", "FT": "ft", "MPH": "mph", "KJ": "kJ"}
_FACTOR = r"[A-Za-z_]+(?:\^[-+]?\d|[23])?"
_PRODUCT = rf"{_FACTOR}(?: ?[* ] ?{_FACTOR}){{0,2}}"
_QUOTIENT = re.compile(rf"({_PRODUCT})(?: ?/ ?(\({_PRODUCT}\)|{_FACTOR}(?:/{_FACTOR})?))?")
_SPELLINGS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in [
        (r"^(?:US ?)?\$$", "dollar"),
        (r"(?:degrees?|deg|\^\\circ) ?(?:celsius|C)\b", " celsius"),
        (r"(?:degrees?|deg|\^\\circ) ?(?:fahrenheit|F)\b", " fahrenheit"),
        (r"^\^\\circ$", "degree"),
        (r"\\frac ?\{([^{}]+)\} ?\{([^{}]+)\}", r"\1/(\2)"),
        (r"\bms\^(?=\{? ?-)", "m*s^"),  # as physics writes m/s
        (r"\*\*", "^"),
        (r"\^ ?\{ ?([-+]?\d) ?\}", r"^\1"),
        (r" ?(?:\\cdot|\*) *", "*"),
        (r"\\mu ", "u"),
        (r"\\Omega", "ohm"),
        (r"\b(?:square|sq\.?) ([a-z]+)", r"\1^2"),
        (r"\bcubic ([a-z]+)", r"\1^3"),
        (r" squared\b", "^2"),
        (r" cubed\b", "^3"),
        (" per ", "/"),
    ]
]


@lru_cache(maxsize=4096)
def known_unit(text: str) -> "pint.Unit | None":
    """The unit that `text` names, such as `km/h`, `m^2`, `square feet` or `^\\circ`; None when it is none of ours."""
    if len(text) > 60:
        return None
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _LONG_NAMES.sub(lambda name: name[0].lower().replace(" ", "_"), text)
    whole = _QUOTIENT.fullmatch(text.strip())
    if whole is None:
        return None
    above, below = _product(whole[1]), _product(re.sub("[()]|/", " ", whole[2] or ""))
    return None if above is None or below is None else above / below


def _product(text: str) -> "pint.Unit | None":
    found = _registry().Unit("dimensionless")
    for name, power in re.findall(r"([A-Za-z_]+)(?:\^?([-+]?\d))?", text):
        unit = _named(name)
        if unit is None:
            return None
        found = found * unit ** int(power or 1)
    return found


@lru_cache(maxsize=1024)
def _named(name: str) -> "pint.Unit | None":
    """The unit of one name; of names that are spelled out, whatever their case."""
    spellings = [_CAPITALS.get(name, name)]
    if name.isalpha() and len(name) > 3 and name.lower() != name:
        spellings.append(name.lower())
    for spelling in spellings:
        for prefix, unit, _ in _registry().parse_unit_name(spelling):
            whole = spelling == name or spelling in _CAPITALS.values() or spelling.startswith(prefix + unit[:3])
            known = unit in _UNITS and prefix in (_PREFIXES if unit not in _WITHOUT_PREFIX else {""})
            if known and spelling not in _NOT_UNITS and whole:
                return _registry().Unit(prefix + unit)
    return None


def _is_currency(unit: "pint.Unit") -> bool:
    return any(unit.is_compatible_with(money) for money in ("dollar", "euro", "sterling", "yen", "rupee", "yuan"))


@lru_cache(maxsize=1)
def _registry() -> "pint.UnitRegistry[Any]":
    import pint

    logging.getLogger("pint.util").setLevel(logging.ERROR)  # it warns of each unit that ours replaces, as is meant
    registry: pint.UnitRegistry[Any] = pint.UnitRegistry(non_int_type=Fraction)
    registry.load_definitions(str(Path(__file__).with_name("units.txt")))
    return registry
