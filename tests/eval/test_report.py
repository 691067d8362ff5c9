"""The page about a run, from a folder with the files that a run leaves, rollouts as TRL writes them."""

import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from eval.report import LONGEST, write_report

ATTACK = "<script>alert(1)</script>"
RIGHT = "<think>Two and two.</think><answer>4</answer>"
WRONG = "<think>Two and three.</think><answer>5</answer>"
Row = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without evaluation whose GRPO stage has two rewards, of weights 1 and 0.5, and no rollouts yet."""
    rewards = [{"use": "accuracy", "weight": 1.0}, {"use": "format", "weight": 0.5}]
    stages = [{"kind": "sft", "name": "sft"}, {"kind": "grpo", "name": "rl", "rewards": rewards}]
    recipe = {"name": "small", "stages": stages, "evaluate": None}
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": recipe, "versions": {"trl": "1"}, "git": None}))
    done = [{**stage, "steps": 3, "seconds": 1.0, "rollouts": None} for stage in stages]
    results = {"name": "small", "stages": done, "checkpoints": {}, "comparisons": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    for name in ("sft", "rl"):
        (tmp_path / name).mkdir()
        _log(tmp_path / name, [{"step": 1, "loss": 1.0}])
    return tmp_path


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
    write_report(run)
    page = (run / "report.html").read_text()
    return page[page.index("<body>") :]


def _steps(page: str) -> list[str]:
    return re.findall(r"<summary>(.*?)</summary>", page)


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


def test_what_a_model_or_a_data_set_says_is_text_and_never_markup(run: Path) -> None:
    row = _row("q1", f"<think>{ATTACK}</think><answer>{ATTACK}</answer>", 0.0, question=ATTACK)
    row |= {"answer": ATTACK, "id": ATTACK}
    _save(run, 1, [row, _row("q2", f"{ATTACK}</details>", 0.0)])
    page = _page(run)
    assert ATTACK not in page
    assert page.count(html.escape(ATTACK)) == 6
    assert page.count("</details>") == 1


def test_steps_are_spread_from_the_first_logged_to_the_last(run: Path) -> None:
    for step in [*range(99_610, 100_000, 10), 100_000]:  # by name, the last comes first
        _save(run, step, [_row("q1", RIGHT, 1.0)])
    steps = [int(summary.split()[1].rstrip(":")) for summary in _steps(_page(run))]
    assert (len(steps), steps[0], steps[-1]) == (12, 99_610, 100_000)
    assert steps == sorted(steps)
    assert {(b - a) // 10 for a, b in itertools.pairwise(steps[:-1])} == {3, 4}


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


def _plots(page: str) -> list[tuple[list[Row], Row]]:
    """The data and the layout of each chart."""
    decoder, plots = json.JSONDecoder(), []
    for call in re.finditer(r"Plotly\.newPlot\(\s*\"[^\"]*\",\s*", page):
        data, end = decoder.raw_decode(page, call.end())
        layout, _ = decoder.raw_decode(page, page.index("{", end))
        plots.append((data, layout))
    return plots
