"""The GRPO trainer: which prompts it asks, what the engine must have read, what rewards make of the answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.utils import RepeatSampler

from pipeline.recipe.problem import RecipeError
from pipeline.rollout.engine import RolloutError
from pipeline.rollout.trainer import RolloutTrainer, SingleModalitySampler
from rewards.contract import RewardError
from rewards.response import MAX_ANSWER_CHARS, render
from tests.support.questions import MakeRecipe, Train, mixed, questions, rollouts
from tests.support.tables import SLOW, hostile_answers


def test_rows_with_and_without_images_are_refused_or_asked_in_turns(
    recipe: MakeRecipe, train: Train, tmp_path: Path, contrast: str
) -> None:
    path = mixed(tmp_path, [True, False] * 4)
    stopped = recipe({"use": contrast}, rows=path, family="qwen2_5_vl")
    with pytest.raises(RecipeError, match="4 with images and 4 without, which no generation can mix"):
        train(stopped)
    split = recipe({"use": contrast}, rows=path, family="qwen2_5_vl", keys={"mixed_rows": "split"}, max_steps=4)
    assert len(train(split)) == 4
    asked = [{int(row[1:]) % 2 for row in table["id"]} for table in rollouts(tmp_path / "grpo")]
    assert sorted(map(list, asked)) == [[0], [0], [1], [1]], "an epoch asks each kind twice, never both at once"
    few = recipe({"use": contrast}, rows=mixed(tmp_path, [True] * 4 + [False]), keys={"mixed_rows": "split"})
    with pytest.raises(RecipeError, match="1 prompts without are fewer than a generation takes"):
        train(few.model_copy(update={"model": split.model}))


def test_turns_are_taken_in_a_shuffled_order_that_asks_whole_generations() -> None:
    pictured = [index % 3 == 0 for index in range(20)]
    sampler = SingleModalitySampler(
        RepeatSampler(range(20), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=1), pictured
    )
    order = list(sampler)
    assert len(order) == len(sampler) == (2 + 4) * 3 * 2 * 2
    generations = [order[begin : begin + 12] for begin in range(0, len(order), 12)]
    for generation in generations:
        assert generation[:6] == generation[6:], "asked again at the next step of the generation"
        assert generation[0:6:2] == generation[1:6:2]
        assert len({pictured[index] for index in generation}) == 1
    assert order != list(sampler), "the next epoch has another order"


def test_what_is_learned_from_is_logged_and_saved(
    recipe: MakeRecipe, train: Train, contrast: str, tmp_path: Path
) -> None:
    step, *_ = train(recipe("accuracy", {"use": contrast}, rows=questions(4)))
    assert step["accuracy/number"] == step["outcome/correct"] == step["format_rate"] == 0
    assert step["entropy"] > 0
    assert 0 < step["completions/think_tokens"] + step["completions/answer_tokens"] <= 8
    table = rollouts(tmp_path / "grpo")[0]
    assert {"step", "prompt", "completion", "accuracy", "contrast", "advantage", "id", "answer"} == {*table.columns}


def test_rollouts_by_transformers_are_drawn_with_the_recipes_settings_alone(
    recipe: MakeRecipe, train: Train, contrast: str, tmp_path: Path
) -> None:
    """TRL leaves what it does not name to the checkpoint's own settings, which vLLM never reads; they are handed on."""
    asked = recipe({"use": contrast}, rows=questions(4), max_steps=1)
    train(asked, "plain")
    own = tmp_path / "checkpoint"
    shutil.copytree(asked.model.path, own)
    settings = {
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 8,
        "forced_eos_token_id": 3,
        "typical_p": 0.1,
        "do_sample": True,
    }
    path = own / "generation_config.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**held, **settings}))
    model = asked.model.model_copy(update={"path": str(own)})
    train(asked.model_copy(update={"model": model}), "own")
    said = [[str(each) for each in rollouts(tmp_path / name)[0]["completion"]] for name in ("plain", "own")]
    assert said[0] == said[1]
    kept = json.loads((tmp_path / "own" / "model" / "generation_config.json").read_text())
    assert settings.items() <= kept.items()


def test_an_engine_that_read_another_prompt_than_is_trained_stops_the_run() -> None:
    """As with huggingface/trl#6294, where vLLM expands the placeholders of an image that were expanded before."""
    trainer = object.__new__(RolloutTrainer)
    trainer._trained_prompt_ids = [[1, 2, 3], [4, 5]]
    answered = ([[1, 2, 3], [4, 5]], [[7], [8]], None, None)
    assert trainer._of_these_prompts(lambda: answered)() is answered
    with pytest.raises(
        RolloutError, match="vLLM read a prompt of 3 tokens where the trainer has 2: they expand its im"
    ):
        trainer._of_these_prompts(lambda: ([[1, 2, 3], [4, 5, 5]], [[7], [8]], None, None))()


@pytest.mark.timeout(180)
def test_hostile_completions_do_not_stall_training(
    recipe: MakeRecipe, train: Train, contrast: str, monkeypatch: pytest.MonkeyPatch
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
    recipe: MakeRecipe, train: Train, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = {"use": f"{own}:late"}
    with pytest.raises(RewardError, match=r"reward 'late', row id=q\d: inf is no finite number \(8 of 8 values\)"):
        train(recipe("format", late))
    assert not (tmp_path / "grpo" / "model").exists()
    metrics = train(recipe("format", {**late, "on_error": "zero"}), "zero")
    assert [line["rewards/late/mean"] for line in metrics] == [0.0] * 3
    assert capsys.readouterr().err.count("WARNING reward 'late'") == 2


def test_a_run_in_which_no_reward_gives_a_value_stops(recipe: MakeRecipe, train: Train, own: Path) -> None:
    with pytest.raises(RewardError, match=r"every reward gave None for every completion \(nothing\)"):
        train(recipe({"use": f"{own}:nothing"}))
