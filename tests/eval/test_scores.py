"""Statistics against brute force and against each other."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eval.scores import compare, scores


def _line(id: str, outcome: str, sample: int = 0, reason: str | None = None, think: int = 10) -> dict[str, Any]:
    return {
        "id": id,
        "sample": sample,
        "outcome": outcome,
        "reason": reason,
        "think_tokens": think,
        "answer_tokens": 2,
    }


def test_a_score_has_its_n_its_interval_and_its_failures() -> None:
    lines = [_line(str(n), "correct", think=n) for n in range(60)]
    lines += [_line(str(n), "wrong", think=n) for n in range(60, 80)]
    lines += [_line(str(n), "malformed", reason="missing_tag", think=n) for n in range(80, 95)]
    lines += [_line(str(n), "truncated", think=n) for n in range(95, 100)]
    found = scores(lines)
    assert (found["n"], found["accuracy"], found["malformed"], found["truncated"]) == (100, 0.6, 0.15, 0.05)
    assert found["malformed_reasons"] == {"missing_tag": 15}
    assert found["think_tokens"] == {"median": 49.5, "p95": pytest.approx(94.05)}
    z, p, n = stats.norm.ppf(0.975), 0.6, 100
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert found["ci95"] == pytest.approx([(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)])
    assert "sampled" not in found


def test_sampled_responses_are_scored_apart() -> None:
    lines = [_line("a", "correct"), _line("a", "wrong", sample=1), _line("a", "correct", sample=2)]
    found = scores(lines)
    assert (found["n"], found["accuracy"]) == (1, 1.0)
    assert (found["sampled"]["n"], found["sampled"]["accuracy"]) == (2, 0.5)


def test_mcnemar_matches_brute_force() -> None:
    a = [_line(str(n), "correct" if n < 6 else "wrong") for n in range(12)]
    b = [_line(str(n), "correct" if 2 <= n < 12 else "wrong") for n in range(12)]
    found = compare(a, b)
    assert (found["gained"], found["lost"], found["difference"]) == (6, 2, pytest.approx(4 / 12))
    flips = list(itertools.product([0, 1], repeat=8))
    assert found["mcnemar_p"] == pytest.approx(sum(abs(sum(flip) - 4) >= 2 for flip in flips) / len(flips))


def test_the_paired_interval_matches_the_normal_one() -> None:
    rng = np.random.default_rng(0)
    a = [_line(str(n), "correct" if hit else "wrong") for n, hit in enumerate(rng.random(1000) < 0.6)]
    b = [_line(str(n), "correct" if hit else "wrong") for n, hit in enumerate(rng.random(1000) < 0.7)]
    found = compare(a, b)
    right = [np.array([line["outcome"] == "correct" for line in lines], dtype=float) for lines in (a, b)]
    difference = right[1] - right[0]
    half = 1.96 * difference.std() / np.sqrt(1000)
    assert found["ci95"] == pytest.approx([difference.mean() - half, difference.mean() + half], abs=0.005)


def test_only_common_rows_are_compared_and_no_difference_is_certain() -> None:
    a, b = [_line("a", "correct"), _line("b", "wrong")], [_line("b", "wrong"), _line("c", "correct")]
    assert compare(a, b) == {"n": 1, "difference": 0, "ci95": [0, 0], "gained": 0, "lost": 0, "mcnemar_p": 1.0}
