"""Two checkpoints on the same rows, against brute force, published formulas and simulated truth."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eval.compare import compare, main, verdict, with_holm
from tests.support.inputs import line


def lines(hits: Any, **columns: list[Any]) -> list[dict[str, Any]]:
    """One greedy line a row."""
    return [
        line(str(n), "correct" if hit else "wrong", **{name: values[n] for name, values in columns.items()})
        for n, hit in enumerate(hits)
    ]


def test_mcnemar_matches_brute_force() -> None:
    a, b = lines([n < 6 for n in range(12)]), lines([2 <= n < 12 for n in range(12)])
    found = compare([a], [b])
    assert (found["gained"], found["lost"], found["difference"]) == (6, 2, pytest.approx(4 / 12))
    flips = list(itertools.product([0, 1], repeat=8))
    assert found["mcnemar_p"] == pytest.approx(sum(abs(sum(flip) - 4) >= 2 for flip in flips) / len(flips))
    assert (found["a_accuracy"], found["b_accuracy"]) == (0.5, pytest.approx(10 / 12))


def test_the_paired_interval_matches_the_normal_one() -> None:
    rng = np.random.default_rng(0)
    a, b = lines(rng.random(1000) < 0.6), lines(rng.random(1000) < 0.7)
    found = compare([a], [b])
    right = [np.array([each["outcome"] == "correct" for each in side], dtype=float) for side in (a, b)]
    difference = right[1] - right[0]
    half = 1.96 * difference.std() / np.sqrt(1000)
    assert found["ci95"] == pytest.approx([difference.mean() - half, difference.mean() + half], abs=0.005)


def test_rows_of_one_image_are_one_observation() -> None:
    rng = np.random.default_rng(1)
    image = [str(n // 10) for n in range(1000)]
    hit = np.repeat(rng.random(100) < 0.5, 10)
    alone = compare([lines(np.zeros(1000))], [lines(hit)])
    together = compare([lines(np.zeros(1000), image=image)], [lines(hit, image=image)])
    assert (alone["images"], together["images"]) == (1000, 100)
    assert np.ptp(together["ci95"]) == pytest.approx(np.sqrt(10) * np.ptp(alone["ci95"]), rel=0.05)


def test_only_common_rows_are_compared() -> None:
    a, b = [line("a", "correct"), line("b", "wrong")], [line("b", "correct"), line("c", "correct")]
    found = compare([a], [b])
    assert (found["n"], found["only_in_one"], found["difference"]) == (1, 2, 1.0)
    with pytest.raises(ValueError, match="no row in common"):
        compare([a[:1]], [b])
    with pytest.raises(ValueError, match="row b is not the same question"):
        compare([a], [[{**b[0], "gold": "7"}]])


def test_no_difference_on_few_rows_is_not_a_certainty() -> None:
    found = compare([lines([1, 0, 1])], [lines([1, 0, 1])])
    low, high = found["ci95"]
    assert (found["difference"], found["mcnemar_p"]) == (0.0, 1.0)
    assert low < -0.5 < 0.5 < high
    assert verdict(found).startswith("no difference shown")


def test_sampled_responses_are_compared_by_their_means() -> None:
    a = [line("a", "correct", sample=1), line("a", "wrong", sample=2), line("b", "wrong", sample=1)]
    b = [line("a", "correct", sample=1), line("a", "correct", sample=2), line("b", "wrong", sample=1)]
    found = compare([a], [b], sampled=True)
    assert (found["n"], found["difference"]) == (2, 0.25)
    assert found["p"] == pytest.approx(1.0), "one row differs: either sign is as likely"
    assert "mcnemar_p" not in found


@pytest.mark.parametrize(("discordant", "points"), [(0.1, 1.97), (0.2, 2.79)])
def test_the_detectable_difference_is_the_one_of_the_power_formula(discordant: float, points: float) -> None:
    """ScienceQA's 2,017 questions, (1.96 + 0.84) * sqrt(discordant / n)."""
    changed = round(2017 * discordant)
    a = np.arange(2017) % 2 < 2 - (np.arange(2017) < changed) * (np.arange(2017) % 2)
    a = np.where(np.arange(2017) < changed, np.arange(2017) % 2 == 0, True)
    b = np.where(np.arange(2017) < changed, np.arange(2017) % 2 == 1, True)
    assert 100 * compare([lines(a)], [lines(b)])["detectable"] == pytest.approx(points, abs=0.04)


def test_a_detectable_difference_is_found_four_times_in_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.scores.RESAMPLES", 1000)
    rng = np.random.default_rng(2)
    n, discordant, difference, found = 600, 0.2, 2.8016 * np.sqrt(0.2 / 600), 0
    for _ in range(200):
        draw = rng.random(n)
        gained, lost = draw < (discordant + difference) / 2, draw > 1 - (discordant - difference) / 2
        low, high = compare([lines(lost)], [lines(gained)])["ci95"]
        found += not low <= 0 <= high
    assert 0.72 < found / 200 < 0.88


def test_holm_matches_its_definition() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    found = [each["holm_p"] for each in with_holm([{"p": each} for each in p])]
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert "holm_p" not in with_holm([{"ci95": [0, 1]}])[0]


