"""Which rows the page shows, and what of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from eval.data.images import pixels_digest
from eval.report.rows import AT_RANDOM, LONGEST_OF_ROW, ROWS
from tests.support.inputs import line, picture
from tests.support.reports import WRONG, page_of, rows_shown, save_lines


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
    assert "1 of 4 rows without their images: its data are no longer what was asked" in page
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
    assert re.search(r"1 of 1 rows without their images: \w", page)
    assert re.search(rf'<section id="missing">.*\b{lost}.*</section>', page, re.DOTALL)
    assert str(run) not in page
