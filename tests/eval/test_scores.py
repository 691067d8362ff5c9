"""One checkpoint's numbers, against formulas written out and brute force."""

import itertools
from math import comb

import numpy as np
import pytest
from scipy import stats

from eval.scores import bootstrap, scores
from tests.support.inputs import line


def test_a_score_has_its_n_its_interval_and_its_failures() -> None:
    lines = [line(str(n), "correct", think_tokens=n) for n in range(60)]
    lines += [line(str(n), "wrong", think_tokens=n, gold="5") for n in range(60, 80)]
    lines += [line(str(n), "malformed", think_tokens=n, lenient="correct") for n in range(80, 95)]
    lines += [line(str(n), "truncated", think_tokens=n, parse="missing_tag") for n in range(95, 100)]
    found = scores(lines)
    assert (found["n"], found["accuracy"], found["malformed"], found["truncated"]) == (100, 0.6, 0.15, 0.05)
    assert found["malformed_reasons"] == {"missing_tag": 15}
    assert found["think_tokens"] == {"median": 49.5, "p95": pytest.approx(94.05)}
    assert (found["wellformed"]["n"], found["wellformed"]["accuracy"]) == (80, 0.75)
    assert (found["lenient"]["accuracy"], found["majority"]) == (0.75, 0.8)
    z, p, n = stats.norm.ppf(0.975), 0.6, 100
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert found["ci95"] == pytest.approx([(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)])
    assert found.keys().isdisjoint({"sampled", "image_removed"})


def test_what_is_asked_without_images_and_what_is_sampled_counts_apart() -> None:
    lines = [line("a", "correct", image="p"), line("b", "correct", image="p"), line("c", "wrong", image="q")]
    lines += [line(id, "wrong", image_removed=True) for id in "abc"]
    lines += [line("a", "wrong", sample=1), line("a", "correct", sample=2)]
    found = scores(lines)
    assert (found["n"], found["images"], found["accuracy"]) == (3, 2, pytest.approx(2 / 3))
    assert (found["image_removed"]["n"], found["image_removed"]["accuracy"]) == (3, 0.0)
    assert (found["sampled"]["n"], found["sampled"]["k"], found["sampled"]["accuracy"]) == (1, 2, 0.5)


def test_pass_at_k_matches_brute_force() -> None:
    right = {"a": [1, 0, 0, 1, 0], "b": [0, 0, 0, 0, 0], "c": [1, 1, 1, 1, 1], "d": [0, 0, 0, 0, 1]}
    lines = [line(id, "correct") for id in right]
    lines += [
        line(id, "correct" if hit else "wrong", sample=n + 1)
        for id, hits in right.items()
        for n, hit in enumerate(hits)
    ]
    found = scores(lines)["sampled"]
    assert found["accuracy"] == pytest.approx(8 / 20)
    for k in (1, 2, 4, 5):
        drawn = [any(each) for hits in right.values() for each in itertools.combinations(hits, k)]
        assert len(drawn) == 4 * comb(5, k)
        assert found["pass_at"][str(k)] == pytest.approx(np.mean(drawn))


def test_the_interval_of_a_mean_follows_the_number_of_clusters_and_not_of_rows() -> None:
    """Five rows of one image that stand and fall together are one observation."""
    rng = np.random.default_rng(0)
    of_cluster = rng.random(200)
    together = bootstrap(np.repeat(of_cluster, 5).tolist(), [str(n // 5) for n in range(1000)])
    half = 1.96 * of_cluster.std(ddof=1) / np.sqrt(200)
    assert together[1] == pytest.approx([of_cluster.mean() - half, of_cluster.mean() + half], abs=0.004)
    assert together[2] == pytest.approx(half / 1.96, rel=0.03)
    alone = bootstrap(np.repeat(of_cluster, 5).tolist(), [str(n) for n in range(1000)])
    assert alone[2] == pytest.approx(together[2] / np.sqrt(5), rel=0.05)


def test_the_bootstrap_of_clusters_matches_brute_force_over_all_resamples() -> None:
    values, clusters = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0], ["p", "p", "q", "r", "r", "r"]
    by_cluster = [[1.0, 0.0], [1.0], [1.0, 0.0, 0.0]]
    every = [np.mean(np.concatenate([by_cluster[n] for n in drawn])) for drawn in itertools.product(range(3), repeat=3)]
    mean, interval, error = bootstrap(values, clusters)
    assert mean == 0.5
    assert error == pytest.approx(np.std(every), rel=0.03)
    assert interval == pytest.approx(np.percentile(every, [2.5, 97.5], method="inverted_cdf"))


def test_rows_that_are_all_alike_do_not_make_a_certainty() -> None:
    mean, (low, high), error = bootstrap([0.0] * 50, [str(n) for n in range(50)])
    assert (mean, low) == (0.0, -high)
    assert high == pytest.approx(3.84 / (50 + 3.84), abs=0.001), "Wilson's upper end for none of 50"
    assert error > 0
