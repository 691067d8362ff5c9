"""The page about a run in a real browser: it fetches nothing, and each filter shows just the rows that it names."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from datasets import Dataset, Features, Image, List, Value

from eval.data.rows import read
from eval.decode import Decoded
from eval.grade import graded
from eval.report.__main__ import main
from eval.respond import _line
from eval.scores import scores
from eval.task import Task, load_task
from pipeline.checkpoint.run_folder import RunFolder
from tests.support.inputs import picture

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]

ATTACK = """</script></details><script>window.hacked = 1</script><img src=x onerror="window.hacked=2">'"&amp;"""
CHECKPOINTS = ("base", "sft", "rl")
# What each checkpoint says: right, wrong, malformed (with the right answer in it), truncated.
ANSWERED = {
    "shapes": {"s0": "rrr", "s1": "wrr", "s2": "rww", "s3": "wrw", "s4": "mwr", "s5": "ttw"},
    "sums": {"n0": "www", "n1": "mmr", "n2": "rrw", "n3": "www"},
}
OUTCOMES = {"r": "correct", "w": "wrong", "m": "malformed", "t": "truncated"}
EVERY = {id for rows in ANSWERED.values() for id in rows}
LONG = "All of it, step by step. " * 400


def _decoded(row: dict[str, Any], code: str) -> Decoded:
    think = {"s0": LONG, "n3": ATTACK}.get(row["id"], f"Think of {row['id']}: zebra {code}.")
    said = {"r": row["answer"], "w": f"{ATTACK}9" if row["id"] == "n3" else "99"}
    text = {"m": f"The answer is {row['answer']}", "t": f"<think>{think}"}
    return Decoded(text.get(code) or f"<think>{think}</think><answer>{said[code]}</answer>", code == "t", 30, 4)


def _completions(task: Task, checkpoint: int) -> list[dict[str, Any]]:
    """Greedy, sampled the other way round, and with images removed, as `eval.evaluate` writes them."""
    decoder: Any = SimpleNamespace(chat=SimpleNamespace(prompt_text=lambda question, _: question))
    lines = []
    for row in read(task):
        code = ANSWERED[task.name][row["id"]][checkpoint]
        lines.append(_line(decoder, row, _decoded(row, code), 0, False, False))
        lines += [
            _line(decoder, row, _decoded(row, "w" if code == "r" else "r"), draw, False, False) for draw in (1, 2)
        ]
        if row.get("images"):
            lines.append(_line(decoder, {**row, "images": []}, _decoded(row, "m"), 0, True, False))
    return graded(lines)


