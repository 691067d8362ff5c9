"""Reward 1 for a well-formed response whose answer is right."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .grading.verify import Kind, Outcome, Question, kind_of, verify_all
from .response import Malformed, Reason, completion_text, parse


class Verdict(NamedTuple):
    """What came of a response; `reason` says why it is malformed."""

    outcome: Outcome
    reason: Reason | None = None


def verdicts(
    texts: Sequence[str],
    golds: Sequence[str],
    kinds: Sequence[Kind | None] | None = None,
    choices: Sequence[Sequence[str] | None] | None = None,
    truncated: Sequence[bool] | None = None,
) -> list[Verdict]:
    """One verdict a response, in order: whether it ended, then its form, then its answer. Evaluation uses it too."""
    count = len(texts)
    columns = (golds, kinds or [None] * count, choices or [None] * count, truncated or [False] * count)
    graded: list[Verdict | Question] = []
    for text, gold, kind, options, cut in zip(texts, *columns, strict=True):
        if cut:
            graded.append(Verdict(Outcome.TRUNCATED))
        elif isinstance(response := parse(text), Malformed):
            graded.append(Verdict(Outcome.MALFORMED, response.reason))
        else:
            graded.append(Question(response.answer, gold, kind, options))
    outcomes = iter(verify_all([each for each in graded if isinstance(each, Question)]))
    return [Verdict(next(outcomes)) if isinstance(each, Question) else each for each in graded]


def accuracy(
    completions: Sequence[Any],
    answer: Sequence[str],
    kind: Sequence[Kind | None] | None = None,
    choices: Sequence[Sequence[str] | None] | None = None,
    truncated: Sequence[bool] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """`r = 1` if the response is well-formed and its answer is right, else 0 (our choice; Vision-R1's rule).

    Returns one value a completion; None where the reference answer is unusable, which the data check finds before
    training. TRL's reward signature: `answer`, `kind` and `choices` are columns of the data set, and the trainer adds
    `truncated`. Logged are the share of each outcome, `outcome/<outcome>`, and `accuracy/<kind>`, by kind of answer.
    """
    outcomes = [
        each.outcome for each in verdicts([completion_text(c) for c in completions], answer, kind, choices, truncated)
    ]
    if log_metric is not None:
        for outcome in Outcome:
            log_metric(f"outcome/{outcome}", outcomes.count(outcome) / max(len(outcomes), 1))
        blank = [None] * len(outcomes)
        for outcome, gold, declared, options in zip(outcomes, answer, kind or blank, choices or blank, strict=True):
            if outcome.reward is not None:  # one value a completion: the trainer takes their mean over all ranks
                log_metric(f"accuracy/{declared or kind_of(gold, options)}", outcome.reward)
    return [outcome.reward for outcome in outcomes]
