"""One checkpoint's numbers on one task, each with its interval and its n."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import comb
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from eval.grade import OK
from rewards.grading.verify import Outcome

CORRECT = Outcome.CORRECT.value
RESAMPLES = 10_000
Line = dict[str, Any]


def scores(lines: Iterable[Line]) -> dict[str, Any]:
    """Scores of the greedy responses; under `sampled` and `image_removed` of the others, where there are any.

    `ci95` is Wilson's, for n rows of one response each; `sampled` has several a row, so its rows are resampled.
    """
    lines = list(lines)
    greedy = [line for line in lines if line["sample"] == 0 and not line["image_removed"]]
    sampled = [line for line in lines if line["sample"] > 0]
    removed = [line for line in lines if line["image_removed"]]
    golds = Counter(line["gold"] for line in greedy)
    return {
        **_accuracy(greedy),
        "images": len({cluster(line) for line in greedy}),
        **_forms(greedy),
        "wellformed": _accuracy([line for line in greedy if line["parse"] == OK]),
        "lenient": _accuracy(greedy, "lenient"),
        "majority": max(golds.values()) / len(greedy),  # always the commonest reference
        **({"image_removed": _accuracy(removed)} if removed else {}),
        **({"sampled": _sampled(sampled)} if sampled else {}),
    }


def cluster(line: Line) -> str:
    """What rows are alike in: their images; a row without any is alone."""
    return str(line["image"] or line["id"])


def wilson(count: int, n: int) -> list[float]:
    """The 95% interval of a share; everything, if nothing was counted."""
    low, high = proportion_confint(count, n, method="wilson") if n else (0.0, 1.0)
    return [float(low), float(high)]


def _accuracy(lines: Sequence[Line], key: str = "outcome") -> dict[str, Any]:
    n, correct = len(lines), sum(line[key] == CORRECT for line in lines)
    return {"n": n, "accuracy": correct / n if n else None, "ci95": wilson(correct, n)}


_SHARES = (Outcome.MALFORMED, Outcome.TRUNCATED, Outcome.TIMEOUT, Outcome.ANSWER_UNUSABLE)


def _forms(lines: Sequence[Line]) -> dict[str, Any]:
    """How responses look: which are malformed and why, which were cut, which reference cannot be graded; lengths."""
    outcomes = Counter(line["outcome"] for line in lines)
    share = {outcome.value: outcomes[outcome] / len(lines) for outcome in _SHARES}
    reasons = Counter(line["parse"] for line in lines if line["outcome"] == Outcome.MALFORMED)
    lengths = {name: _spread([line[name] for line in lines]) for name in ("think_tokens", "answer_tokens")}
    return {**share, "malformed_reasons": dict(reasons.most_common()), **lengths}


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def _sampled(lines: Sequence[Line]) -> dict[str, Any]:
    """mean@k, and pass@j for j = 1, 2, 4, ... k: without bias (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    of_row: dict[str, list[Line]] = {}
    for line in lines:
        of_row.setdefault(line["id"], []).append(line)
    k = min(map(len, of_row.values()))
    right = {id: sum(line["outcome"] == CORRECT for line in responses) for id, responses in of_row.items()}
    asked = sorted({1 << power for power in range(k.bit_length())} | {k})
    means = [right[id] / len(responses) for id, responses in of_row.items()]
    mean, interval, _ = bootstrap(means, [cluster(responses[0]) for responses in of_row.values()])
    return {
        "n": len(of_row),
        "k": k,
        "accuracy": mean,  # mean@k
        "ci95": [max(interval[0], 0.0), min(interval[1], 1.0)],
        "pass_at": {
            str(j): float(np.mean([_pass_at(len(responses), right[id], j) for id, responses in of_row.items()]))
            for j in asked
        },
        **_forms(lines),
    }


def _pass_at(n: int, correct: int, k: int) -> float:
    return 1 - comb(n - correct, k) / comb(n, k)


def bootstrap(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, list[float], float]:
    """The mean of `values`, its 95% percentile interval and its standard error, from 10,000 resamples of clusters.

    Values that are all alike say nothing of the next one: the interval is then as wide as Wilson's for none in so many
    clusters.
    """
    _, index_N = np.unique(np.array(clusters), return_inverse=True)
    sum_C, size_C = np.bincount(index_N, np.array(values, dtype=float)), np.bincount(index_N)
    mean = float(sum_C.sum() / size_C.sum())
    if np.ptp(np.array(values, dtype=float)) == 0:
        unseen = wilson(0, len(sum_C))[1]
        return mean, [max(mean - unseen, -1.0), min(mean + unseen, 1.0)], unseen / 2
    if len(sum_C) < 2:
        return mean, [-1.0, 1.0], 1.0
    resampled = stats.bootstrap(
        (sum_C, size_C),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=0,
        batch=max(1, 2_000_000 // len(sum_C)),
    )
    interval = resampled.confidence_interval
    return mean, [float(interval.low), float(interval.high)], float(resampled.standard_error)
