"""The page about a run, from a folder with the files that a run leaves, rollouts as TRL writes them."""

import html
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas
import pytest
from inputs import line, picture
from PIL import Image

from eval.data.images import pixels_digest
from eval.report.__main__ import main
from eval.report.page import POINTS, write_report
from eval.report.results import write_results
from eval.report.rows import AT_RANDOM, LONGEST, LONGEST_OF_ROW, ROWS
from eval.scores import scores

ATTACK = "<script>alert(1)</script>"
RIGHT = "<think>Two and two.</think><answer>4</answer>"
WRONG = "<think>Two and three.</think><answer>5</answer>"
Row = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without evaluation whose GRPO stage has two rewards, of weights 1 and 0.5, and no rollouts yet."""
    rewards = [{"use": "accuracy", "weight": 1.0}, {"use": "format", "weight": 0.5}]
    stages = [{"kind": "sft", "name": "sft"}, {"kind": "grpo", "name": "rl", "rewards": rewards}]
    model = {"path": "some/model", "revision": "abc"}
    recipe = {"name": "small", "model": model, "stages": stages, "evaluate": None}
    held = {"recipe": recipe, "processes": 2, "data": {"sft": "d1"}, "model": None, "rewards": {"mine.py": "d2"}}
    (tmp_path / "recipe.json").write_text(json.dumps({**held, "versions": {"trl": "1"}, "git": None}))
    for stage in stages:
        (tmp_path / stage["name"]).mkdir()
        done = {**stage, "steps": 3, "seconds": 4000.0, "rollouts": None}
        (tmp_path / stage["name"] / "COMPLETE").write_text(json.dumps(done))
        _log(tmp_path / stage["name"], [{"step": 1, "loss": 1.0}])
    return tmp_path


@pytest.fixture
def evaluate(run: Path) -> Callable[..., None]:
    """Writes what an evaluation of a task leaves: for each checkpoint, outcomes by row, in the order of the ids."""

    def evaluate(*, task: str = "task.yaml", images: dict[str, str] | None = None, **outcomes: list[str]) -> None:
        held = json.loads((run / "recipe.json").read_text())
        held["recipe"]["evaluate"] = {"tasks": [str(run / task)], "checkpoints": [*outcomes]}
        (run / "recipe.json").write_text(json.dumps(held))
        for name, of_rows in outcomes.items():
            folder = run / "eval" / name / "task"
            folder.mkdir(parents=True, exist_ok=True)
            lines = [
                line(f"r{n}", outcome, text=RIGHT if outcome == "correct" else WRONG)
                | {"image": (images or {}).get(f"r{n}")}
                for n, outcome in enumerate(of_rows)
            ]
            _save_lines(folder, lines)

    return evaluate


def _save_lines(folder: Path, lines: list[Row]) -> None:
    (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "scores.json").write_text(json.dumps(scores(lines)))


def _log(stage: Path, lines: list[Row]) -> None:
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _row(id: str, completion: str, accuracy: float | None, question: str = "2+2?", **columns: Any) -> Row:
    return {
        "prompt": [{"role": "system", "content": "Reason."}, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": completion}],
        "accuracy": accuracy,
        "format": 1.0,
        "answer": "4",
        "id": id,
        "advantage": None if accuracy is None else accuracy - 0.5,
        **columns,
    }


def _save(run: Path, step: int, rows: list[Row]) -> None:
    """As `GRPOTrainer.log` does: one DataFrame, `step` first, `advantage` last."""
    folder = run / "rl" / "completions"
    folder.mkdir(exist_ok=True)
    table = pandas.DataFrame([{"step": step, **row} for row in rows])
    table.to_parquet(folder / f"completions_{step:05d}.parquet")


def _page(run: Path) -> str:
    """The page without plotly's own source."""
    write_results(run)
    write_report(run)
    page = (run / "report.html").read_text()
    return page[page.index("<body>") :]


def _steps(page: str) -> list[str]:
    return re.findall(r'<details class="rollouts"><summary>(.*?)</summary>', page)


def _shown(page: str) -> list[str]:
    return re.findall(r"<article .*? · id (\w+)", page, re.DOTALL)


