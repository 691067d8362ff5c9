"""Which rollouts and rows the page shows, and what of them."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from eval.data.images import pixels_digest
from eval.report.rows import AT_RANDOM, LONGEST, LONGEST_OF_ROW, ROWS
from tests.support.inputs import line, picture
from tests.support.reports import RIGHT, WRONG, page_of, rollout, rows_shown, save_lines, save_rollouts, steps_shown


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


def test_all_rows_of_a_small_task_are_shown_and_greedy_responses_alone(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong"])
    lines = [line(f"r{n}", "wrong", text=WRONG) for n in range(ROWS)]
    lines += [line("r0", "wrong", text="<think>No image.</think><answer>5</answer>", image_removed=True)]
    lines += [line("r0", "wrong", text="<think>Drawn.</think><answer>5</answer>", sample=1)]
    save_lines(run / "eval" / "sft" / "task", lines)
    page = page_of(run)
    assert f"task: all {ROWS} rows." in page
    assert rows_shown(page) == [f"r{n}" for n in range(ROWS)]
    assert "No image." not in page
    assert "Drawn." not in page


def test_of_a_large_task_failed_and_changed_rows_come_first_and_then_chance(
    run: Path, evaluate: Callable[..., None]
) -> None:
    """Of 1,000 rows 40 were gained, 30 lost and 20 failed throughout: all of these are shown."""
    before = ["wrong"] * 40 + ["correct"] * 30 + ["wrong"] * 20 + ["correct"] * 910
    after = ["correct"] * 40 + ["wrong"] * 30 + ["wrong"] * 20 + ["correct"] * 910
    evaluate(sft=before, rl=after)
    page = page_of(run)
    shown = rows_shown(page)
    assert len({*shown}) == len(shown) == ROWS
    assert {f"r{n}" for n in range(90)} <= {*shown}
    assert shown == sorted(shown, key=lambda id: int(id[1:])), "in the task's order"
    assert (
        "task: 200 of 1,000 rows: 50 of the 50 that the last checkpoint failed, 40 of the 40 others that were gained "
        "or lost on the way, and 110 drawn at random from the rest; shares among them are not the task&#39;s." in page
    )
    assert (page.count('data-changes="gained"'), page.count('data-changes="lost"')) == (40, 30)
    assert rows_shown(page_of(run)) == shown, "chance is seeded"


def test_failed_and_changed_rows_share_the_places_and_chance_always_has_some(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong"] * 700 + ["correct"] * 300, rl=["wrong"] * 100 + ["correct"] * 900)
    page = page_of(run)
    half = (ROWS - AT_RANDOM) // 2
    assert f"{half} of the 100 that the last checkpoint failed, {half} of the 600 others that were gained or" in page
    assert f"and {AT_RANDOM} drawn at random" in page
    shown = [int(id[1:]) for id in rows_shown(page)]
    assert len(shown) == ROWS
    assert half <= sum(number < 100 for number in shown) <= half + 10
    assert 5 <= sum(number >= 700 for number in shown) <= 40, "right throughout: a third of what is left"


def test_a_long_response_to_a_row_loses_its_middle(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"])
    text = "a" * LONGEST_OF_ROW + "b" * LONGEST_OF_ROW
    save_lines(run / "eval" / "sft" / "task", [line("r0", "wrong", text=f"<think>{text}</think><answer>4</answer>")])
    page = page_of(run)
    assert f" […{LONGEST_OF_ROW} characters left out…] " in page
    assert "a" * (LONGEST_OF_ROW // 2 + 1) not in page


def _task(run: Path, images: dict[str, Path]) -> None:
    (run / "task.yaml").write_text("name: task\npath: rows.jsonl\nmax_new_tokens: 9\n")
    rows = [{"id": id, "question": f"{id}?", "answer": "4", "images": [str(path)]} for id, path in images.items()]
    (run / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _images(page: str) -> tuple[dict[str, str], list[str]]:
    """Those that the page holds by name, and the names where they are used."""
    held = re.search(r'<script type="application/json" id="images">(.*?)</script>', page)
    assert held is not None
    return json.loads(held[1]), re.findall(r'data-image="(\w+)"', page)


def test_an_image_is_held_once_and_only_as_it_was_when_it_was_asked_about(
    run: Path, evaluate: Callable[..., None]
) -> None:
    shown = [picture(run / f"{name}.png", number) for name, number in (("a", 1), ("b", 1), ("c", 2), ("d", 3))]
    digests = [pixels_digest(Image.open(path)) for path in shown]
    assert digests[0] == digests[1]
    by_row = {f"r{n}": path for n, path in enumerate(shown)}
    _task(run, by_row)
    evaluate(images=dict(zip(by_row, digests, strict=True)), sft=["wrong"] * 4, rl=["correct"] * 4)
    held, used = _images(page_of(run))
    assert used == digests
    assert held.keys() == {*digests}
    assert all(re.fullmatch(r"data:image/(png|webp);base64,[\w+/]+=*", uri) for uri in held.values())

    picture(shown[3], 4)
    page = page_of(run)
    assert _images(page)[1] == digests[:3]
    assert "1 of these without their images: its data are no longer what was asked" in page
    assert rows_shown(page) == [*by_row]


@pytest.mark.parametrize("lost", ["task.yaml", "rows.jsonl", "a.png"])
def test_rows_are_shown_without_images_when_their_data_have_moved(
    run: Path, evaluate: Callable[..., None], lost: str
) -> None:
    path = picture(run / "a.png", 1)
    _task(run, {"r0": path})
    evaluate(images={"r0": pixels_digest(Image.open(path))}, sft=["wrong"])
    (run / lost).unlink()
    page = page_of(run)
    assert rows_shown(page) == ["r0"]
    assert _images(page) == ({}, [])
    assert re.search(rf"1 of these without their images: [^<]*{lost}", page)
