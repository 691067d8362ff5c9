"""The options of a question, and which of them its answer names; and whether a value can be an answer at all."""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
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
        labels = [_scalar(first(item, "label", "key", "letter", "id", "number") or "") for item in value]
        value = [first(item, "text", "content", "value") for item in value]
    texts, own = _without_marks([_scalar(item) for item in value])
    labels = labels if any(labels) else own
    if not texts:
        return None, []
    if len(texts) > len(ascii_uppercase) or len(texts) == 1 or not all(text.strip() for text in texts):
        raise BadRow("choices", f"{len(texts)} options, {value!r:.60}: 2 to 26 are lettered, and none is empty")
    if len({*labels}) < len(labels):
        raise BadRow("choices", f"two options have one label: {', '.join(labels)}")
    return texts, labels


def first(values: Mapping[str, Any], *names: str, otherwise: Any = None) -> Any:
    """The value under the first of `names` that has one."""
    return next((values[name] for name in names if values.get(name) is not None), otherwise)


def _scalar(item: Any) -> str:
    if (isinstance(item, float) and not math.isfinite(item)) or not isinstance(item, str | int | float):
        raise BadRow("row_shape", f"an option is {item!r:.60}, no text")
    return str(item)


def _from_text(text: str) -> Any:
    """A list that is written as text: JSON's, Python's, or one option a line."""
    text = text.strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if text[:1] in {"[", "{", "("} and not _LETTERED.match(text):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return list(found) if isinstance(found, tuple) else found
        if text[-1:] in {"]", "}"} and not all(line[0] == text[0] and line[-1] == text[-1] for line in lines):
            raise BadRow("choices", f"{text!r:.60} is no list that can be read: not JSON's, not Python's")
    if any(_LETTERED.match(line) for line in lines):
        lines = _inline(text)
    if len(lines) == 1:
        raise BadRow("choices", f"{text!r:.60} is text, and no list of options can be read from it")
    return lines or None


def _inline(text: str) -> list[str]:
    """`A. cat B. dog` as its options, on one line or several, where the letters stand in order.

    Raises:
        BadRow: they do not, or something stands before them.
    """
    places = [match.start() for match in _INLINE.finditer(text)]
    letters = [next(filter(str.isalpha, text[place:])).upper() for place in places]
    if places[:1] != [0] or letters != [*ascii_uppercase[: len(places)]]:
        raise BadRow("choices", f"{text!r:.60} has letters of options, and no option for each in their order")
    parts = [text[begin:end] for begin, end in zip(places, [*places[1:], len(text)], strict=True)]
    return [" ".join(part.split()).rstrip(",;") for part in parts]


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
    keys = sorted(held, key=str.upper)
    if "".join(keys).upper() != ascii_uppercase[: len(keys)]:
        raise BadRow("choices", f"the keys of the options are {', '.join(held)!r:.60}, not A, B, C ...")
    return [held[key] for key in keys], keys


_LETTERED = re.compile(r"\s*(?:\(([A-Za-z]|\d{1,2})\)|([A-Za-z]|\d{1,2})[.):．、](?!\d))\s*")
_INLINE = re.compile(r"(?<!\S)(?:\([A-Za-z]\)|[A-Za-z][.):])\s+")


