"""One checkpoint's numbers on one task, each with its interval and its n."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import comb
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from eval.grade import OK, TOO_LONG
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


_SHARES = (Outcome.MALFORMED, Outcome.TRUNCATED, Outcome.TIMEOUT, Outcome.ANSWER_UNUSABLE, TOO_LONG)


def _forms(lines: Sequence[Line]) -> dict[str, Any]:
    """How responses look: which are malformed and why, which were cut, which reference cannot be graded; lengths."""
    outcomes = Counter(line["outcome"] for line in lines)
    share = {str(outcome): outcomes[outcome] / len(lines) for outcome in _SHARES}
    reasons = Counter(line["parse"] for line in lines if line["outcome"] == Outcome.MALFORMED)
    given = [line for line in lines if line["outcome"] != TOO_LONG]
    lengths = {name: _spread([line[name] for line in given]) for name in ("think_tokens", "answer_tokens")}
    return {**share, "malformed_reasons": dict(reasons.most_common()), **lengths}


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {"median": 0.0, "p95": 0.0}
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

    Clusters that are all alike say nothing of the next one: the interval is then as wide as Wilson's for none in so
    many of them.
    """
    sum_C, size_C = by_cluster(values, clusters)
    mean = float(sum_C.sum() / size_C.sum())
    if np.ptp(sum_C / size_C) < 1e-12:
        unseen = wilson(0, len(sum_C))[1]
        return mean, [max(mean - unseen, -1.0), min(mean + unseen, 1.0)], unseen / 2
    if len(sum_C) < 2:
        return mean, [-1.0, 1.0], 1.0
    means = _resampled_means(sum_C, size_C)
    low, high = np.percentile(means, [2.5, 97.5])
    alike = np.ptp(size_C) == 0  # then the resamples' standard deviation is known without drawing any
    error = sum_C.std() / size_C[0] / len(sum_C) ** 0.5 if alike else means.std(ddof=1)
    return mean, [float(low), float(high)], float(error)


def by_cluster(values: Sequence[float], clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of `values` and their number in each of C clusters."""
    _, index_N = np.unique(np.array(clusters), return_inverse=True)
    return np.bincount(index_N, np.array(values, dtype=float)), np.bincount(index_N)


def _resampled_means(sum_C: np.ndarray, size_C: np.ndarray) -> np.ndarray:
    """Of `RESAMPLES` resamples of C clusters.

    Clusters that are alike are drawn together: how often each kind K is drawn is multinomial. So 200,000 rows, which
    are of three kinds, cost what three do (`scipy.stats.bootstrap` draws every row: minutes).
    """
    kinds_K2, count_K = np.unique(np.stack([sum_C, size_C], axis=1), axis=0, return_counts=True)
    rng, batch = np.random.default_rng(0), max(1, 2_000_000 // len(count_K))
    means = []
    for done in range(0, RESAMPLES, batch):
        drawn_RK = rng.multinomial(len(sum_C), count_K / len(sum_C), size=min(batch, RESAMPLES - done))
        means.append((drawn_RK @ kinds_K2[:, 0]) / (drawn_RK @ kinds_K2[:, 1]))
    return np.concatenate(means)
