"""Which rollouts the page shows, and what of them."""

import itertools
import re
from pathlib import Path

from eval.report.rollouts import LONGEST
from tests.support.reports import RIGHT, page_of, rollout, save_rollouts, steps_shown


def _ids(page: str) -> list[str]:
    return re.findall(r"id (\w+) ·", page)


def test_steps_are_spread_from_the_first_logged_to_the_last(run: Path) -> None:
    for step in [*range(99_610, 100_000, 10), 100_000]:  # by name, the last comes first
        save_rollouts(run, step, [rollout("q1", RIGHT, 1.0)])
    steps = [int(summary.split()[1].rstrip(":")) for summary in steps_shown(page_of(run))]
    assert (len(steps), steps[0], steps[-1]) == (12, 99_610, 100_000)
    assert steps == sorted(steps)
    assert {(b - a) // 10 for a, b in itertools.pairwise(steps[:-1])} == {3, 4}


def test_of_a_stage_that_runs_all_but_the_latest_step_are_shown(run: Path) -> None:
    for step in (9, 10, 11):
        save_rollouts(run, step, [rollout("q1", RIGHT, 1.0)])
    (run / "rl" / "checkpoints").mkdir()
    (run / "rl" / "completions").rename(run / "rl" / "checkpoints" / "completions")
    (run / "rl" / "checkpoints" / "completions" / "completions_00011.parquet").write_bytes(b"PAR1 half of it")
    assert [summary.split(":")[0] for summary in steps_shown(page_of(run))] == ["step 9", "step 10"]


def test_groups_with_the_most_contrast_come_first_and_ties_in_the_order_of_the_file(run: Path) -> None:
    """All ask the same words, as questions about different images do."""
    rewards = {"flat": "1111", "some": "0001", "half": "0011", "more": "0111", "fifty": "1010", "none": "0000"}
    save_rollouts(run, 1, [rollout(id, RIGHT, float(each)) for id, group in rewards.items() for each in group])
    page = page_of(run)
    assert steps_shown(page) == ["step 1: mean reward 1.00, 6 questions"]
    assert _ids(page) == ["half", "fifty", "some"]


def test_of_a_large_group_the_best_and_the_worst_completion_are_shown(run: Path) -> None:
    answers = {"a": 0.5, "b": 0.0, "c": None, "d": 0.25, "e": 1.0, "f": 0.75, "g": 0.1}
    save_rollouts(
        run, 1, [rollout("q1", f"<think>Hm.</think><answer>{answer}</answer>", r) for answer, r in answers.items()]
    )
    page = page_of(run)
    assert "4 of 7 completions" in page
    assert re.findall(r'"answer">(\w)<', page) == ["e", "a", "g", "c"]


def test_rewards_that_no_function_gave_are_none_and_count_nowhere(run: Path) -> None:
    save_rollouts(run, 1, [rollout("q1", RIGHT, 1.0), rollout("q1", RIGHT, None, format=None)])
    page = page_of(run)
    assert steps_shown(page) == ["step 1: mean reward 1.50, 1 question"]
    assert "accuracy none · format none · weighted sum none · advantage none" in page
    save_rollouts(run, 1, [rollout("q1", RIGHT, None, format=None)])
    assert steps_shown(page_of(run)) == ["step 1: mean reward none, 1 question"]


def test_prompts_with_images_and_rows_without_reference_are_shown(run: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    prompt = [{"role": "system", "content": [{"type": "text", "text": "Reason."}]}, {"role": "user", "content": parts}]
    row = {name: value for name, value in rollout("", RIGHT, 1.0).items() if name not in ("id", "answer")}
    save_rollouts(run, 1, [{**row, "prompt": prompt}])
    page = page_of(run)
    assert '<strong>How many?</strong></div>\n<div class="quiet">1 of 1 completions' in page
    assert "reference" not in page


def test_a_long_text_loses_its_middle(run: Path) -> None:
    text = "a" * LONGEST + "b" * LONGEST
    save_rollouts(
        run,
        1,
        [rollout("q1", f"<think>{text}</think><answer>4</answer>", 1.0), rollout("q2", text, 0.0, question=text)],
    )
    page = page_of(run)
    shortened = "a" * (LONGEST // 2) + f" […{LONGEST} characters left out…] " + "b" * (LONGEST // 2)
    assert page.count(shortened) == 3
    assert "a" * (LONGEST // 2 + 1) not in page
