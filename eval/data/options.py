"""The options of a question, and which of them its answer names; and whether a value can be an answer at all."""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Literal

from eval.data.images import BadRow
from rewards.response import TAGS, Response, parse

AnswerIs = Literal["index", "letter", "text"]

# --- options ----------------------------------------------------------------------------------------------------------


def options(value: Any) -> tuple[list[str] | None, list[str]]:
    """The texts of the options, without the letters that data writes before them; and their labels, if it has any.

    Read are lists, lists written as text, lines, `{"text": [...], "label": [...]}`, `{"A": ..., "B": ...}` and lists of
    `{"label", "text"}`. None stands for a question without options.

    Raises:
        BadRow: it is no list of options.
    """
    labels: list[str] = []
    value = _from_text(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        value, labels = _labelled(value)
    if value is None:
        return None, []
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise BadRow("row_shape", f"choices are {value!r:.60}, no list of options")
    if value and all(isinstance(item, Mapping) for item in value):
        labels = [_scalar(item.get("label", item.get("key", ""))) for item in value]
        value = [item.get("text", item.get("content", item.get("value"))) for item in value]
    texts = without_letters([_scalar(item) for item in value])
    if not texts:
        return None, []
    if len(texts) > len(ascii_uppercase) or len(texts) == 1 or not all(text.strip() for text in texts):
        raise BadRow("choices", f"{len(texts)} options, {value!r:.60}: 2 to 26 are lettered, and none is empty")
    return texts, labels if all(labels) else []


def _scalar(item: Any) -> str:
    if (isinstance(item, float) and not math.isfinite(item)) or not isinstance(item, str | int | float):
        raise BadRow("row_shape", f"an option is {item!r:.60}, no text")
    return str(item)


def _from_text(text: str) -> Any:
    """A list that is written as text: JSON's, Python's, or one option a line."""
    text = text.strip()
    if text[:1] in {"[", "{", "("} and not _LETTERED.match(text):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return list(found) if isinstance(found, tuple) else found
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = _on_one_line(text)
    if len(lines) == 1:
        raise BadRow("choices", f"{text!r:.60} is text, and no list of options can be read from it")
    return lines or None


def _on_one_line(text: str) -> list[str]:
    """`A. cat B. dog` as its options, where the letters stand in order; else the text."""
    places = [match.start() for match in _INLINE.finditer(text)]
    letters = [next(filter(str.isalpha, text[place:])) for place in places]
    if places and places[0] == 0 and letters == [*ascii_uppercase[: len(places)]]:
        return [text[begin:end].strip() for begin, end in zip(places, [*places[1:], len(text)], strict=True)]
    return [text]


def _labelled(value: Mapping[str, Any]) -> tuple[list[Any] | None, list[str]]:
    if "text" in value and ("label" in value or "labels" in value):
        texts, labels = value["text"], value.get("label", value.get("labels"))
        if texts is None or labels is None:
            return None, []
        if len(texts) != len(labels):
            raise BadRow("choices", f"{len(texts)} options and {len(labels)} labels")
        return list(texts), [str(label) for label in labels]
    held = {str(key): text for key, text in value.items() if text is not None}  # columnar files fill up with None
    if not held:
        return None, []
    if [*held] != [*ascii_uppercase[: len(held)]] and [*held] != [*ascii_uppercase.lower()[: len(held)]]:
        raise BadRow("choices", f"the keys of the options are {', '.join(held)!r:.60}, not A, B, C ...")
    return [*held.values()], [*held]


_LETTERED = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[.):])\s+")
_INLINE = re.compile(r"(?<!\S)(?:\([A-Z]\)|[A-Z][.):])\s+")


def without_letters(texts: list[str]) -> list[str]:
    """`A. cat`, `B. dog` as `cat`, `dog`: once, and only where every option begins with its own letter."""
    found = [_LETTERED.match(text) for text in texts]
    own = [match and (match[1] or match[2]).upper() for match in found]
    if len(texts) > 1 and own == [*ascii_uppercase[: len(texts)]]:
        return [text[match.end() :].strip() for text, match in zip(texts, found, strict=True) if match]
    return texts


# --- which option the answer names ------------------------------------------------------------------------------------


