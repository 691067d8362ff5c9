"""Rewards inside a run: tried before it, checked in it, and not stalled by what a policy may write."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from ruamel.yaml import YAML
from steps import grpo_stage
from tables import SLOW, hostile_answers

from eval.chat import ChatFormat
from eval.data.rows import read
from pipeline.data import check_rows
from pipeline.data.check_rows import RowPolicy
from pipeline.data.prepare import rollout_rows
from pipeline.main import main
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import Data, Recipe
from pipeline.rollout.alarms import ConstantRewards
from pipeline.rollout.trainer import RolloutTrainer
from rewards.contract import RewardError
from rewards.response import MAX_ANSWER_CHARS, render

OWN = """
calls = []

def late(completions, **columns):
    calls.append(1)
    return [float("inf") if len(calls) > 1 else 0.0 for _ in completions]

def nothing(completions, **columns):
    return [None for _ in completions]

def constant(completions, **columns):
    return [1.0 for _ in completions]

def needs(completions, solution, **columns):
    return [1.0 for _ in completions]
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)


@pytest.mark.timeout(180)
def test_hostile_completions_do_not_stall_training(
    recipe: Callable[..., Recipe], train: Callable[..., Any], contrast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step, half of the sampled completions are replaced by well-formed responses with a hostile answer."""
    answers = [answer for answer in hostile_answers() if 0 < len(answer) <= MAX_ANSWER_CHARS]
    hostile = iter([SLOW, *answers] * 2)
    injected: list[str] = []
    calculate = RolloutTrainer._calculate_rewards

    def with_hostile(self: RolloutTrainer, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        ends = [next(iter(self.chat.ends))]
        for index in range(0, len(completion_ids), 2):
            injected.append(next(hostile))
            completion_ids[index] = self.chat.ids(render("So it is.", injected[-1])) + ends
        return calculate(self, inputs, prompts, completions, completion_ids)

    monkeypatch.setattr(RolloutTrainer, "_calculate_rewards", with_hostile)
    steps = train(recipe("accuracy", {"use": contrast}, max_steps=6))
    assert len(steps) == 6
    assert len(injected) == 24
    assert steps[0]["outcome/timeout"] == 1 / 8
    assert steps[0]["outcome/truncated"] > 0, "the sampled completions end nowhere"
    for step in steps:
        outcomes = {name: value for name, value in step.items() if name.startswith("outcome/")}
        assert sum(outcomes.values()) == pytest.approx(1)
        assert outcomes["outcome/correct"] == outcomes["outcome/answer_unusable"] == 0
    assert max(step["rewards/accuracy/mean"] for step in steps) == 0
    assert all(step["grad_norm"] > 0 for step in steps)


def test_a_reward_that_breaks_in_a_run_stops_it_by_name_or_counts_as_zero(
    recipe: Callable[..., Recipe], train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = {"use": f"{tmp_path}/own.py:late"}
    with pytest.raises(RewardError, match=r"reward 'late', row id=q\d: inf is no finite number \(8 of 8 values\)"):
        train(recipe("format", late))
    assert not (tmp_path / "grpo" / "model").exists()
    metrics = train(recipe("format", {**late, "on_error": "zero"}), "zero")
    assert [line["rewards/late/mean"] for line in metrics] == [0.0] * 3
    assert capsys.readouterr().err.count("WARNING reward 'late'") == 2


def test_a_run_in_which_no_reward_gives_a_value_stops(
    recipe: Callable[..., Recipe], train: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(RewardError, match=r"every reward gave None for every completion \(nothing\)"):
        train(recipe({"use": f"{tmp_path}/own.py:nothing"}))


def test_rewards_that_tell_nothing_apart_are_reported(
    recipe: Callable[..., Recipe],
    train: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ConstantRewards, "PATIENCE", 2)
    train(recipe("accuracy", {"use": f"{tmp_path}/own.py:constant"}))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 3
    assert "reward 'accuracy' gave one value to every completion of the last 2 generations" in warnings[0]
    assert "reward 'constant' gave one value" in warnings[1]
    assert "all completions of each group got the same reward, so nothing is learned" in warnings[2]


def test_a_reward_that_differs_again_begins_a_new_count(capsys: pytest.CaptureFixture[str]) -> None:
    watch = ConstantRewards(["a", "b"])
    flat, nan = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[float("nan"), 0.0], [1.0, 1.0]])
    for step in range(2 * ConstantRewards.PATIENCE):
        rewards = (
            torch.tensor([[1.0, 0.0], [0.0, 1.0]]) if step == ConstantRewards.PATIENCE - 1 else (flat, nan)[step % 2]
        )
        watch.see(rewards, rewards.sum(dim=1).view(1, 2), step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"WARNING step {2 * ConstantRewards.PATIENCE - 1}: reward 'a'" in lines[0]


# --- before the run ---------------------------------------------------------------------------------------------------


def _check(recipe: Recipe, folder: Path, *options: str) -> int:
    with (folder / "recipe.yaml").open("w") as file:
        YAML(typ="safe").dump(recipe.model_dump(mode="json", exclude_none=True), file)
    return main([str(folder / "recipe.yaml"), "--check", *options])


def test_the_check_shows_what_each_reward_pays(
    recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _check(recipe("accuracy", {"use": "format", "weight": 0.1}, {"use": "own.py:constant"}), tmp_path) == 0
    output = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    assert table == [
        ["accuracy", "1", "0", "0", "0"],
        ["format", "1", "1", "0", "0"],
        ["constant", "1", "1", "1", "1"],
        ["weighted sum", "2.1", "1.1", "1", "1"],
    ]
    assert output.count("WARNING") == 1
    assert "WARNING grpo.rewards: constant pays a wrong and a malformed answer as much as a right one" in output
    assert "no problem found" in output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("needs", "reward 'needs', row id=q3: raised TypeError: needs() missing 1 required positional argument"),
        ("nothing", "none gives a value, even for right answers"),
    ],
)
def test_a_reward_that_cannot_work_is_a_problem_with_its_line(
    recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert _check(recipe({"use": f"own.py:{name}"}), tmp_path) == 2
    [problem] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ERROR")]
    where, rest = problem.removeprefix("ERROR ").split(" id=- reward: ")
    file, line = where.split(":")
    assert "rewards" in "".join(Path(file).read_text().splitlines()[: int(line)])
    assert message in rest
    assert _check(recipe({"use": f"own.py:{name}"}), tmp_path, "--json") == 2
    [problem] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert problem["code"] == "reward"


def test_data_that_is_not_here_is_a_problem_and_the_rewards_are_not_tried(
    recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = recipe("accuracy").model_dump()
    content["data"]["rows"]["path"] = "no-one/has-this"
    assert _check(Recipe.model_validate(content), tmp_path) == 2
    out = capsys.readouterr().out
    assert "grpo: rewards not tried, data 'rows' cannot be read" in out
    assert re.search(r"ERROR .*recipe\.yaml:\d+ id=- data: .*no-one/has-this", out)


def test_a_reference_that_does_not_verify_against_itself_is_found_before_training(
    small: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [{"answer": "7"}, {"answer": r"\frac{1}{0}"}, {"answer": "c", "kind": "choice", "choices": ["a", "b"]}]
    answers += [{"answer": "seven", "kind": "number"}, {"answer": r"\frac{\pi}{2}"}, {"answer": " "}]
    rows = [{"id": f"r{n}", "question": f"{n}?", **answer} for n, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source, chat = Data(path=str(tmp_path / "rows.jsonl")), ChatFormat(str(small("qwen3")))
    verifying = grpo_stage("format", "accuracy")
    with pytest.raises(RecipeError) as caught:
        rollout_rows(source, chat, verifying)
    *named, summary = caught.value.problems
    assert [(problem.id, problem.code) for problem in named] == [(f"r{n}", "answer_unusable") for n in (1, 2, 3, 5)]
    assert "the answer 'seven' does not verify against itself" in named[2].message
    assert "answer_unusable 4" in summary.message
    kept = rollout_rows(source.model_copy(update={"bad_rows": "drop"}), chat, verifying)
    assert kept["answer"][:] == ["7", r"\frac{\pi}{2}"]
    assert len(rollout_rows(source, chat, grpo_stage())) == 6, "a reward of another kind reads other references"


def test_verdicts_on_rows_last_until_the_rules_an_image_or_the_data_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, path = tmp_path / "one.png", tmp_path / "rows.jsonl"
    PILImage.new("RGB", (8, 8), "red").save(picture)
    path.write_text(json.dumps({"id": "r", "question": "?", "answer": "7", "images": ["one.png"]}) + "\n")
    looked: list[str] = []
    check_row = check_rows._check_row

    def noted(row: dict[str, Any], *policy: Any) -> dict[str, Any]:
        looked.append(row["answer"])
        return check_row(row, *policy)

    monkeypatch.setattr(check_rows, "_check_row", noted)

    def look() -> int:
        looked.clear()
        check_rows.check_rows(read(Data(path=str(path))), None, RowPolicy(trains=False, verifies=True))
        return len(looked)

    assert [look(), look()] == [1, 0]
    PILImage.new("RGB", (9, 9), "blue").save(picture)
    assert [look(), look()] == [1, 0], "another image"
    path.write_text(path.read_text().replace("7", "8"))
    assert [look(), look()] == [1, 0], "other data"
    (tmp_path / "rule.py").write_text("")
    monkeypatch.setattr(check_rows, "_CODE", [str(tmp_path / "rule.py")])
    assert look() == 1, "another verifier"