class _Tags(HTMLParser):
    """The elements of a page, with the names of their attributes; what is in them aside."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(tag)


def _ids(page: str) -> list[str]:
    return re.findall(r"id (\w+) ·", page)


def test_a_stage_without_saved_rollouts_has_no_section(run: Path) -> None:
    assert "Rollouts: " not in _page(run)


def test_a_rollout_is_shown_with_its_question_reference_parts_rewards_and_advantage(run: Path) -> None:
    _save(run, 7, [_row("q1", RIGHT, 1.0), _row("q1", WRONG, 0.0), _row("q2", WRONG, 0.0), _row("q2", WRONG, 0.0)])
    page = _page(run)
    assert re.findall(r"<h2>Rollouts: (.*?)</h2>", page) == ["rl"]
    assert _steps(page) == ["step 7: mean reward 0.75, 2 questions"]
    assert '<div class="asked"><strong>2+2?</strong></div>' in page
    assert "reference: 4 · id q1 · 2 of 2 completions" in page
    assert '<div class="answer">4</div><div class="think">Two and two.</div>' in page
    assert "accuracy 1 · format 1 · weighted sum 1.5 · advantage +0.50" in page
    assert "accuracy 0 · format 1 · weighted sum 0.5 · advantage -0.50" in page


def _with_words(run: Path, word: str) -> str:
    """The page of a run whose data and models say `word` wherever they say something."""
    said = {"answer": word, "id": word}
    row = _row("q1", f"<think>{word}</think><answer>{word}</answer>", 0.0, question=word)
    _save(run, 1, [row | said, _row("q2", f"{word}</details>", 0.0)])
    lines = [
        line(word, "wrong", question=word, gold=word, text=f"<think>{word}</think><answer>{word}</answer>"),
        line("b", "malformed", question=word, gold=word, text=f"{word}</article></details>"),
        line("c", "malformed", question=word, gold=word, text=word + "long" * 100, parse="missing_tag"),
    ]
    for name in ("sft", "rl"):
        _save_lines(run / "eval" / name / "task", lines)
    held = json.loads((run / "recipe.json").read_text())
    held |= {"data": {word: word}, "rewards": {word: word}, "git": word, "versions": {word: word}}
    held["recipe"]["model"]["path"] = word
    (run / "recipe.json").write_text(json.dumps(held))
    _log(run / "rl", [{"step": 1, f"rewards/{word}/mean": 1.0}])
    return _page(run)


def test_what_a_model_or_a_data_set_says_is_text_and_never_markup(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"], rl=["wrong"])
    harmless, page = _with_words(run, "word"), _with_words(run, ATTACK)
    assert ATTACK not in page
    in_rollouts, in_rows, of_the_run = 6, 7 + 4 + 4, 9
    assert page.count(html.escape(ATTACK)) == in_rollouts + in_rows + of_the_run
    [name] = [trace["name"] for data, layout in _plots(page) for trace in data if layout["title"]["text"] == "Rewards"]
    assert name == f"rewards/{html.escape(ATTACK)}/mean", "charts read markup in names"
    assert _Tags(page).found == _Tags(harmless).found
    assert page.count("</details>") == harmless.count("</details>")


def test_an_attack_in_a_quoted_attribute_stays_in_it(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"], rl=["wrong"])
    quoted = """x" onmouseover="alert(1)' """
    assert _Tags(_with_words(run, quoted)).found == _Tags(_with_words(run, "word")).found


