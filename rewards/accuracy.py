"""Reward 1 for a well-formed response whose answer is right."""

from collections.abc import Callable, Sequence
from typing import Any

from .response import Malformed, completion_text, parse
from .verify import Kind, Outcome, verify


def outcome_of(
    text: str,
    gold: str,
    kind: Kind | None = None,
    choices: Sequence[str] | None = None,
    truncated: bool = False,
) -> Outcome:
    """What came of a whole response: its form first, then its answer. Evaluation uses it too."""
    if truncated:
        return Outcome.TRUNCATED
    response = parse(text)
    if isinstance(response, Malformed):
        return Outcome.MALFORMED
    return verify(response.answer, gold, kind, choices)


def accuracy(
    completions: Sequence[Any],
    answer: Sequence[str],
    kind: Sequence[Kind | None] | None = None,
    choices: Sequence[Sequence[str] | None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """`r = 1` if the response is well-formed and its answer is right, else 0 (our choice; Vision-R1's rule).

    Returns one value a completion; None where the reference answer is unusable, which the data check finds before
    training. TRL's reward signature: `answer`, `kind` and `choices` are columns of the data set.
    """
    count = len(completions)
    kinds, options = kind or [None] * count, choices or [None] * count
    rows = zip(completions, answer, kinds, options, strict=True)
    outcomes = [outcome_of(completion_text(text), gold, kind, options) for text, gold, kind, options in rows]
    if log_metric is not None:
        for outcome in Outcome:
            log_metric(f"outcome/{outcome}", outcomes.count(outcome) / max(count, 1))
    return [None if outcome is Outcome.ANSWER_UNUSABLE else float(outcome is Outcome.CORRECT) for outcome in outcomes]
