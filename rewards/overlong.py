"""Punishment that grows as a response nears its token budget, so that a limit is not a cliff."""

from collections.abc import Sequence
from typing import Any

from .contract import form_alone


@form_alone
def overlong(completion_ids: Sequence[Sequence[int]], budget: int, margin: int, **_: Any) -> list[float]:
    """`r = 0` up to `budget - margin` tokens, then linear down to `-1` at `budget`, and `-1` beyond it.

    `r = clip((budget - margin - n) / margin, -1, 0)` with n the tokens of the completion. DAPO (arXiv 2503.14476),
    equation 13; TRL's own function.
    """
    from trl.rewards import get_soft_overlong_punishment

    rewards: list[float] = get_soft_overlong_punishment(budget, margin)([list(ids) for ids in completion_ids])
    return rewards
