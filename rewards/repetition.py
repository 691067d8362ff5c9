"""Punishment for saying the same again, the usual decay of long chains of thought."""

from collections.abc import Sequence
from typing import Any

from .contract import form_alone


@form_alone
def repetition(completion_ids: Sequence[Sequence[int]], ngram: int = 20, **_: Any) -> list[float]:
    """`r = -(1 - u / m)`, with m the n-grams of `ngram` tokens in the completion and u the different ones among them.

    0 where nothing of that length comes twice, towards -1 for a loop. Appendix C.2 of arXiv 2502.03373; TRL's function.
    """
    from trl.rewards import get_repetition_penalty_reward

    rewards: list[float] = get_repetition_penalty_reward(ngram_size=ngram)([list(ids) for ids in completion_ids])
    return rewards