def _tasks(folder: Path) -> list[str]:
    """One with images, of which the first two rows share one, and one without."""
    shown = [picture(folder / f"{n}.png", max(n, 1), (300, 500) if n == 5 else (56, 56)) for n in range(6)]
    rows = [
        {"id": f"s{n}", "question": f"What is shape {n}?\nA. one\nB. two", "answer": str(n + 20), "images": [str(path)]}
        for n, path in enumerate(shown)
    ]
    text = Value("string")
    features = Features(id=text, question=text, answer=text, images=List(Image()))
    Dataset.from_list(rows, features=features).to_parquet(folder / "shapes.parquet")
    sums = [{"id": f"n{n}", "question": f"{n}+1? {ATTACK if n == 3 else ''}", "answer": str(n + 1)} for n in range(4)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    for name, file in (("shapes", "shapes.parquet"), ("sums", "sums.jsonl")):
        (folder / f"{name}.yaml").write_text(f"name: {name}\npath: {file}\nmax_new_tokens: 64\n")
    return [str(folder / f"{name}.yaml") for name in ANSWERED]


def _stages(folder: RunFolder) -> list[dict[str, Any]]:
    stages = [
        {"kind": "sft", "name": "sft", "trainer": {}},
        {"kind": "grpo", "name": "rl", "trainer": {}, "rewards": [{"use": "accuracy", "weight": 1.0}]},
    ]
    for stage in stages:
        folder.model(stage["name"]).mkdir(parents=True)
        (folder.model(stage["name"]) / "config.json").write_text("{}")
        result = {"name": stage["name"], "kind": stage["kind"], "steps": 40, "seconds": 4000.0}
        folder.complete(stage["name"], {**result, "rollouts": "vllm" if stage["kind"] == "grpo" else None})
        logged = [
            {"step": n, "think_nll": 1 / n, "answer_nll": 2 / n, "reward": n / 40, "rewards/accuracy/mean": n / 50}
            | {f"outcome/{outcome}": n / 80 for outcome in OUTCOMES.values()}
            for n in range(1, 41)
        ]
        (folder.stage(stage["name"]) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    said = [f"<think>{ATTACK}</think><answer>4</answer>", "<think>Hm.</think><answer>5</answer>"]
    rollouts = [
        {
            "step": 1,
            "prompt": [{"role": "user", "content": f"2+2? {ATTACK}"}],
            "completion": [{"role": "assistant", "content": text}],
            "accuracy": float(n == 0),
            "answer": "4",
            "id": "q",
            "advantage": 0.5 - n,
        }
        for n, text in enumerate(said)
    ]
    (folder.stage("rl") / "completions").mkdir()
    pandas.DataFrame(rollouts).to_parquet(folder.stage("rl") / "completions" / "completions_00001.parquet")
    return stages


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with two stages, three checkpoints and two tasks."""
    run = tmp_path_factory.mktemp("runs") / "small"
    tasks = _tasks(tmp_path_factory.mktemp("data"))
    stages = _stages(RunFolder(run))
    recipe = {
        "name": "small",
        "model": {"path": "some/model", "revision": None},
        "stages": stages,
        "evaluate": {"tasks": tasks, "checkpoints": [*CHECKPOINTS]},
    }
    held = {
        "recipe": recipe,
        "processes": 2,
        "data": {"sft": "0" * 64},
        "model": None,
        "rewards": {"mine.py": "1" * 64},
    }
    (run / "recipe.json").write_text(json.dumps({**held, "versions": {"trl": "1.16.0"}, "git": "abc1234"}))
    for number, checkpoint in enumerate(CHECKPOINTS):
        for task in map(load_task, tasks):
            folder = run / "eval" / checkpoint / task.name
            folder.mkdir(parents=True)
            lines = _completions(task, number)
            (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            made = {"task": task.model_dump()}
            (folder / "scores.json").write_text(json.dumps({**scores(lines), "made": made}))
    assert main([str(run)]) == 0
    return run / "report.html"


@pytest.fixture
def page(report: Path) -> Iterator[Any]:
    """The page, loaded without a network. Whatever it asks for beside itself, or complains about, is a failure."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    wrong: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*root, *quiet, "--no-first-run"])
        context = browser.new_context(offline=True, color_scheme="light", viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: _is_inside(request.url, report) or wrong.append(request.url))
        page.goto(report.as_uri())
        yield page
        assert page.evaluate("window.hacked") is None
        browser.close()
    assert not wrong


def _is_inside(url: str, report: Path) -> bool:
    file = url.partition("#")[0]
    return url.startswith("data:") or (file.startswith(report.parent.as_uri()) and file.endswith("/report.html"))


def _until(page: Any, condition: str) -> None:
    """Playwright's own `wait_for_function` needs `eval`, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {condition}")


def _shown(page: Any) -> set[str]:
    """The ids of the rows that can be seen; what the page says of their number is checked on the way."""
    found = page.locator("article:visible .asked .quiet").all_text_contents()
    assert page.locator("output").inner_text() == f"{len(found)} of {len(EVERY)} rows shown"
    assert page.locator("#nothing").is_visible() == (not found)
    return {text.partition("id ")[2].split()[0] for text in found}


def _set(page: Any, **choices: str) -> set[str]:
    page.get_by_role("button", name="Clear").click()
    _until(page, "!location.hash.includes('?')")
    for label, choice in choices.items():
        field = page.get_by_label({"Changed": "Changed between checkpoints"}.get(label, label), exact=True)
        field.fill(choice) if label == "Text" else field.select_option(choice)
    return _shown(page)


def test_each_filter_shows_just_the_rows_that_it_names(page: Any) -> None:
    assert _shown(page) == EVERY
    for task, rows in ANSWERED.items():
        assert _set(page, Task=task) == {*rows}
    codes = {id: code for rows in ANSWERED.values() for id, code in rows.items()}
    for number, checkpoint in enumerate(CHECKPOINTS):
        assert _set(page, Checkpoint=checkpoint) == EVERY
        assert page.locator(".response.chosen").count() == len(EVERY)
        for code, outcome in OUTCOMES.items():
            expected = {id for id, each in codes.items() if each[number] == code}
            assert _set(page, Checkpoint=checkpoint, Outcome=outcome) == expected
    assert _set(page, Outcome="malformed") == {"s4", "n1"}
    assert _set(page, Outcome="failed", Checkpoint="rl") == {"s2", "s3", "s5", "n0", "n2", "n3"}
    assert _set(page, Changed="gained") == {"s1", "s3", "s4", "n1"}
    assert _set(page, Changed="lost") == {"s2", "s3", "n2"}
    assert _set(page, Changed="any") == {"s1", "s2", "s3", "s4", "n1", "n2"}
    assert _set(page, Text="  Zebra\tR. ") == {"s1", "s2", "s3", "s4", "n1", "n2"}, "blanks and case do not matter"
    assert _set(page, Text="onerror=") == {"n3"}
    assert _set(page, Text="no such words") == set()
    assert _set(page, Task="shapes", Checkpoint="sft", Outcome="correct", Changed="lost", Text="shape 3") == {"s3"}


def test_the_address_brings_the_filters_back(page: Any) -> None:
    chosen = {"Task": "sums", "Checkpoint": "rl", "Outcome": "wrong", "Text": "99"}
    assert _set(page, **chosen) == {"n0", "n2"}
    assert page.evaluate("location.hash") == "#rows?task=sums&checkpoint=rl&outcome=wrong&text=99"
    page.reload()
    assert _shown(page) == {"n0", "n2"}
    assert page.get_by_label("Text").input_value() == "99"
    assert page.get_by_label("Outcome", exact=True).input_value() == "wrong"
    page.get_by_role("link", name="Curves").click()
    _until(page, "location.hash.startsWith('#curves?')")
    page.reload()
    assert _shown(page) == {"n0", "n2"}
    page.evaluate("location.hash = '#rows?task=nonsense&change=lost'")
    _until(page, "document.querySelector('[name=change]').value === 'lost'")
    assert _shown(page) == {"s2", "s3", "n2"}


def test_filters_work_by_keyboard_and_every_field_has_a_label(page: Any) -> None:
    page.get_by_label("Task").focus()
    page.keyboard.press("ArrowDown")
    assert _shown(page) == {*ANSWERED["shapes"]}
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.type("shape 3")
    page.keyboard.press("Enter")  # submits nothing
    assert _shown(page) == {"s3"}
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    _until(page, "!location.hash.includes('?')")
    assert _shown(page) == EVERY
    assert page.evaluate("[...document.querySelectorAll('select, input')].every(field => field.labels.length === 1)")
    assert page.evaluate("[...document.querySelectorAll('th')].every(cell => cell.scope)")


def test_each_image_is_held_once_shown_wherever_it_is_used_and_small(page: Any) -> None:
    _until(page, "[...document.images].every(image => image.complete && image.naturalWidth)")
    sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
    assert sizes == [[56, 56]] * 5 + [[256, 154]]
    held = page.evaluate("JSON.parse(document.getElementById('images').textContent)")
    assert len(held) == 5, "two rows share one"
    sources = page.evaluate("[...document.images].map(image => image.src)")
    assert sources[0] == sources[1]
    assert {*sources} == {*held.values()}


def test_a_change_of_colour_scheme_repaints_page_and_charts(page: Any) -> None:
    def colours() -> list[tuple[int, ...]]:
        found = page.evaluate(
            """() => [
                getComputedStyle(document.body).backgroundColor,
                ...[...document.querySelectorAll(".plotly-graph-div .gtitle, .plotly-graph-div .legendtext")]
                    .map(text => getComputedStyle(text).fill),
            ]"""
        )
        return [tuple(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) for colour in found]

    background, *light = colours()
    assert len(light) > 10
    assert min(background) > 240
    assert all(max(text) < 60 for text in light)
    page.emulate_media(color_scheme="dark")
    _until(page, "document.querySelector('.gtitle').style.fill !== 'rgb(27, 31, 36)'")
    background, *dark = colours()
    assert max(background) < 40
    assert len(dark) == len(light)
    assert all(min(text) > 200 for text in dark)


def test_a_phone_scrolls_tables_inside_their_box_and_never_the_page(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for summary in page.locator("summary:visible").all():
        summary.click()
    page.wait_for_timeout(500)  # charts follow the window with a delay
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
    )
    assert wide >= 2
    charts = page.evaluate(
        "[...document.querySelectorAll('.plotly-graph-div svg.main-svg')].map(svg => svg.clientWidth)"
    )
    assert max(charts) <= 390


def test_a_page_about_a_damaged_run_says_so_and_works(page: Any, report: Path) -> None:
    run = report.parent / "damaged"
    shutil.copytree(report.parent, run, ignore=shutil.ignore_patterns("damaged", "report.html"))
    for path in run.glob("eval/*/shapes/scores.json"):
        path.write_text(json.dumps({"accuracy": 0.5, "sampled": {"accuracy": 0.25}}))
    (run / "eval" / "sft" / "sums" / "completions.jsonl").unlink()
    (run / "sft" / "metrics.jsonl").write_text('{"step": 1, "think_nll": NaN}\n{"step": 2, "think_nll": 1.0}\n')
    (run / "rl" / "completions" / "completions_00001.parquet").write_bytes(b"PAR1")
    assert main([str(run)]) == 0
    page.goto((run / "report.html").as_uri())
    page.get_by_role("link", name="What is missing").click()
    assert page.locator("#missing li").count() == 8
    assert page.locator("#missing").is_visible()
    assert page.locator(".plotly-graph-div svg.main-svg").count() > 4
    _until(page, "[...document.images].every(image => image.complete && image.naturalWidth)")
    assert _shown(page) == EVERY
    assert _set(page, Checkpoint="sft") == {*ANSWERED["shapes"]}
