"""Numbers with their intervals: accuracy of one checkpoint, and the difference of two on the same rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from rewards.verify import Outcome

CORRECT = Outcome.CORRECT.value
RESAMPLES = 10_000


def scores(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Scores of the greedy responses (`sample` 0) and, where there are any, of the sampled ones under `sampled`."""
    lines = list(lines)
    greedy = [line for line in lines if line["sample"] == 0]
    sampled = [line for line in lines if line["sample"] > 0]
    return {**_summary(greedy), **({"sampled": _summary(sampled)} if sampled else {})}


def _summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    outcomes = Counter(line["outcome"] for line in lines)
    count, correct = len(lines), outcomes[CORRECT]
    interval = stats.binomtest(correct, count).proportion_ci(method="wilson")
    reasons = Counter(line["reason"] for line in lines if line["reason"])
    return {
        "n": count,
        "accuracy": correct / count,
        "ci95": [interval.low, interval.high],  # Wilson
        "malformed": outcomes[Outcome.MALFORMED] / count,
        "malformed_reasons": dict(reasons),
        "truncated": outcomes[Outcome.TRUNCATED] / count,
        "think_tokens": _spread([line["think_tokens"] for line in lines]),
        "answer_tokens": _spread([line["answer_tokens"] for line in lines]),
    }


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def compare(a: Iterable[dict[str, Any]], b: Iterable[dict[str, Any]], sample: int = 0) -> dict[str, Any]:
    """Accuracy of `b` minus that of `a` on their common rows: paired bootstrap interval and exact McNemar test."""
    right = [{line["id"]: line["outcome"] == CORRECT for line in lines if line["sample"] == sample} for lines in (a, b)]
    ids = sorted(right[0].keys() & right[1].keys())
    a_N, b_N = (np.array([side[id] for id in ids], dtype=float) for side in right)
    gained, lost = int(((a_N == 0) & (b_N == 1)).sum()), int(((a_N == 1) & (b_N == 0)).sum())
    difference_N = b_N - a_N
    return {
        "n": len(ids),
        "difference": float(difference_N.mean()),
        "ci95": _bootstrap(difference_N),
        "gained": gained,
        "lost": lost,
        "mcnemar_p": float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    }


def _bootstrap(values_N: np.ndarray) -> list[float]:
    if np.ptp(values_N) == 0:  # no row differs, or all alike
        return [float(values_N[0])] * 2
    result = stats.bootstrap((values_N,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0, batch=1000)
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]
