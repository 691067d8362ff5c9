"""The page about a run that is damaged or was killed: it opens, shows what is there, and says what is missing."""

import html
import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from eval.data.images import pixels_digest
from eval.report.__main__ import main
from eval.report.card import write_cards
from eval.report.results import print_summary, write_results
from tests.support.inputs import picture
from tests.support.reports import RIGHT, WRONG, log, rollout, save_rollouts

SCORES, COMPLETIONS = "eval/rl/task/scores.json", "eval/rl/task/completions.jsonl"
ROLLOUTS = "rl/completions/completions_00001.parquet"


@pytest.fixture
def whole(run: Path, evaluate: Callable[..., None]) -> Path:
    """A finished run with everything: two checkpoints, rows with images, curves, rollouts."""
    shown = [picture(run / f"{name}.png", number) for number, name in enumerate("abcd", 1)]
    rows = [{"id": f"r{n}", "question": f"r{n}?", "answer": "4", "images": [str(path)]} for n, path in enumerate(shown)]
    (run / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "task.yaml").write_text("name: task\npath: rows.jsonl\nmax_new_tokens: 9\n")
    digests = {f"r{n}": pixels_digest(Image.open(path)) for n, path in enumerate(shown)}
    evaluate(images=digests, sft=["wrong", "correct", "wrong", "wrong"], rl=["correct", "correct", "wrong", "correct"])
    for stage in ("sft", "rl"):
        log(run / stage, [{"step": n, "think_nll": 1 / n, "reward": n / 9} for n in range(1, 4)])
    for step in (1, 2, 3):
        save_rollouts(run, step, [rollout("q1", RIGHT, 1.0), rollout("q1", WRONG, 0.0)])
    return run


def _missing(page: str) -> str:
    """The section that says it, as text; empty where there is none."""
    found = re.search(r'<section id="missing">.*?</section>', page, re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", found[0])) if found else ""


def _no_constant(word: str) -> None:
    raise AssertionError(f"results.json holds {word}, which is no JSON")


def _reported(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """The page and results.json, made by the command; the summary and the cards are made on the way."""
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = (run / "report.html").read_text(encoding="utf-8")
    results = json.loads((run / "results.json").read_text(), parse_constant=_no_constant)
    write_cards(run, results)
    print_summary(run)
    assert "report:" in capsys.readouterr().out
    return page[page.index("<body>") :], results


def _cut(path: Path, by: int = 20) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def _lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n", encoding="utf-8")


def _json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def _keep(path: Path, *names: str) -> None:
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key in names}))


def _without(path: Path, *names: str) -> None:
    _lines(path, lambda lines: [json.dumps({k: v for k, v in json.loads(o).items() if k not in names}) for o in lines])


def _other_columns(path: Path) -> None:
    pandas.DataFrame({"step": [1], "text": ["a"]}).to_parquet(path)


def _other_types(path: Path) -> None:
    table = pandas.read_parquet(path)
    pandas.DataFrame({name: ["a"] * len(table) for name in table.columns}).to_parquet(path)


def _dying(run: Path) -> None:
    (run / "rl" / "COMPLETE").unlink()
    shutil.rmtree(run / "eval")
    _cut(run / "rl" / "metrics.jsonl", 5)


