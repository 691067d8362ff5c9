"""Reward 1 for a response that the grammar accepts, whatever its answer."""

from collections.abc import Sequence
from typing import Any

from .contract import form_alone
from .response import Response, completion_text, parse


@form_alone
def format(completions: Sequence[Any], **_: Any) -> list[float]:
    """`r = 1` if `<think>..</think><answer>..</answer>` is well-formed, else 0. Its usual weight: 0.1 (our choice)."""
    return [float(isinstance(parse(completion_text(text)), Response)) for text in completions]
