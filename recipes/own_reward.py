"""A reward of one's own: a right answer is worth more when the thinking arrives at it."""

from typing import Any

from rewards.accuracy import accuracy
from rewards.response import Response, parse


def explained(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1 where the answer is right and the thinking ends with it, else 0."""
    right = accuracy(completions, answer, **columns)
    found = [parse(completion[0]["content"]) for completion in completions]
    ends = [isinstance(each, Response) and each.think.rstrip(" .").endswith(each.answer) for each in found]
    return [float(value == 1 and end) for value, end in zip(right, ends, strict=True)]
