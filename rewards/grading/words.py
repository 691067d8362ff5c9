"""Words, dates and clock times: when two texts say the same. All rules are our choice.

Case folds where words are words. It counts in a formula (`CO`, `Co`), a genotype (`Ff`, `AABB`), a label with digits
(`5B`) and whatever else mixes capitals within a word (`NiO`).
"""

import re
from functools import lru_cache
from pathlib import Path

Key = tuple[object, ...]


def _lists() -> dict[str, str]:
    entries = re.findall(r"^(\w+): (.+?)(?=^\w+:|\Z)", Path(__file__).with_name("words.txt").read_text(), re.M | re.S)
    return {name: " ".join(words.split()) for name, words in entries}


LISTS = _lists()  # of words.txt


def same_words(gold: str, given: str) -> bool:
    """Whether two texts say the same. An article may be left out, but for the `A` of `A minor` or `A train`."""
    if gold.startswith("A "):
        return given[:2] in {"A ", "a "} and key(gold[2:]) == key(given[2:])
    return key(gold) == key(re.sub(r"^A (?=[A-Za-z]{2})", "", given))


@lru_cache(maxsize=4096)
def key(text: str) -> Key:
    """What two texts have in common when they say the same."""
    text = _RATIO.sub(r"\1:\2", _ARTICLE.sub("", text.strip()))
    tokens = re.findall(r"\w+|[^\w\s]", text)
    behind_number = [False, *(token.isdigit() for token in tokens)]
    return moment(text) or tuple(map(_token, tokens, behind_number))


_ARTICLE = re.compile(r"^(?:the|an?|The|An) (?=[A-Za-z]{2})")
_RATIO = re.compile(r"^(\d+) to (\d+)$")  # 3 to 4, as 3:4


def is_short_word(text: str) -> bool:
    """Whether two letters are a word, and no product or formula."""
    return text.casefold() in _SHORT_WORDS


def _token(text: str, is_unit: bool) -> str:
    if is_short_word(text):
        return text.casefold()
    is_word = text.islower() or text.isupper() or (text[:1].isupper() and text[1:].islower())
    if len(text) < 2 or not is_word or not text.isalpha() or (is_unit and len(text) < 3):
        return text
    if _GENOTYPE.fullmatch(text) or (len(text) == 2 and text in _ELEMENTS):
        return text
    return _ORDINALS.get(text.casefold(), text.casefold())


_ORDINALS = dict(
    zip(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(),
        "1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th".split(),
        strict=True,
    )
)
_GENOTYPE = re.compile(r"(?:([A-Za-z])(?i:\1))+")
_SHORT_WORDS = frozenset(
    """no ok up on in am pm us uk eu at as he ho so do go to of if is it be by my me we an or ox ax hi oh ah tv pc
    id ad ai""".split()
)
_ELEMENTS = frozenset(
    """He Li Be Ne Na Mg Al Si Cl Ar Ca Sc Ti Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Zr Nb Mo Tc Ru Rh Pd Ag Cd In
    Sn Sb Te Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th
    Pa Np Pu Am Cm Bk Cf Es Fm Md No Lr""".split()
)

# --- dates and times --------------------------------------------------------------------------------------------------

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|{'|'.join(month[:3] for month in _MONTHS)}|sept)\.?"
_DAY = r"(?P<day>\d\d?)(?:st|nd|rd|th)?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_MONTH} {_DAY},? (?P<year>\d{{4}})",
        rf"(?:the )?{_DAY} (?:of )?{_MONTH},? (?P<year>\d{{4}})",
        r"(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?)",
        r"(?P<year>\d{4}) ?年 ?(?P<month>\d\d?) ?月 ?(?P<day>\d\d?) ?日",
    )
]
_TIME = re.compile(
    r"(?P<hour>\d\d?)(?: ?: ?(?P<minute>\d\d)(?: ?: ?(?P<second>\d\d))?)?(?P<half> ?[ap]\.? ?m\.?| o' ?clock)?",
    re.IGNORECASE,
)


def moment(text: str) -> Key | None:
    """The date or clock time that `text` is; None for anything else."""
    for pattern in _DATES:
        if found := pattern.fullmatch(text):
            month = found["month"].lower()
            number = int(month) if month.isdigit() else next(i for i, m in enumerate(_MONTHS, 1) if m[:3] == month[:3])
            return "date", int(found["year"]), number, int(found["day"])
    found = _TIME.fullmatch({"noon": "12:00 pm", "midnight": "12:00 am"}.get(text.lower(), text))
    if found is None or not (found["minute"] or found["half"]):
        return None
    hour, half = int(found["hour"]), (found["half"] or "").strip().lower()[:1].replace("o", "")
    if hour > 23 or int(found["minute"] or 0) > 59:
        return None
    if hour > 12:
        hour, half = hour - 12, "p"
    return "time", hour, int(found["minute"] or 0), int(found["second"] or 0), half