def test_steps_are_spread_from_the_first_logged_to_the_last(run: Path) -> None:
    for step in [*range(99_610, 100_000, 10), 100_000]:  # by name, the last comes first
        _save(run, step, [_row("q1", RIGHT, 1.0)])
    steps = [int(summary.split()[1].rstrip(":")) for summary in _steps(_page(run))]
    assert (len(steps), steps[0], steps[-1]) == (12, 99_610, 100_000)
    assert steps == sorted(steps)
    assert {(b - a) // 10 for a, b in itertools.pairwise(steps[:-1])} == {3, 4}


def test_of_a_stage_that_runs_all_but_the_latest_step_are_shown(run: Path) -> None:
    for step in (9, 10, 11):
        _save(run, step, [_row("q1", RIGHT, 1.0)])
    (run / "rl" / "checkpoints").mkdir()
    (run / "rl" / "completions").rename(run / "rl" / "checkpoints" / "completions")
    (run / "rl" / "checkpoints" / "completions" / "completions_00011.parquet").write_bytes(b"PAR1 half of it")
    assert [summary.split(":")[0] for summary in _steps(_page(run))] == ["step 9", "step 10"]


def test_groups_with_the_most_contrast_come_first_and_ties_in_the_order_of_the_file(run: Path) -> None:
    """All ask the same words, as questions about different images do."""
    rewards = {"flat": "1111", "some": "0001", "half": "0011", "more": "0111", "fifty": "1010", "none": "0000"}
    _save(run, 1, [_row(id, RIGHT, float(each)) for id, group in rewards.items() for each in group])
    page = _page(run)
    assert _steps(page) == ["step 1: mean reward 1.00, 6 questions"]
    assert _ids(page) == ["half", "fifty", "some"]


def test_of_a_large_group_the_best_and_the_worst_completion_are_shown(run: Path) -> None:
    answers = {"a": 0.5, "b": 0.0, "c": None, "d": 0.25, "e": 1.0, "f": 0.75, "g": 0.1}
    _save(run, 1, [_row("q1", f"<think>Hm.</think><answer>{answer}</answer>", r) for answer, r in answers.items()])
    page = _page(run)
    assert "4 of 7 completions" in page
    assert re.findall(r'"answer">(\w)<', page) == ["e", "a", "g", "c"]


def test_rewards_that_no_function_gave_are_none_and_count_nowhere(run: Path) -> None:
    _save(run, 1, [_row("q1", RIGHT, 1.0), _row("q1", RIGHT, None, format=None)])
    page = _page(run)
    assert _steps(page) == ["step 1: mean reward 1.50, 1 question"]
    assert "accuracy none · format none · weighted sum none · advantage none" in page
    _save(run, 1, [_row("q1", RIGHT, None, format=None)])
    assert _steps(_page(run)) == ["step 1: mean reward none, 1 question"]


def test_prompts_with_images_and_rows_without_reference_are_shown(run: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    prompt = [{"role": "system", "content": [{"type": "text", "text": "Reason."}]}, {"role": "user", "content": parts}]
    row = {name: value for name, value in _row("", RIGHT, 1.0).items() if name not in ("id", "answer")}
    _save(run, 1, [{**row, "prompt": prompt}])
    page = _page(run)
    assert '<strong>How many?</strong></div>\n<div class="quiet">1 of 1 completions' in page
    assert "reference" not in page


def test_a_long_text_loses_its_middle(run: Path) -> None:
    text = "a" * LONGEST + "b" * LONGEST
    _save(run, 1, [_row("q1", f"<think>{text}</think><answer>4</answer>", 1.0), _row("q2", text, 0.0, question=text)])
    page = _page(run)
    shortened = "a" * (LONGEST // 2) + f" […{LONGEST} characters left out…] " + "b" * (LONGEST // 2)
    assert page.count(shortened) == 3
    assert "a" * (LONGEST // 2 + 1) not in page


def test_what_grpo_logs_is_drawn_and_what_it_never_measured_is_not(run: Path) -> None:
    shares = {"accuracy/number": 0.5, "outcome/correct": 0.5, "format_rate": 0.75, "frac_reward_zero_std": 0.5}
    lengths = {"completions/mean_length": 9.0, "completions/think_tokens": 7.0, "completions/answer_tokens": 2.0}
    sampled = {"dynamic_sampling/replaced": 0.25, "dynamic_sampling/unfilled": 0.0, "dynamic_sampling/rounds": 2.0}
    policy = {"entropy": 0.5, "kl": 0.01, "sampling/importance_sampling_ratio/mean": 1.0, "clip_ratio/low_mean": 0.0}
    once = {"reward": 1.0, "rewards/accuracy/mean": None}
    first = {**shares, **lengths, **sampled, **policy}
    _log(run / "rl", [{"step": 1, **once, **first}, {"step": 2, **first}, {"step": 2, "train_runtime": 1.0}])
    traces, charts = {}, {}
    for data, layout in _plots(_page(run)):
        traces |= {trace["name"]: trace for trace in data}
        charts[layout["title"]["text"]] = [trace["name"] for trace in data]
    assert charts == {
        "Rewards": ["reward"],
        "Accuracy by kind of answer": ["accuracy/number"],
        "Format and outcomes, share of completions": ["format_rate", "outcome/correct"],
        "Share of groups without contrast": [
            "frac_reward_zero_std",
            "dynamic_sampling/replaced",
            "dynamic_sampling/unfilled",
        ],
        "Dynamic sampling, further rounds": ["dynamic_sampling/rounds"],
        "Completion length, tokens": [
            "completions/mean_length",
            "completions/answer_tokens",
            "completions/think_tokens",
        ],
        "Entropy, nats": ["entropy"],
        "KL divergence from the reference model, nats": ["kl"],
        "Engine against trainer, importance ratio": ["sampling/importance_sampling_ratio/mean"],
    }
    assert (traces["kl"]["x"], traces["kl"]["y"]) == ([1, 2], [0.01, 0.01])
    assert traces["reward"]["mode"] == "markers", "a line through one point is not seen"


def test_of_a_long_curve_some_points_are_drawn_with_the_first_and_the_last(run: Path) -> None:
    _log(run / "sft", [{"step": n, "think_nll": 1.0} for n in range(1, 5001)])
    [data], _ = _plots(_page(run))[0]
    assert len(data["x"]) == POINTS
    assert (data["x"][0], data["x"][-1]) == (1, 5000)


def test_the_head_says_that_a_run_is_complete_and_what_was_run(run: Path) -> None:
    page = _page(run)
    assert '<span class="status correct">complete</span>' in page
    assert "The recipe evaluates nothing." in page
    assert re.findall(r'<th scope="row">(.*?)</th><td><code>(.*?)</code>', page) == [
        ("data sft", "d1"),
        ("model some/model", "a hub id, abc"),
        ("reward mine.py", "d2"),
    ]
    assert "<td>sft</td><td>3</td><td>1 h 6 min</td><td>2.22</td>" in page


def test_the_page_of_a_run_that_has_just_begun_says_so(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"], rl=["wrong"])
    for name in ("eval/sft/task", "eval/rl/task"):
        (run / name / "scores.json").unlink()
    for name in ("sft", "rl"):
        (run / name / "COMPLETE").unlink()
    _log(run / "sft", [{"step": 1230, "think_nll": 1.0}])
    (run / "rl" / "metrics.jsonl").unlink()
    page = _page(run)
    assert 'class="status warning">running: stage sft, step 1,230 (at ' in page
    assert "No checkpoint has been scored yet." in page
    assert "<td>1,230 so far</td><td>–</td><td>–</td>" in page
    assert "Nothing is logged yet." in page
    assert 'id="rows"' not in page


def test_the_page_of_a_run_that_is_being_evaluated_shows_what_is_scored(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong", "correct"], rl=["wrong", "wrong"])
    (run / "eval" / "rl" / "task" / "scores.json").unlink()
    page = _page(run)
    assert "running: evaluation, 1 of 2 checkpoints" in page
    assert "<div>sft on <strong>task</strong></div>" in page
    assert "Nothing before it to compare with." in page
    assert page.count('data-checkpoint="sft"') == 2
    assert 'data-checkpoint="rl"' not in page


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("wrong", "correct", "rl is better"),
        ("correct", "wrong", "sft is better"),
        ("wrong", "wrong", r"no difference shown \(one of \d+\.\d% would be found 4 times in 5\)"),
    ],
)
def test_no_more_is_claimed_than_the_interval_and_the_test_carry(
    run: Path, evaluate: Callable[..., None], before: str, after: str, said: str
) -> None:
    outcomes = ["correct", "wrong"] * 20
    evaluate(sft=[*outcomes, *[before] * 20], rl=[*outcomes, *[after] * 20])
    page = _page(run)
    assert re.findall(r"<strong>(.*?)\.</strong></p>", page), page
    [claimed] = re.findall(r"<strong>(.*?)\.</strong></p>", page)
    assert re.fullmatch(said, claimed)
    assert f'<td class="words">{claimed}</td>' in page
    accuracy = {"rl is better": "66.7%", "sft is better": "33.3%"}.get(claimed, "33.3%")
    assert f'<div class="figure">{accuracy}</div>' in page


def test_right_answers_in_a_wrong_form_are_marked(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["correct"] * 100)
    assert "possible gaming" not in _page(run)
    for lenient, marked in ((1, False), (2, True)):
        lines = [line(f"r{n}", "correct", text=RIGHT) for n in range(100 - lenient)]
        lines += [line(f"m{n}", "malformed", text="4", lenient="correct") for n in range(lenient)]
        _save_lines(run / "eval" / "sft" / "task", lines)
        page = _page(run)
        assert ("possible gaming of the form" in page) == marked
        assert f"<summary>{lenient}.0%</summary><div>missing tag: {lenient}</div>" in page
        assert page.count("a lenient reading: correct") == lenient


def test_all_rows_of_a_small_task_are_shown_and_greedy_responses_alone(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong"])
    lines = [line(f"r{n}", "wrong", text=WRONG) for n in range(ROWS)]
    lines += [line("r0", "wrong", text="<think>No image.</think><answer>5</answer>", image_removed=True)]
    lines += [line("r0", "wrong", text="<think>Drawn.</think><answer>5</answer>", sample=1)]
    _save_lines(run / "eval" / "sft" / "task", lines)
    page = _page(run)
    assert f"task: all {ROWS} rows." in page
    assert _shown(page) == [f"r{n}" for n in range(ROWS)]
    assert "No image." not in page
    assert "Drawn." not in page


def test_of_a_large_task_failed_and_changed_rows_come_first_and_then_chance(
    run: Path, evaluate: Callable[..., None]
) -> None:
    """Of 1,000 rows 40 were gained, 30 lost and 20 failed throughout: all of these are shown."""
    before = ["wrong"] * 40 + ["correct"] * 30 + ["wrong"] * 20 + ["correct"] * 910
    after = ["correct"] * 40 + ["wrong"] * 30 + ["wrong"] * 20 + ["correct"] * 910
    evaluate(sft=before, rl=after)
    page = _page(run)
    shown = _shown(page)
    assert len({*shown}) == len(shown) == ROWS
    assert {f"r{n}" for n in range(90)} <= {*shown}
    assert shown == sorted(shown, key=lambda id: int(id[1:])), "in the task's order"
    assert (
        "task: 200 of 1,000 rows: 50 of the 50 that the last checkpoint failed, 40 of the 40 others that were gained "
        "or lost on the way, and 110 drawn at random from the rest; shares among them are not the task&#39;s." in page
    )
    assert (page.count('data-changes="gained"'), page.count('data-changes="lost"')) == (40, 30)
    assert _shown(_page(run)) == shown, "chance is seeded"


def test_failed_and_changed_rows_share_the_places_and_chance_always_has_some(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong"] * 700 + ["correct"] * 300, rl=["wrong"] * 100 + ["correct"] * 900)
    page = _page(run)
    half = (ROWS - AT_RANDOM) // 2
    assert f"{half} of the 100 that the last checkpoint failed, {half} of the 600 others that were gained or" in page
    assert f"and {AT_RANDOM} drawn at random" in page
    shown = [int(id[1:]) for id in _shown(page)]
    assert len(shown) == ROWS
    assert half <= sum(number < 100 for number in shown) <= half + 10
    assert 5 <= sum(number >= 700 for number in shown) <= 40, "right throughout: a third of what is left"


def test_a_long_response_to_a_row_loses_its_middle(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"])
    text = "a" * LONGEST_OF_ROW + "b" * LONGEST_OF_ROW
    _save_lines(run / "eval" / "sft" / "task", [line("r0", "wrong", text=f"<think>{text}</think><answer>4</answer>")])
    page = _page(run)
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
    held, used = _images(_page(run))
    assert used == digests
    assert held.keys() == {*digests}
    assert all(re.fullmatch(r"data:image/(png|webp);base64,[\w+/]+=*", uri) for uri in held.values())

    picture(shown[3], 4)
    page = _page(run)
    assert _images(page)[1] == digests[:3]
    assert "1 of these without their images: its data are no longer what was asked" in page
    assert _shown(page) == [*by_row]


@pytest.mark.parametrize("lost", ["task.yaml", "rows.jsonl", "a.png"])
def test_rows_are_shown_without_images_when_their_data_have_moved(
    run: Path, evaluate: Callable[..., None], lost: str
) -> None:
    path = picture(run / "a.png", 1)
    _task(run, {"r0": path})
    evaluate(images={"r0": pixels_digest(Image.open(path))}, sft=["wrong"])
    (run / lost).unlink()
    page = _page(run)
    assert _shown(page) == ["r0"]
    assert _images(page) == ({}, [])
    assert re.search(rf"1 of these without their images: [^<]*{lost}", page)


def test_the_command_writes_results_and_page_and_names_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").stat().st_size < 5_500_000, "plotly, and hardly more"
    assert json.loads((run / "results.json").read_text())["complete"]


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        assert main([str(place)]) == 2
        assert capsys.readouterr().out == f"ERROR {place}: no run folder, since it holds no recipe.json\n"
    assert not [*tmp_path.iterdir()]


def _plots(page: str) -> list[tuple[list[Row], Row]]:
    """The data and the layout of each chart."""
    decoder, plots = json.JSONDecoder(), []
    for call in re.finditer(r"Plotly\.newPlot\(\s*\"[^\"]*\",\s*", page):
        data, end = decoder.raw_decode(page, call.end())
        layout, _ = decoder.raw_decode(page, page.index("{", end))
        plots.append((data, layout))
    return plots