def test_a_verdict_needs_the_interval_and_the_corrected_test() -> None:
    found = {"ci95": [0.01, 0.05], "p": 0.03, "holm_p": 0.03, "detectable": 0.02}
    assert verdict(found) == "B is better"
    assert verdict({**found, "ci95": [-0.05, -0.01]}) == "A is better"
    assert verdict({**found, "holm_p": 0.06}).startswith("no difference shown (one of 2.0%")
    assert verdict({**found, "ci95": [0.0, 0.05]}).startswith("no difference shown")


def test_pooled_rows_deny_the_truth_and_intervals_over_seeds_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and training seeds both vary: of 150 experiments without any true difference, at most 6% may deny it."""
    monkeypatch.setattr("eval.scores.RESAMPLES", 200)
    rng = np.random.default_rng(3)
    denied = pooled = 0
    for _ in range(150):
        hard = rng.normal(0, 1, 200)
        runs = [[lines(rng.random(200) < 1 / (1 + np.exp(hard + rng.normal(0, 0.4)))) for _ in range(3)] for _ in "ab"]
        found = compare(*runs)
        denied += not found["ci95"][0] <= 0 <= found["ci95"][1]
        errors = [compare([a], [b])["standard_error"] for a, b in zip(*runs, strict=True)]
        half = 1.96 * np.mean(errors) / np.sqrt(3)  # as if three runs were three times the rows
        pooled += abs(found["difference"]) > half
    assert denied / 150 <= 0.06
    assert pooled / 150 > 0.2


def test_an_interval_over_seeds_is_the_two_margins_in_quadrature_and_p_where_it_ends_at_nothing() -> None:
    rng = np.random.default_rng(4)
    runs = [[lines(rng.random(300) < rate + rng.normal(0, 0.02)) for _ in range(4)] for rate in (0.5, 0.62)]
    found = compare(*runs)
    right = np.array([[[each["outcome"] == "correct" for each in one] for one in side] for side in runs], dtype=float)
    difference = right[1] - right[0]
    of_seeds = stats.t.ppf(0.975, 3) * difference.mean(axis=1).std(ddof=1) / 2
    of_rows = stats.t.ppf(0.975, 299) * difference.mean(axis=0).std() / np.sqrt(300)
    half = np.hypot(of_seeds, of_rows)
    assert found["ci95"] == pytest.approx([difference.mean() - half, difference.mean() + half], rel=1e-6)
    level = stats.t.isf(found["p"] / 2, [3, 299])
    ends = np.hypot(level[0] * of_seeds / stats.t.ppf(0.975, 3), level[1] * of_rows / stats.t.ppf(0.975, 299))
    assert ends == pytest.approx(found["difference"], rel=1e-6)
    assert (found["p"] < 0.05) is (found["ci95"][0] > 0)


def test_intervals_stay_within_what_a_difference_can_be() -> None:
    found = compare([lines([0] * 9), lines([0] * 4 + [1] * 5)], [lines([1] * 9), lines([1] * 5 + [0] * 4)])
    assert found["ci95"] == [-1.0, 1.0]
    assert "two seeds show little" in verdict({**found, "detectable": 0.5})
    assert verdict({**found, "detectable": 1.5}) == "no difference shown, and none could be with so few rows and seeds"
    for hits in ([1] * 20, [0] * 20):
        low, high = compare([lines(hits)] * 3, [lines([1] * 20)] * 3)["ci95"]
        assert -1 <= low < high <= 1, "seeds that are all alike are no certainty"


def test_a_sign_flip_over_images_is_mcnemars_test_where_each_row_is_alone() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(400) < 0.5, rng.random(400) < 0.57
    greedy = compare([lines(a)], [lines(b)])
    once = [[{**each, "sample": 1} for each in lines(side)] for side in (a, b)]
    assert compare([once[0]], [once[1]], sampled=True)["p"] == pytest.approx(greedy["p"], abs=0.02)


def test_a_sign_flip_matches_brute_force_over_all_signs() -> None:
    images = list("aabbbccdd")
    a, b = lines([0, 0, 1, 0, 0, 1, 0, 0, 0], image=images), lines([1, 1, 1, 1, 1, 1, 1, 0, 1], image=images)
    by_image = [2, 2, 1, 1]
    flips = [abs(sum(sign * size for sign, size in zip(signs, by_image, strict=True))) >= 6
             for signs in itertools.product([-1, 1], repeat=4)]  # fmt: skip
    assert compare([a], [b])["p"] == pytest.approx(sum(flips) / len(flips), abs=0.015)


def test_a_verdict_of_sampled_responses_needs_a_test_of_its_own() -> None:
    """An interval of few rows alone leaves 0 out far too often."""
    found = {"ci95": [0.01, 0.05], "detectable": 0.02}
    assert verdict(found).startswith("no difference shown")


def test_seeds_are_paired_and_each_is_reported() -> None:
    a = [lines([1, 0, 0, 0]), lines([1, 1, 0, 0])]
    b = [lines([1, 1, 1, 0]), lines([1, 1, 1, 0])]
    found = compare(a, b)
    assert found["difference"] == pytest.approx(0.375)
    assert [(seed["difference"], seed["gained"]) for seed in found["seeds"]] == [(0.5, 2), (0.25, 1)]
    with pytest.raises(ValueError, match="2 runs against 1"):
        compare(a, b[:1])


def test_what_no_test_could_find_is_not_promised() -> None:
    """A sign-flip over five images has no p below 1/16; nor has McNemar's on eight rows one below 0.05 / 10."""
    image = [str(n // 10) for n in range(50)]
    few = compare([lines(np.arange(50) % 3 == 0, image=image)], [lines(np.arange(50) % 2 == 0, image=image)])
    assert few["detectable"] > 1
    eight = compare([lines([0] * 8)], [lines([1] * 8)])
    assert verdict(eight) == "B is better"
    assert {verdict(each) for each in with_holm([eight] * 10)} == {
        "no difference shown, and none could be with so few rows and seeds"
    }


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("ends", [(0, 1), (1, 1), (-1, 1)])
def test_images_that_are_all_alike_are_no_certainty(seeds: int, ends: tuple[int, int]) -> None:
    image = [str(n // 2) for n in range(24)]
    differ = np.array(ends * 12)
    a, b = (lines(side, image=image) for side in (differ < 0, differ > 0))
    found = compare([a] * seeds, [b] * seeds)
    low, high = found["ci95"]
    assert low < found["difference"] < high or found["difference"] == high == 1.0
    assert found["detectable"] > 0.05
    assert 0 <= found["p"] <= 1


# --- the command ------------------------------------------------------------------------------------------------------


def _evaluation(folder: Path, **tasks: list[dict[str, Any]]) -> Path:
    for task, each in tasks.items():
        (folder / task).mkdir(parents=True)
        (folder / task / "completions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in each))
    return folder


def test_the_command_prints_and_writes_every_common_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = _evaluation(tmp_path / "run" / "eval" / "grpo", digits=lines([1] * 40), other=lines([1]))
    recipe = {"recipe": {"evaluate": {"checkpoints": ["base", "grpo"]}}}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(recipe))
    a = _evaluation(tmp_path / "a", digits=lines([n % 2 for n in range(40)]), letters=lines([1]))
    assert main([str(a), str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "digits, greedy: B is better" in printed
    written = json.loads((tmp_path / "comparison.json").read_text())
    [found] = written["comparisons"]
    assert (found["task"], found["gained"], found["lost"], found["holm_p"]) == ("digits", 20, 0, found["mcnemar_p"])
    assert main([str(a / "digits" / "completions.jsonl"), str(run / "digits" / "completions.jsonl")]) == 0
    assert main([str(a), str(a), "--against", str(run), str(run), "--out", "seeds.json"]) == 0
    assert len(json.loads((tmp_path / "seeds.json").read_text())["comparisons"][0]["seeds"]) == 2


def test_the_command_names_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = _evaluation(tmp_path / "a", digits=lines([1]))
    assert main([str(a), str(tmp_path / "none")]) == 2
    assert "no evaluation here" in capsys.readouterr().out
    assert main([str(a), str(_evaluation(tmp_path / "b", letters=lines([1])))]) == 2
    assert "no task in common: digits against letters" in capsys.readouterr().out


def test_the_command_says_what_is_left_out_and_what_was_not_made_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a = _evaluation(tmp_path / "a", digits=lines([1] * 40))
    b = _evaluation(tmp_path / "b", digits=lines([1] * 37))
    made = {"checkpoint": "c1", "dtype": "float32", "grader": "g1", "decoding": {"max_new_tokens": 8}}
    other = {
        "checkpoint": "c2",
        "dtype": "bfloat16",
        "grader": "g1",
        "decoding": {"max_new_tokens": 9, "samples": 4, "seed": 1},
    }
    for folder, each in ((a, made), (b, other)):
        (folder / "digits" / "scores.json").write_text(json.dumps({"made": {"identity": each}}))
    assert main([str(a), str(b)]) == 0
    printed = capsys.readouterr().out
    assert "left out: 3 rows that not all of them have" in printed
    assert "WARNING not made alike, which may be the difference: dtype, max_new_tokens\n" in printed
    (b / "digits" / "scores.json").write_text("torn {")
    assert main([str(a), str(b)]) == 0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no line; there is nothing to compare"),
        ('{"id": "a"', "line 1 is no JSON object"),
        ("[]\n", "line 1 is no JSON object"),
        ('{"id": "a"}\n', "line 1 has no 'sample'"),
        ("\x00\xff\n", "line 1 is no JSON object"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str) -> None:
    a = _evaluation(tmp_path / "a", digits=lines([1]))
    b = _evaluation(tmp_path / "b", digits=lines([1]))
    (b / "digits" / "completions.jsonl").write_text(content, encoding="latin-1")
    assert main([str(a), str(b), "--out", str(tmp_path / "out.json")]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith(f"ERROR {b / 'digits' / 'completions.jsonl'}: ")
    assert said in printed
    assert printed.count("\n") == 1
