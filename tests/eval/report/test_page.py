"""The page about a run, from a folder with the files that a run leaves."""

import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval.report.page import POINTS
from tests.support.inputs import line
from tests.support.reports import RIGHT, WRONG, Row, log, page_of, rollout, save_lines, save_rollouts, steps_shown

ATTACK = "<script>alert(1)</script>"


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


def test_a_stage_without_saved_rollouts_has_no_section(run: Path) -> None:
    assert "Rollouts: " not in page_of(run)


def test_a_rollout_is_shown_with_its_question_reference_parts_rewards_and_advantage(run: Path) -> None:
    save_rollouts(
        run,
        7,
        [rollout("q1", RIGHT, 1.0), rollout("q1", WRONG, 0.0), rollout("q2", WRONG, 0.0), rollout("q2", WRONG, 0.0)],
    )
    page = page_of(run)
    assert re.findall(r"<h2>Rollouts: (.*?)</h2>", page) == ["rl"]
    assert steps_shown(page) == ["step 7: mean reward 0.75, 2 questions"]
    assert '<div class="asked"><strong>2+2?</strong></div>' in page
    assert "reference: 4 · id q1 · 2 of 2 completions" in page
    assert '<div class="answer">4</div><div class="think">Two and two.</div>' in page
    assert "accuracy 1 · format 1 · weighted sum 1.5 · advantage +0.50" in page
    assert "accuracy 0 · format 1 · weighted sum 0.5 · advantage -0.50" in page


def _with_words(run: Path, word: str) -> str:
    """The page of a run whose data and models say `word` wherever they say something."""
    said = {"answer": word, "id": word}
    row = rollout("q1", f"<think>{word}</think><answer>{word}</answer>", 0.0, question=word)
    save_rollouts(run, 1, [row | said, rollout("q2", f"{word}</details>", 0.0)])
    lines = [
        line(word, "wrong", question=word, gold=word, text=f"<think>{word}</think><answer>{word}</answer>"),
        line("b", "malformed", question=word, gold=word, text=f"{word}</article></details>"),
        line("c", "malformed", question=word, gold=word, text=word + "long" * 100, parse="missing_tag"),
    ]
    for name in ("sft", "rl"):
        save_lines(run / "eval" / name / "task", lines)
    held = json.loads((run / "recipe.json").read_text())
    held |= {"data": {word: word}, "rewards": {word: word}, "git": word, "versions": {word: word}}
    held["recipe"]["model"]["path"] = word
    (run / "recipe.json").write_text(json.dumps(held))
    log(run / "rl", [{"step": 1, f"rewards/{word}/mean": 1.0}])
    return page_of(run)


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


def test_what_grpo_logs_is_drawn_and_what_it_never_measured_is_not(run: Path) -> None:
    shares = {"accuracy/number": 0.5, "outcome/correct": 0.5, "format_rate": 0.75, "frac_reward_zero_std": 0.5}
    lengths = {"completions/mean_length": 9.0, "completions/think_tokens": 7.0, "completions/answer_tokens": 2.0}
    sampled = {"dynamic_sampling/replaced": 0.25, "dynamic_sampling/unfilled": 0.0, "dynamic_sampling/rounds": 2.0}
    policy = {"entropy": 0.5, "kl": 0.01, "sampling/importance_sampling_ratio/mean": 1.0, "clip_ratio/low_mean": 0.0}
    once = {"reward": 1.0, "rewards/accuracy/mean": None}
    first = {**shares, **lengths, **sampled, **policy}
    log(run / "rl", [{"step": 1, **once, **first}, {"step": 2, **first}, {"step": 2, "train_runtime": 1.0}])
    traces, charts = {}, {}
    for data, layout in _plots(page_of(run)):
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
    log(run / "sft", [{"step": n, "think_nll": 1.0} for n in range(1, 5001)])
    [data], _ = _plots(page_of(run))[0]
    assert len(data["x"]) == POINTS
    assert (data["x"][0], data["x"][-1]) == (1, 5000)


def test_the_head_says_that_a_run_is_complete_and_what_was_run(run: Path) -> None:
    page = page_of(run)
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
    log(run / "sft", [{"step": 1230, "think_nll": 1.0}])
    (run / "rl" / "metrics.jsonl").unlink()
    page = page_of(run)
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
    page = page_of(run)
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
    page = page_of(run)
    assert re.findall(r"<strong>(.*?)\.</strong></p>", page), page
    [claimed] = re.findall(r"<strong>(.*?)\.</strong></p>", page)
    assert re.fullmatch(said, claimed)
    assert f'<td class="words">{claimed}</td>' in page
    accuracy = {"rl is better": "66.7%", "sft is better": "33.3%"}.get(claimed, "33.3%")
    assert f'<div class="figure">{accuracy}</div>' in page


def _forms(run: Path, checkpoint: str, right: int, lenient: int, malformed: int = 0, truncated: int = 0) -> None:
    """A checkpoint's responses: right, right in a wrong form, malformed, and truncated ones."""
    lines = [line(f"r{n}", "correct", text=RIGHT) for n in range(right)]
    lines += [line(f"l{n}", "malformed", text="4", lenient="correct") for n in range(lenient)]
    lines += [line(f"m{n}", "malformed", text="5") for n in range(malformed)]
    lines += [line(f"t{n}", "truncated", text="<think>", parse="missing_tag") for n in range(truncated)]
    save_lines(run / "eval" / checkpoint / "task", lines)


