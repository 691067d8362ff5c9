"""What would a reward pay? Each is tried on canned completions of real rows, before any model loads."""

import asyncio
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from types import SimpleNamespace
from typing import Any

from .contract import is_async, is_marked
from .grading.normalize import normalize
from .grading.quantity import quantity
from .grading.verify import Kind, kind_of
from .response import render

COMPLETIONS = ("right", "wrong", "malformed", "empty")


@dataclass(frozen=True)
class DryRun:
    """The mean value that a reward gave each kind of completion; None where it gave None for all rows."""

    name: str
    paid: Mapping[str, float | None]  # by COMPLETIONS
    form_alone: bool = False  # meant to pay a wrong answer as much as a right one

    def warning(self) -> str | None:
        """Why this reward teaches something else than right answers, if it does."""
        right = self.paid["right"]
        if right is None:
            return "gives no value, even for right answers"
        if self.form_alone:
            return None
        as_much = [kind for kind in ("wrong", "malformed") if (self.paid[kind] or 0.0) >= right]
        return (
            f"pays {' and '.join(f'a {kind}' for kind in as_much)} answer as much as a right one" if as_much else None
        )


def dry_run(function: Callable[..., Any], rows: Sequence[Mapping[str, Any]]) -> DryRun:
    """Call `function` as the trainer would, on four completions of each row.

    Args:
        function: a reward under `rewards.contract.enforce_contract`.
        rows: canonical rows (`answer`, and whatever else the data has), at least one.

    Raises:
        RewardError: it raised, or returned what no reward may.
    """
    paid: dict[str, float | None] = {}
    for kind in COMPLETIONS:
        texts = [_completion(kind, row) for row in rows]
        values = call(function, texts, rows)
        known = [value for value in values if value is not None]
        paid[kind] = math.fsum(known) / len(known) if known else None
    return DryRun(function.__name__, paid, is_marked(function, "form_alone"))


def call(function: Callable[..., Any], texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """What `function` gives each of `texts`, called with the arguments of TRL's trainer.

    There is no tokenizer here: `completion_ids` has one number a word, which is what length and repetition need.
    """
    arguments: dict[str, Any] = {
        "truncated": [False] * len(texts),
        **{name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)},
        "prompts": [[{"role": "user", "content": str(row.get("question", ""))}] for row in rows],
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [[zlib.crc32(word.encode("utf-8", "replace")) for word in text.split()] for text in texts],
        "trainer_state": SimpleNamespace(global_step=0, max_steps=1, epoch=0.0),
        "log_extra": lambda column, values: None,
        "log_metric": lambda name, value: None,
    }
    if is_async(function):
        values: list[float | None] = asyncio.run(function(**arguments))
        return values
    values = function(**arguments)
    return values


def _completion(kind: str, row: Mapping[str, Any]) -> str:
    gold = str(row["answer"])
    if kind == "empty":
        return ""
    answer = _other(gold, row.get("kind"), row.get("choices")) if kind == "wrong" else gold
    response = render(f"The steps lead to one answer. It is {answer}.", answer)
    return response.replace("<answer>", "").replace("</answer>", "") if kind == "malformed" else response


def _other(gold: str, kind: Kind | None, choices: Sequence[str] | None) -> str:
    """An answer of the reference's kind that is surely wrong."""
    if (kind or kind_of(gold, choices)) == "choice":
        letters = ascii_uppercase[: len(choices or "ABCD")]
        texts = [normalize(choice).casefold() for choice in choices or ()]
        text = normalize(gold)
        right = letters[texts.index(text.casefold())] if text.casefold() in texts else text.strip("() ").upper()
        return next(letter for letter in letters if letter != right)
    number = quantity(normalize(gold))
    return str(int(number.value) + 17) if number else "something else entirely"
