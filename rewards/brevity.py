"""More for a right answer that needed less thinking; nothing for a wrong one, however short."""

from collections.abc import Sequence
from typing import Any

from .accuracy import accuracy


def brevity(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[str],
    budget: int,
    **columns: Any,
) -> list[float | None]:
    """`r = c * max(0, 1 - n / budget)`, with c the `accuracy` reward and n the tokens of the completion (our choice).

    n counts the answer too: it is a few tokens, and right.
    """
    right = accuracy(completions, answer, **columns)
    return [
        None if value is None else value * max(0.0, 1 - len(ids) / budget)
        for value, ids in zip(right, completion_ids, strict=True)
    ]