GAMING, UNLEARNED = "possible gaming of the form", "the model has not learned the form"


def test_right_answers_in_a_wrong_form_are_marked(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["correct"] * 100)
    assert GAMING not in page_of(run)
    for lenient, marked in ((1, False), (2, True)):
        _forms(run, "sft", 100 - lenient, lenient)
        page = page_of(run)
        assert (GAMING in page) == marked
        assert UNLEARNED not in page
        assert f"<summary>{lenient}.0%</summary><div>missing tag: {lenient}</div>" in page
        assert page.count("a lenient reading: correct") == lenient


def test_a_model_that_never_learned_the_form_is_not_said_to_game_it(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(base=["wrong"], sft=["wrong"], rl=["wrong"])
    _forms(run, "base", 0, 30, 68, 2)
    _forms(run, "sft", 49, 51)
    _forms(run, "rl", 49, 51)
    page = page_of(run)
    assert GAMING not in page
    assert page.count(f"{UNLEARNED} (98.0% malformed, 2.0% truncated)") == 1, "of the base, in the table"
    assert page.count(f"{UNLEARNED} (51.0% malformed)") == 3, "in the table twice, and on the card of the last"
    card = page[page.index('class="card"') : page.index("</section>")]
    assert f"A lenient reading: +51.0 points; <strong>{UNLEARNED} (51.0% malformed)</strong>." in card


@pytest.mark.parametrize("learned", ["base", "sft", "rl"])
def test_a_model_that_had_learned_the_form_may_game_it(run: Path, evaluate: Callable[..., None], learned: str) -> None:
    """Half of the responses of it, or of a checkpoint before it, are in the right form."""
    order = ["base", "sft", "rl"]
    evaluate(**{name: ["wrong"] for name in order})
    for name in order:
        _forms(run, name, 50 if name == learned else 20, 50 if name == learned else 80)
    page = page_of(run)
    after = len(order) - order.index(learned)
    assert page.count(GAMING) == after + 1, "and on the card of the last"
    assert page.count(UNLEARNED) == 3 - after
    assert page.count(f'<strong class="warning">⚠ {GAMING}</strong>') == after + 1


def test_a_later_checkpoint_teaches_an_earlier_one_nothing_in_whatever_order_they_are_asked(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(rl=["wrong"], base=["wrong"])
    _forms(run, "rl", 90, 10)
    _forms(run, "base", 10, 90)
    page = page_of(run)
    assert page.count(f"{UNLEARNED} (90.0% malformed)") == 2
    assert page.count(GAMING) == 1


def test_what_is_not_known_of_the_form_is_not_claimed(run: Path, evaluate: Callable[..., None]) -> None:
    """Scores of older code, and prompts to which there was no response."""
    evaluate(rl=["wrong"])
    _forms(run, "rl", 30, 10, 60)
    path = run / "eval/rl/task/scores.json"
    whole = json.loads(path.read_text())
    for changed, said in (
        ({"wellformed": None}, False),
        ({"n": None}, False),
        ({"too_long": 0.5}, False),
        ({"too_long": 0.3}, True),
        ({"too_long": 1.0}, False),
    ):
        path.write_text(json.dumps({**whole, **changed}))
        assert (UNLEARNED in page_of(run)) == said, changed
    path.write_text(json.dumps({key: value for key, value in whole.items() if key not in ("malformed", "truncated")}))
    assert f"<strong>{UNLEARNED}</strong>" in page_of(run)


def test_prompts_beyond_the_context_have_a_column_where_there_are_any(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"], rl=["wrong"])
    head = '<th scope="col">too long</th>'
    assert head not in page_of(run)
    for share, shown in ((0.0, False), (0.25, True)):
        scores = json.loads((run / "eval/rl/task/scores.json").read_text())
        (run / "eval/rl/task/scores.json").write_text(json.dumps({**scores, "too_long": share}))
        page = page_of(run)
        assert (head in page) == shown
    rows = re.findall(r'<th scope="row">(\w+)</th><td>greedy</td>.*?</tr>', page, re.DOTALL)
    assert rows == ["sft", "rl"]
    table = page[page.index(head) : page.index("To read accuracy with")]
    assert table.count("25.0%") == 1


def test_comparisons_have_one_column_of_p_and_say_which_test_it_is(run: Path, evaluate: Callable[..., None]) -> None:
    evaluate(sft=["wrong"] * 10 + ["correct"] * 5, rl=["correct"] * 15)
    page = page_of(run)
    [found] = json.loads((run / "results.json").read_text())["comparisons"]
    assert f"<td>{found['p']:.2g} ({found['holm_p']:.2g})</td>" in page
    assert found["p"] == found["mcnemar_p"]
    assert '<th scope="col">p (Holm)</th>' in page
    assert (
        "Intervals: paired bootstrap over images. p: exact McNemar where each row has its own image, else a sign-flip "
        "test over images; in brackets corrected by Holm over all comparisons of the page." in page
    )


def _plots(page: str) -> list[tuple[list[Row], Row]]:
    """The data and the layout of each chart."""
    decoder, plots = json.JSONDecoder(), []
    for call in re.finditer(r"Plotly\.newPlot\(\s*\"[^\"]*\",\s*", page):
        data, end = decoder.raw_decode(page, call.end())
        layout, _ = decoder.raw_decode(page, page.index("{", end))
        plots.append((data, layout))
    return plots