def _without_marks(texts: list[str]) -> tuple[list[str], list[str]]:
    """`A. cat`, `B. dog` as `cat`, `dog`, and the letters, or numbers: once, where every option begins with its own.

    Raises:
        BadRow: each begins with a letter, and they are not A, B, C: labels, or somebody's initials.
    """
    found = [_LETTERED.match(text) for text in texts]
    marks = [(match[1] or match[2]).upper() for match in found if match]
    rest = [text[match.end() :].strip() for text, match in zip(texts, found, strict=True) if match]
    if len(texts) < 2 or len(marks) < len(texts) or not all(rest):
        return texts, []
    if marks in ([*ascii_uppercase[: len(texts)]], [str(number + 1) for number in range(len(texts))]):
        return rest, marks
    if len({*marks}) == len(marks) and all(map(str.isalpha, marks)):
        raise BadRow(
            "choices", f"the options begin with {', '.join(marks)}, and not with A, B, C ...; label them by themselves"
        )
    return texts, []


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
    numbered = bool(labels) and all(map(str.isdecimal, labels))
    found = {"letter": _by_letter(text, labels), "text": _by_text(text, choices)}
    if not numbered or answer_is == "index":
        found["index"] = _by_index(text)
    readings = {way: index for way, index in sorted(found.items()) if index is not None and index < len(choices)}
    _check_agreement(text, labels, readings, choices)
    if answer_is:
        if answer_is not in readings:
            raise BadRow("choice_range", f"the answer {text!r:.60} is no {answer_is} of its {len(choices)} choices")
        return _named(answer_is, readings[answer_is], choices)
    if numbered and "letter" in readings:  # the data itself says what its answers are
        return ascii_uppercase[readings["letter"]]
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


def _check_agreement(text: str, labels: Sequence[str], readings: Mapping[str, int], choices: Sequence[str]) -> None:
    """Raises: BadRow: `B. cat`, where B is another option than the cat."""
    marked = _LETTERED.match(text)
    letter = _by_letter(marked[1] or marked[2], labels) if marked and text[marked.end() :] else None
    if letter is not None and readings.get("text", letter) != letter:
        raise BadRow(
            "choice_range", f"the answer {text!r:.60} has the letter of another of its choices, {choices!r:.60}"
        )


def _by_letter(text: str, labels: Sequence[str]) -> int | None:
    found = re.fullmatch(r"\(?([A-Za-z]|\d{1,2})\)?[.:]?", text)
    letters = [label.upper() for label in labels] or [*ascii_uppercase]
    return letters.index(found[1].upper()) if found and found[1].upper() in letters else None


def _by_index(text: str) -> int | None:
    return int(float(text)) if re.fullmatch(r"\d{1,2}(?:\.0+)?", text) else None


def _by_text(text: str, choices: Sequence[str]) -> int | None:
    """The one option that says it: to the letter, in other cases, behind its letter, or by its only number."""
    marked = _LETTERED.match(text)
    asked = [text, text[marked.end() :] if marked else text]
    for plain in (str.strip, lambda each: " ".join(each.split()).casefold()):
        for each in asked:
            if [plain(choice) for choice in choices].count(plain(each)) == 1:
                return [plain(choice) for choice in choices].index(plain(each))
    if not re.fullmatch(r"\d+(?:\.\d+)?", text):
        return None
    numbers = [re.findall(r"\d+(?:\.\d+)?", choice) for choice in choices]
    same = [index for index, held in enumerate(numbers) if len(held) == 1 and float(held[0]) == float(text)]
    return same[0] if len(same) == 1 else None


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
    if isinstance(value, Decimal):
        value = str(value)
    if not isinstance(value, str | int | float):
        raise BadRow("answer_type", f"the answer is {value!r:.60}, no text and no number")
    return _untagged(str(value))


def _untagged(text: str) -> str:
    if isinstance(response := parse(text), Response):
        return response.answer
    inside = re.fullmatch(rf"\s*{TAGS[2]}(.*){TAGS[3]}\s*", text, re.DOTALL | re.IGNORECASE)
    if inside and not any(tag in inside[1].lower() for tag in TAGS):
        return inside[1].strip()
    if any(tag in text for tag in TAGS):
        raise BadRow("answer_type", f"the answer has tags of the grammar, and is no well-formed response: {text!r:.60}")
    if "####" in text:
        raise BadRow("answer_type", "the answer is a solution that ends in `#### ...`; `format: gsm8k` reads these")
    if re.fullmatch(r"\s*\[\s*(['\"]).*\1\s*\]\s*", text, re.DOTALL):
        raise BadRow("answer_type", f"the answer is a list that is written as text, {text!r:.60}")
    return text.strip()