# What is done to a whole run, and what the page says is missing.
DAMAGE: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "metrics torn at the end": (lambda run: _cut(run / "sft/metrics.jsonl"), "sft/metrics.jsonl: line 3 is no JSON"),
    "metrics torn within": (
        lambda run: _lines(run / "sft/metrics.jsonl", lambda lines: [lines[0], lines[1][:7], lines[2]]),
        "sft/metrics.jsonl: line 2 is no JSON",
    ),
    "metrics of a dying run": (_dying, "rl/metrics.jsonl: its last line is cut"),
    "metrics empty": (lambda run: (run / "sft/metrics.jsonl").write_text(""), "sft/metrics.jsonl: is empty"),
    "metrics gone": (lambda run: (run / "sft/metrics.jsonl").unlink(), "sft/metrics.jsonl: is not there"),
    "metrics a folder": (
        lambda run: [(run / "sft/metrics.jsonl").unlink(), (run / "sft/metrics.jsonl").mkdir()],
        "sft/metrics.jsonl: cannot be read: Is a directory",
    ),
    "a line of metrics is a list": (
        lambda run: _lines(run / "sft/metrics.jsonl", lambda lines: ["[1]", "3", "null", *lines]),
        "sft/metrics.jsonl: 3 of its lines are no JSON objects and are left out, the first is line 1",
    ),
    "a line of metrics is nested without end": (
        lambda run: _lines(run / "sft/metrics.jsonl", lambda lines: ["[" * 100_000, *lines]),
        "sft/metrics.jsonl: line 1 is no JSON",
    ),
    "metrics without steps": (
        lambda run: log(run / "sft", [{"think_nll": 1.0}, {"step": "two", "think_nll": 1.0}]),
        "sft/metrics.jsonl: 2 of its lines have no step and are left out",
    ),
    "metrics with NaN": (
        lambda run: (run / "sft/metrics.jsonl").write_text(
            '{"step": 1, "think_nll": NaN}\n{"step": 2, "think_nll": Infinity, "answer_nll": null}\n{"step": 3, '
            '"think_nll": 0.5}\n'
        ),
        "sft/metrics.jsonl: 2 values are NaN or infinite and are left out of the curves, the first is think_nll at "
        "step 1",
    ),
    "metrics with NULs, as after a power cut": (
        lambda run: (run / "sft/metrics.jsonl").open("ab").write(b"\0" * 512),
        "sft/metrics.jsonl: line 4 is no JSON",
    ),
    "metrics not UTF-8": (
        lambda run: (run / "sft/metrics.jsonl").open("ab").write(b'{"step": 4, "note": "\xff"}\n'),
        "sft/metrics.jsonl: line 4 is no JSON",
    ),
    "COMPLETE torn": (lambda run: _cut(run / "sft/COMPLETE"), "sft/COMPLETE: is no JSON"),
    "COMPLETE empty": (lambda run: (run / "sft/COMPLETE").write_text(""), "sft/COMPLETE: is no JSON"),
    "COMPLETE without keys": (
        lambda run: (run / "sft/COMPLETE").write_text("{}"),
        "sft/COMPLETE: lacks steps, seconds, files",
    ),
    "COMPLETE a list": (lambda run: (run / "sft/COMPLETE").write_text("[]"), "sft/COMPLETE: is no JSON object"),
    "scores torn": (lambda run: _cut(run / SCORES), f"{SCORES}: is no JSON"),
    "scores not UTF-8": (lambda run: (run / SCORES).write_bytes(b"\xff\xfe{"), f"{SCORES}: is no JSON"),
    "scores without accuracy": (
        lambda run: _keep(run / SCORES, "n", "ci95"),
        f"{SCORES}: lacks accuracy, and is not shown",
    ),
    "scores with accuracy alone": (
        lambda run: _keep(run / SCORES, "accuracy"),
        f"{SCORES}: lacks n, ci95, malformed, truncated, think_tokens, answer_tokens, wellformed, lenient, majority, "
        "made",
    ),
    "scores of older code": (
        lambda run: _json(run / SCORES, lambda held: [held.pop(key, None) for key in ("sampled", "lenient", "made")]),
        f"{SCORES}: lacks lenient, made",
    ),
    "scores of other types": (
        lambda run: _json(
            run / SCORES,
            lambda held: held.update(
                n="many", ci95=0.5, malformed_reasons=[1], lenient=[], wellformed={"n": {}}, majority=True, made=[]
            ),
        ),
        f"{SCORES}: cannot be used: ",
    ),
    "scores with NaN": (
        lambda run: _json(run / SCORES, lambda held: held.update(majority=float("nan"), n=float("inf"))),
        f"{SCORES}: cannot be used: n, majority",
    ),
    "scores gone": (lambda run: (run / SCORES).unlink(), f"{SCORES}: is not there"),
    "completions gone": (lambda run: (run / COMPLETIONS).unlink(), f"{COMPLETIONS}: is not there"),
    "completions torn at the end": (lambda run: _cut(run / COMPLETIONS), f"{COMPLETIONS}: line 4 is no JSON"),
    "completions empty": (lambda run: (run / COMPLETIONS).write_text(""), f"{COMPLETIONS}: is empty"),
    "completions without outcomes": (
        lambda run: _without(run / COMPLETIONS, "outcome"),
        f"{COMPLETIONS}: 4 of its lines lack outcome or have it of another type, and are left out",
    ),
    "completions without texts": (
        lambda run: _without(run / COMPLETIONS, "text", "lenient", "parse", "think_tokens"),
        f"{COMPLETIONS}: lacks the text of some rows",
    ),
    "completions with other types": (
        lambda run: _lines(
            run / COMPLETIONS, lambda lines: [json.dumps({**json.loads(o), "id": ["r"], "text": 5}) for o in lines]
        ),
        f"{COMPLETIONS}: 4 of its lines lack id",
    ),
    "completions of other questions": (
        lambda run: _lines(
            run / COMPLETIONS, lambda lines: [json.dumps({**json.loads(o), "gold": "9"}) for o in lines]
        ),
        "eval/rl/task: not compared with sft: row r0 ",
    ),
    "completions of other rows": (
        lambda run: _lines(
            run / COMPLETIONS,
            lambda lines: [json.dumps({**json.loads(o), "id": f"x{n}"}) for n, o in enumerate(lines)],
        ),
        "eval/rl/task: not compared with sft: no row in common",
    ),
    "completions with a raw separator": (
        lambda run: _lines(
            run / COMPLETIONS,
            lambda lines: [lines[0].replace("Two and two", "Two\u2028and\u0085two"), *lines[1:]],
        ),
        None,
    ),
    "completions with half a surrogate": (
        lambda run: _lines(run / COMPLETIONS, lambda lines: [lines[0].replace("Two and", "\\ud800"), *lines[1:]]),
        None,
    ),
    "rollouts corrupt": (lambda run: (run / ROLLOUTS).write_bytes(b"PAR1 nothing"), f"{ROLLOUTS}: cannot be read: "),
    "rollouts empty": (lambda run: (run / ROLLOUTS).write_bytes(b""), f"{ROLLOUTS}: cannot be read: "),
    "rollouts truncated": (lambda run: _cut(run / ROLLOUTS, 900), f"{ROLLOUTS}: cannot be read: "),
    "rollouts with other columns": (
        lambda run: _other_columns(run / ROLLOUTS),
        f"{ROLLOUTS}: lacks the columns advantage, completion, prompt",
    ),
    "rollouts with other types": (lambda run: _other_types(run / ROLLOUTS), f"{ROLLOUTS}: holds no rollouts as "),
    "rollouts without rows": (
        lambda run: pandas.read_parquet(run / ROLLOUTS).iloc[:0].to_parquet(run / ROLLOUTS),
        f"{ROLLOUTS}: has no row",
    ),
    "rollouts without a reward": (
        lambda run: pandas.read_parquet(run / ROLLOUTS).drop(columns="format").to_parquet(run / ROLLOUTS),
        f"{ROLLOUTS}: holds no rollouts as TRL writes them: answer is '4'",
    ),
    "stray files": (
        lambda run: [
            (run / name).write_text("notes")
            for name in (
                "eval/.DS_Store",
                "eval/notes.txt",
                "eval/rl/notes.txt",
                "rl/completions/completions_x.parquet",
                "rl/completions/completions_00001.parquet.tmp",
                "rl/completions/.DS_Store",
            )
        ],
        None,
    ),
    "a stage's folder gone": (lambda run: shutil.rmtree(run / "sft"), "sft: the stage's folder is not there"),
    "a stage's folder a file": (
        lambda run: [shutil.rmtree(run / "sft"), (run / "sft").write_text("")],
        "sft: the stage's folder is not there",
    ),
    "a model gone": (lambda run: shutil.rmtree(run / "sft/model"), "sft/model: is not there"),
    "held-out data gone": (lambda run: (run / "rows.jsonl").unlink(), "data of task task: 4 of 4 rows without"),
    "held-out data edited": (
        lambda run: _lines(run / "rows.jsonl", lambda lines: lines[1:]),
        "data of task task: 1 of 4 rows without their images: its data are no longer what was asked",
    ),
    "held-out data no rows": (lambda run: (run / "rows.jsonl").write_text("{"), "data of task task: 4 of 4 rows"),
    "an image cut": (lambda run: _cut(run / "a.png", 30), "data of task task: 1 of 4 rows without their images: a.png"),
    "an image no image": (
        lambda run: (run / "a.png").write_text("no"),
        "data of task task: 1 of 4 rows without their images: a.png: no JPEG",
    ),
    "the task's file gone": (lambda run: (run / "task.yaml").unlink(), "task task.yaml: "),
    "the task's file damaged": (lambda run: (run / "task.yaml").write_bytes(b"\xff: ["), "task task.yaml: "),
    "results torn": (lambda run: (run / "results.json").write_text('{"name": "sm'), None),
    "results a list": (lambda run: (run / "results.json").write_text("[]"), None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_has_a_page_that_says_what_is_missing(
    whole: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    change, said = DAMAGE[damage]
    change(whole)
    page, _ = _reported(whole, capsys)
    assert (said or "") in " ".join(_missing(page).split())
    assert bool(_missing(page)) == bool(said)
    assert str(whole) not in page
    assert 'id="curves"' in page


def test_a_sound_run_has_no_such_section(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, results = _reported(whole, capsys)
    assert (_missing(page), results["missing"], results["complete"]) == ("", [], True)
    assert "#missing" not in page
    assert page.count("data-image=") == 4


def test_a_run_with_everything_damaged_at_once_has_a_page(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, _ in DAMAGE.values():
        with suppress(OSError, ValueError, KeyError, AttributeError):  # an earlier one left nothing to damage
            change(whole)
    _reported(whole, capsys)


def test_each_file_of_a_run_but_the_recipe_may_hold_anything(
    whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.scores.RESAMPLES", 10)
    files = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and path.name != "recipe.json"}
    for path, held in files.items():
        path.write_bytes(b"{}\n\x00\xff\xfe noise")
        write_cards(whole, write_results(whole))
        path.write_bytes(held)
    for content in (b"", b"\x00\xff\xfe noise", b"{}", b"[1]\n[2]\n", b'"text"\n', b"NaN\n"):
        for path in files:
            path.write_bytes(content)
        capsys.readouterr()
        _reported(whole, capsys)
        for path, held in files.items():
            path.write_bytes(held)
    for path in files:
        path.unlink()
    _reported(whole, capsys)


def test_the_head_and_the_result_say_what_damage_has_done(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / COMPLETIONS).unlink()
    page, results = _reported(whole, capsys)
    assert results["complete"]
    assert "It could not be compared with what was before it: see what is missing." in page
    (whole / SCORES).write_text("{")
    page, _ = _reported(whole, capsys)
    assert "damaged: evaluation, 1 of 2 checkpoints<" in page
    assert "Nothing before it to compare with." in page
    (whole / "sft/COMPLETE").write_text("{")
    page, _ = _reported(whole, capsys)
    assert "damaged: stage sft<" in page


def test_a_number_that_is_not_known_is_absent_and_never_zero(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _keep(whole / SCORES, "accuracy")
    (whole / "sft/COMPLETE").write_text("{}")
    (whole / "sft/metrics.jsonl").unlink()
    page, results = _reported(whole, capsys)
    assert results["checkpoints"]["rl"]["task"] == {"accuracy": 0.75}
    assert (results["stages"][0]["steps"], results["stages"][0]["seconds"]) == (None, None)
    row = re.search(r'<th scope="row">rl</th><td>greedy</td>.*?</tr>', page, re.DOTALL)
    assert row is not None
    cells = [
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", cell)).strip()
        for cell in re.findall("<td>.*?</td>", row[0], re.DOTALL)
    ]
    assert cells == ["greedy", "75.0%", *["–"] * (len(cells) - 2)]
    csv = (whole / "results.csv").read_text().splitlines()
    assert csv[2].strip(",") == "rl,task,0.75" or ",0.75," in csv[2]
    assert "0.0%" not in row[0]


def test_a_dying_run_says_its_torn_line_quietly(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _dying(whole)
    page, results = _reported(whole, capsys)
    assert [each["usual"] for each in results["missing"]] == [True]
    section = page[page.index('<section id="missing">') :].partition("</section>")[0]
    assert '<p class="quiet">' in section
    assert "<li>" not in section
    assert "<h2>" not in section
    assert 'href="#missing"' not in page
    assert "running: stage rl, step 2 (at " in page
    capsys.readouterr()
    print_summary(whole)
    assert "metrics" not in capsys.readouterr().out


def test_a_damaged_recipe_is_one_line(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = json.loads((whole / "recipe.json").read_text())
    broken = [
        b"",
        b'{"recipe": {"name": "sm',
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"recipe": []}',
        b'{"recipe": {"name": "a", "stages": [], "evaluate": null}}',
        json.dumps({**recipe, "recipe": {**recipe["recipe"], "stages": [1]}}).encode(),
        json.dumps({**recipe, "recipe": {**recipe["recipe"], "evaluate": {"tasks": "a"}}}).encode(),
        json.dumps({**recipe, "recipe": {**recipe["recipe"], "model": "a"}}).encode(),
    ]
    for content in broken:
        (whole / "recipe.json").write_bytes(content)
        assert main([str(whole)]) == 2, content
        printed = capsys.readouterr().out
        assert printed.startswith(f"ERROR {whole / 'recipe.json'}: "), printed
        assert printed.count("\n") == 1


def test_a_recipe_of_before_with_less_about_itself_is_read(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = json.loads((whole / "recipe.json").read_text())
    (whole / "recipe.json").write_text(json.dumps({"recipe": stored["recipe"]}))
    page, _ = _reported(whole, capsys)
    assert "0 processes" not in page


def test_a_page_that_cannot_be_written_is_one_line(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "report.html.part").mkdir()
    assert main([str(whole)]) == 2
    assert capsys.readouterr().out == f"ERROR {whole / 'report.html.part'}: cannot be written: Is a directory\n"
