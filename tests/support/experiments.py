"""Simulated evaluations with a known truth: how often is a difference claimed that is none, or found that is one?

`python -m tests.support.experiments` prints the table of `eval/README.md`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from eval import scores
from eval.compare import compare, verdict, with_holm

SPREAD = 1.0  # of the rows' difficulty, in logits
Lines = list[dict[str, Any]]


def right_of(logit_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether each of N rows is answered rightly."""
    return np.asarray(rng.random(logit_N.shape) < 1 / (1 + np.exp(-logit_N)))


def lines(right_N: np.ndarray, image: list[str] | None = None, sample: int = 0) -> Lines:
    return [
        {
            **{"id": str(n), "sample": sample, "image_removed": False, "image": image[n] if image else None},
            **{"outcome": "correct" if right else "wrong", "question": "?", "gold": "4"},
        }
        for n, right in enumerate(right_N)
    ]


def seeds_compared(rng: np.random.Generator, seeds: int, rows: int, shift: float, between: float) -> dict[str, Any]:
    """`seeds` trainings in each of two ways, `shift` logits below and above; a seed adds about `between` of them."""
    hard_N = rng.normal(0, SPREAD, rows)
    moves = np.zeros(2 * seeds) if seeds == 1 else rng.normal(0, between, 2 * seeds)
    a, b = (
        [lines(right_of(hard_N + by + move, rng)) for move in half]
        for by, half in ((-shift, moves[:seeds]), (shift, moves[seeds:]))
    )
    return compare(a, b)


def shift_for(difference: float, between: float) -> float:
    """The move of all logits, down and up, that sets two accuracies `difference` apart, around a half."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, SPREAD, 100_000) + rng.normal(0, between, 100_000)
    return float(brentq(lambda by: (1 / (1 + np.exp(-logits - by))).mean() - 0.5 - difference / 2, 0, 20))


def claims(trial: Callable[[np.random.Generator], list[dict[str, Any]]], trials: int, seed: int = 0) -> float:
    """The share of pages, each with the comparisons of a `trial`, that name a winner anywhere."""
    rng = np.random.default_rng(seed)
    return float(np.mean([any("better" in verdict(each) for each in _corrected(trial(rng))) for _ in range(trials)]))


def _corrected(page: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One comparison alone needs no correction, and statsmodels collects all garbage for each."""
    return with_holm(page) if len(page) > 1 else page


def row(seeds: int, rows: int, between: float, trials: int) -> tuple[float, float, float]:
    """The difference that is promised to be found in 80%, how often it is, and how often one is claimed without any."""
    rng = np.random.default_rng(seeds)
    none = [seeds_compared(rng, seeds, rows, 0.0, between) for _ in range(trials)]
    promised = float(np.mean([each["detectable"] for each in none]))
    shift = shift_for(promised, between if seeds > 1 else 0.0)
    found = claims(lambda rng: [seeds_compared(rng, seeds, rows, shift, between)], trials, seeds)
    return promised, found, float(np.mean(["better" in verdict(each) for each in none]))


def sampled(rng: np.random.Generator, tasks: int = 10, rows: int = 200, drawn: int = 4) -> list[dict[str, Any]]:
    """A page of `tasks` comparisons of sampled responses; neither checkpoint is better."""
    found = []
    for _ in range(tasks):
        hard_N = rng.normal(0, SPREAD, rows)
        a, b = ([each for k in range(drawn) for each in lines(right_of(hard_N, rng), sample=k + 1)] for _ in "ab")
        found.append(compare([a], [b], sampled=True))
    return found


def few_images(rng: np.random.Generator, images: int = 8, rows_each: int = 25) -> list[dict[str, Any]]:
    """Rows that stand and fall with their image; neither checkpoint is better."""
    name = [str(n // rows_each) for n in range(images * rows_each)]
    right = (right_of(np.repeat(rng.normal(0, 2, images), rows_each), rng) for _ in "ab")
    a, b = (lines(each, name) for each in right)
    return [compare([a], [b])]


PLACES = [(1, 200, 0.2), (2, 1000, 0.05), (3, 200, 0.2), (5, 200, 0.2), (10, 200, 0.2)]  # seeds, rows, `between`


def main() -> None:
    scores.RESAMPLES = 1000
    print("| seeds | rows | promised to be found in 80% | found in | claimed without any |\n|---|---|---|---|---|")
    for seeds, rows, between in PLACES:
        promised, found, claimed = row(seeds, rows, between, 1000)
        print(f"| {seeds} | {rows:,} | {100 * promised:.1f} points | {found:.0%} | {claimed:.1%} |", flush=True)
    print(f"10 tasks of sampled responses: {claims(sampled, 500):.1%}; 8 images: {claims(few_images, 1000):.1%}")


if __name__ == "__main__":
    main()
