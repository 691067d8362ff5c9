"""Which option does an answer choose? All rules are our choice."""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from .formula import spelled
from .normalize import normalize
from .quantity import quantity, same_quantity
from .units import is_noun
from .words import same_words

_LETTER = re.compile(
    r"(?:(?:option|choice|answer) )?[(\[]?(?P<letter>[A-Za-z])(?![A-Za-z0-9'^_])"
    r"(?P<sign>[.:)\]]{0,2}),?(?P<rest>(?: ?-| is )?.*)",
    re.IGNORECASE,
)
_BEHIND = re.compile(r"(?P<option>.+?) ?[(\[](?P<letter>[A-Za-z])[)\]]")
_SEVERAL = re.compile(r"\(?[A-Z]\)?(?:(?:, ?(?:and )?| and | ?& ?|; ?| )\(?[A-Z]\)?)+|[A-Z]{2,}")
_LETTERED = re.compile(r"\(?(?P<letter>[A-Z])[.):]{1,2} ?(?P<option>.+)")
_ARTICLE = re.compile(r"(?:the|an?) |[\\$]")


def chosen(answer: str, gold: str, choices: Sequence[str]) -> tuple[str | None, str | None]:
    """The letters, in order, that the reference and the answer choose; None for what chooses none.

    Both are in their `normalize` spelling; `choices` are the options' texts, or empty where they are not known.
    """
    options = [normalize(choice) for choice in choices]
    letters = ascii_uppercase[: len(choices) or 26]
    if choices and gold not in options and (right := several(gold, letters)):
        named = [_option(part, letters, options) or "" for part in re.split(", and |, ?| and |; ?", answer)]
        return right, several(answer, letters) or several(", ".join(named), letters) or None
    if not options and (found := lettered(gold)):
        options = [found[1] if letter == found[0] else "\0" for letter in letters]
        gold = found[0]
    elif len({option.casefold() for option in options}) == len(options):  # but Ff and ff are two genotypes
        options, gold, answer = [option.casefold() for option in options], gold.casefold(), answer.casefold()
    return _option(gold, letters, options), _option(answer, letters, options)


def several(text: str, letters: str = ascii_uppercase) -> str:
    """The letters of a text that names several: `A, C`, `(A) and (C)`, `AC`; "" where it names another thing."""
    found = re.findall("[A-Z]", text) if _SEVERAL.fullmatch(text) else []
    return "".join(sorted(found)) if len(set(found)) == len(found) and set(found) <= set(letters) else ""


def lettered(gold: str) -> tuple[str, str] | None:
    """The letter and the option of a reference such as `(B) 5` or `D. the sun`, whose other options are not known."""
    found = _LETTERED.fullmatch(gold)
    # But `A. Lincoln` and `E. coli` are names.
    is_option = found and (gold[0] == "(" or quantity(found["option"]) or _ARTICLE.match(found["option"]))
    return (found["letter"], found["option"]) if found and is_option else None


def _option(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter that `text` chooses: `B`, `(B)`, `B. cat`, `cat (B)`, or one option's text alone; None for all else.

    A text beside the letter must be that option's. Where the options are not known, it is a number or counted nouns:
    of any other words nobody knows whether they choose the letter or refuse it.
    """
    for match in filter(None, (_LETTER.fullmatch(text), _BEHIND.fullmatch(text))):
        letter, parts = match["letter"].upper(), match.groupdict()
        option = parts.get("option") or parts.get("rest", "").removeprefix(" -").removeprefix(" is ").strip()
        if letter not in letters:
            continue
        if not option and text[-1] not in ",-":
            return letter
        if options:
            if _is_option(option, options[letters.index(letter)]):
                return letter
        elif parts.get("sign") and (quantity(option) or is_noun(option)):
            return letter
    same_text = [letter for letter, option in zip(letters, options, strict=False) if option == text]
    same_text = same_text or [
        letter for letter, option in zip(letters, options, strict=False) if _is_option(text, option)
    ]
    return same_text[0] if len(same_text) == 1 else None


def _is_option(text: str, option: str) -> bool:
    """Whether `text` is an option's: the same words, number (8.0 for 8) or spelling of mathematics."""
    if spelled(text) == spelled(option) or same_words(option, text):
        return True
    here, there = quantity(option), quantity(text)
    return bool(here and there and same_quantity(here, there))