def letter(index: Any, choices: Sequence[str]) -> str:
    """The letter of the option at `index`. Raises: BadRow: there is none."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < min(len(choices), 26):
        raise BadRow("choice_range", f"the answer {index!r:.60} is no index of its {len(choices)} choices")
    return ascii_uppercase[index]


def chosen(answer: Any, choices: Sequence[str], labels: Sequence[str], answer_is: AnswerIs | None) -> str:
    """The answer of a question with options: its letter, or its text where the data has that.

    Raises:
        BadRow: it names none of them, or may be read in two ways that name different ones.
    """
    text = str(answer).strip()
    readings: dict[str, int] = {}
    for way, index in (
        ("letter", _by_letter(text, labels)),
        ("index", _by_index(text)),
        ("text", _by_text(text, choices)),
    ):
        if index is not None and index < len(choices):
            readings[way] = index
    if answer_is:
        if answer_is not in readings:
            raise BadRow("choice_range", f"the answer {text!r:.60} is no {answer_is} of its {len(choices)} choices")
        return _named(answer_is, readings[answer_is], choices)
    if text in labels:  # the data itself says what its answers are
        return ascii_uppercase[labels.index(text)]
    if not readings:
        if re.fullmatch(r"[A-Z]", text):
            raise BadRow("choice_range", f"the answer {text!r} is no letter of its {len(choices)} choices")
        return text  # none of them: where answers are compared, the row is refused
    if len({*readings.values()}) > 1:
        shown = " or ".join(f"{way} {choices[index]!r:.40}" for way, index in readings.items())
        raise BadRow(
            "answer_is", f"the answer {text!r:.40} may be the {shown}; say which: answer_is: {' | '.join(readings)}"
        )
    way = "text" if "text" in readings else next(iter(readings))
    return _named(way, readings[way], choices)


def _named(way: str, index: int, choices: Sequence[str]) -> str:
    """An option by its text stays so, unless that reads as the letter of another."""
    is_letter = re.fullmatch(r"\(?[A-Za-z]\)?[.:]?", choices[index].strip())
    return choices[index].strip() if way == "text" and not is_letter else ascii_uppercase[index]


def _by_letter(text: str, labels: Sequence[str]) -> int | None:
    if text in labels:
        return labels.index(text)
    found = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", text)
    return ascii_uppercase.index(found[1].upper()) if found else None


def _by_index(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,2}", text) else None


def _by_text(text: str, choices: Sequence[str]) -> int | None:
    plain = [" ".join(choice.split()).casefold() for choice in choices]
    asked = " ".join(without_own_letter(text).split()).casefold()
    for each in (" ".join(text.split()).casefold(), asked):
        if plain.count(each) == 1:
            return plain.index(each)
    return None


def without_own_letter(text: str) -> str:
    """`B. cat` as `cat`."""
    match = _LETTERED.match(text)
    return text[match.end() :] if match else text


# --- a reference ------------------------------------------------------------------------------------------------------


def reference(value: Any) -> str:
    """A reference answer as text, "" for none; what stands in the grammar's answer tags is taken out of them.

    Raises:
        BadRow: no response can be this value: a list, a struct, no number.
    """
    if value is None:
        return ""
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        raise BadRow(
            "answer_type", f"the answer is a struct of {keys:.60}; name its part: columns: {{answer: <column>.<key>}}"
        )
    if isinstance(value, list | tuple):
        raise BadRow("answer_type", f"the answer is a list of {len(value)}; name one: columns: {{answer: <column>.0}}")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow("answer_type", f"the answer is {value}, which is no answer")
    if not isinstance(value, str | int | float):
        raise BadRow("answer_type", f"the answer is {value!r:.60}, no text and no number")
    return _untagged(str(value))


def _untagged(text: str) -> str:
    if isinstance(response := parse(text), Response):
        return response.answer
    inside = re.fullmatch(rf"\s*{TAGS[2]}(.*){TAGS[3]}\s*", text, re.DOTALL)
    if inside and not any(tag in inside[1] for tag in TAGS):
        return inside[1].strip()
    if any(tag in text for tag in TAGS):
        raise BadRow("answer_type", f"the answer has tags of the grammar, and is no well-formed response: {text!r:.60}")
    if re.search(r"^\s*####", text, re.MULTILINE):
        raise BadRow("answer_type", "the answer is a solution that ends in `#### ...`; `format: gsm8k` reads these")
    return text.strip()
