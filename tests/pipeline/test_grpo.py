"""GRPO stages: what they start from, which prompts they ask, what they make of the answers, and when they stop."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from families import save_tempted
from PIL import Image
from steps import grpo_stage, load
from trl.trainer.utils import RepeatSampler

from eval.chat import ChatFormat
from eval.decode import vision_token_ids
from pipeline import grpo
from pipeline.data.prepare import grpo_rows, rollout_rows
from pipeline.recipe.file import load as load_recipe
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import Data, Recipe
from pipeline.recipe.trainer_arguments import sampling_settings
from pipeline.rollout.alarms import check_agreement
from pipeline.rollout.engine import RolloutError
from pipeline.rollout.trainer import RolloutTrainer, SingleModalitySampler

ROOT = Path(__file__).resolve().parents[2]
MakeRecipe = Callable[..., Recipe]
Train = Callable[..., list[dict[str, Any]]]

# Of half of the questions all completions get the same; of the others, almost no two.
HALF = """
def half(completions, id, **columns):
    return [len(set(c[0]["content"])) + sum(map(ord, c[0]["content"])) / 1e5 if int(row[1:]) % 2 else 1.0
            for c, row in zip(completions, id, strict=True)]
"""


@pytest.fixture
def half(tmp_path: Path) -> str:
    (tmp_path / "half.py").write_text(HALF)
    return f"{tmp_path / 'half.py'}:half"


def _rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{n}", "question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(count)]


def _mixed(folder: Path, kinds: list[bool]) -> Path:
    """Rows with an image where `kinds` says so."""
    for index, row in enumerate(rows := _rows(len(kinds))):
        Image.new("RGB", (60, 60), (index * 20, 90, 10)).save(folder / f"{index}.png")
        row["images"] = [f"{index}.png"] if kinds[index] else []
    (folder / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "mixed.jsonl"


def _rollouts(folder: Path) -> list[pandas.DataFrame]:
    """The saved completions, a table a step."""
    return [pandas.read_parquet(file) for file in sorted(folder.rglob("completions/*.parquet"))]


# --- where a stage starts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "LoRA"])
def test_the_reference_of_each_stage_is_the_checkpoint_that_it_started_from(
    recipe: MakeRecipe, train: Train, contrast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Any
) -> None:
    """Two stages, of other lengths and groups. At its first step a policy still is its reference, later it is not."""
    references: list[torch.Tensor | None] = []
    show = grpo.show_progress

    def look(trainer: RolloutTrainer, *rest: Any) -> None:
        references.append(_reference(trainer))
        show(trainer, *rest)

    monkeypatch.setattr(grpo, "show_progress", look)
    shared = {"beta": 0.1, "learning_rate": 1e-2}
    first = recipe({"use": contrast}, keys={"lora": lora}, **shared)
    second = recipe({"use": contrast}, keys={"lora": lora}, **shared, num_generations=2, max_completion_length=16)
    start = first.model.path
    for stage, name in ((first, "first"), (second, "second")):
        steps = train(stage, name, start)
        assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert steps[-1]["kl"] > 1e-4
        found, expected = references[-1], load(start, torch.float32)(**_QUESTION).logits
        assert found is not None
        assert torch.allclose(found, expected, atol=1e-5)
        start = str(tmp_path / name / "model")
        assert not torch.allclose(found, load(start, torch.float32)(**_QUESTION).logits, atol=1e-2)
    assert "kl" not in train(recipe({"use": contrast}, keys={"lora": lora}, beta=0.0), "no kl", start)[0]


_QUESTION = {"input_ids": torch.arange(20, 40)[None], "attention_mask": torch.ones(1, 20, dtype=torch.long)}


def _reference(trainer: RolloutTrainer) -> torch.Tensor | None:
    """The reference model's logits, taken as the trainer takes them."""
    with torch.no_grad():
        if trainer.ref_model is not None:
            return trainer.ref_model(**_QUESTION).logits
        if trainer.beta == 0:
            return None
        with trainer.model.disable_adapter():
            return trainer.model(**_QUESTION).logits


# --- which prompts ----------------------------------------------------------------------------------------------------


def _usable(data: Data, chat: ChatFormat, **keys: Any) -> Any:
    stage = grpo_stage(**keys)
    return grpo_rows(rollout_rows(data, chat, stage), data, stage)


def test_prompts_that_leave_no_room_for_a_completion_are_found_before_training(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    """Counted with the tokens of their images, to the last one."""
    chat, data = ChatFormat(str(small("qwen2_5_vl"))), Data(path=str(_mixed(tmp_path, [True] * 4)))
    prompt = chat.conversation("What is 0 plus 2?", [Image.new("RGB", (60, 60))])
    inputs = chat.processor.apply_chat_template([prompt], add_generation_prompt=True, tokenize=True, return_dict=True)
    longest = len(inputs["input_ids"][0])
    settings = {"use_vllm": True, "max_completion_length": 32, "vllm_max_model_length": 32 + longest}
    assert len(_usable(data, chat, trainer=settings)) == 4
    settings["vllm_max_model_length"] -= 1
    named = (
        rf"id=q0 too_long: {longest} tokens, images included, where vllm_max_model_length less .* leaves {longest - 1};"
    )
    with pytest.raises(RecipeError, match=named):
        _usable(data, chat, trainer=settings)


def test_a_data_set_smaller_than_a_generation_is_named_as_such(small: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(3)))
    chat, data = ChatFormat(str(small("qwen3"))), Data(path=str(tmp_path / "rows.jsonl"))
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}
    with pytest.raises(
        ValueError, match=r"3 prompts are fewer than a generation takes, 16 completions / 4 num_gen.* = 4;"
    ):
        _usable(data, chat, trainer=settings)
    assert len(_usable(data, chat, trainer={**settings, "gradient_accumulation_steps": 1})) == 3


def test_rows_with_images_are_not_asked_of_a_text_model(small: Callable[[str], Path], tmp_path: Path) -> None:
    data = Data(path=str(_mixed(tmp_path, [False, True])))
    with pytest.raises(RecipeError, match="id=q1 unseen_images: the row has images, and the model reads text alone"):
        _usable(data, ChatFormat(str(small("qwen3"))))


def test_rows_with_and_without_images_are_refused_or_asked_in_turns(
    recipe: MakeRecipe, train: Train, tmp_path: Path, contrast: str
) -> None:
    path = _mixed(tmp_path, [True, False] * 4)
    stopped = recipe({"use": contrast}, rows=path, family="qwen2_5_vl")
    with pytest.raises(RecipeError, match="4 with images and 4 without, which no generation can mix"):
        train(stopped)
    split = recipe({"use": contrast}, rows=path, family="qwen2_5_vl", keys={"mixed_rows": "split"}, max_steps=4)
    assert len(train(split)) == 4
    asked = [{int(row[1:]) % 2 for row in table["id"]} for table in _rollouts(tmp_path / "grpo")]
    assert sorted(map(list, asked)) == [[0], [0], [1], [1]], "an epoch asks each kind twice, never both at once"
    few = recipe({"use": contrast}, rows=_mixed(tmp_path, [True] * 4 + [False]), keys={"mixed_rows": "split"})
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


def test_image_tokens_are_never_sampled_by_transformers(
    recipe: MakeRecipe, train: Train, small: Callable[[str], Path], tmp_path: Path
) -> None:
    """The recipe's own suppressed tokens do not replace the ban."""
    tempted = save_tempted(small("qwen2_5_vl"), tmp_path / "tempted")
    banned = vision_token_ids(ChatFormat(str(tempted)).config)
    own = {"suppress_tokens": [50]}
    assert sampling_settings(own, banned, use_vllm=False) == {"suppress_tokens": [*banned, 50]}
    stage = recipe("format", rows=_mixed(tmp_path, [True] * 4), family="qwen2_5_vl", generation_kwargs=own)
    assert len(train(stage, model_in=str(tempted))) == 3


def test_a_recipes_own_logit_bias_does_not_replace_the_ban() -> None:
    own = {"logit_bias": {5: 1.0, 7: 2.0}, "frequency_penalty": 0.1}
    merged = {"logit_bias": {5: 1.0, 7: -100.0, 9: -100.0}, "frequency_penalty": 0.1}
    assert sampling_settings(own, [7, 9], use_vllm=True) == merged
    assert sampling_settings(own, [], use_vllm=True) == own


# --- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"])
def test_every_loss_of_trl_passes_through(recipe: MakeRecipe, train: Train, contrast: str, loss_type: str) -> None:
    level = {"importance_sampling_level": "sequence"} if loss_type == "luspo" else {}
    steps = train(recipe({"use": contrast}, loss_type=loss_type, max_steps=1, **level))
    assert steps[0]["grad_norm"] > 0


def test_truncated_completions_teach_nothing_when_they_are_masked(
    recipe: MakeRecipe, train: Train, contrast: str
) -> None:
    """Four tokens end no response here."""
    masked = train(recipe({"use": contrast}, max_completion_length=4, mask_truncated_completions=True))
    assert all(step["completions/clipped_ratio"] == 1 and step["grad_norm"] == 0 for step in masked)
    kept = train(recipe({"use": contrast}, max_completion_length=4), "kept")
    assert all(step["grad_norm"] > 0 for step in kept)


def test_groups_without_contrast_are_replaced(recipe: MakeRecipe, train: Train, half: str, tmp_path: Path) -> None:
    """Two groups a step, of 24 questions; those of even questions teach nothing."""
    asked = recipe({"use": half}, rows=_rows(24), max_steps=6)
    assert max(step["frac_reward_zero_std"] for step in train(asked, "as they come")) > 0
    asked = recipe({"use": half}, rows=_rows(24), max_steps=6, keys={"dynamic_sampling": 12})
    steps = train(asked)
    assert [step["frac_reward_zero_std"] for step in steps] == [0] * 6
    assert [step["dynamic_sampling/unfilled"] for step in steps] == [0] * 6
    assert {step["dynamic_sampling/replaced"] for step in steps} >= {0.5}
    _assert_whole(_rollouts(tmp_path / "grpo"), 2, 4)


def _assert_whole(tables: list[pandas.DataFrame], groups: int, size: int) -> None:
    """Each saved group is one question's, its rewards are those of its completions, and it has contrast."""
    namespace: dict[str, Any] = {}
    exec(HALF, namespace)
    for table in tables:
        assert len(table) == groups * size
        paid = namespace["half"](list(table["completion"]), list(table["id"]))
        assert list(table["half"]) == pytest.approx(paid, abs=1e-4)
        for begin in range(0, len(table), size):
            group = table[begin : begin + size]
            assert len(set(group["id"])) == 1
            number = int(group["id"].iloc[0][1:])
            assert number % 2 == 1
            assert f"What is {number} plus 2?" in str(group["prompt"].iloc[0][1]["content"])
            assert (group["answer"] == str(number + 2)).all()
            assert float(group["advantage"].sum()) == pytest.approx(0, abs=1e-3)


def test_what_cannot_be_replaced_keeps_its_place(recipe: MakeRecipe, train: Train, half: str, tmp_path: Path) -> None:
    even = [row for row in _rows(12) if int(row["id"][1:]) % 2 == 0]
    steps = train(recipe({"use": half}, rows=even, keys={"dynamic_sampling": 2}))
    assert [step["dynamic_sampling/unfilled"] for step in steps] == [1.0] * 3
    assert [step["dynamic_sampling/rounds"] for step in steps] == [2.0] * 3
    assert [len(table) for table in _rollouts(tmp_path / "grpo")] == [8] * 3


def test_groups_of_images_are_replaced_with_their_images(
    recipe: MakeRecipe, train: Train, half: str, tmp_path: Path
) -> None:
    """With the wrong images, tokens and features would not match, or be those of another question."""
    path = _mixed(tmp_path, [True] * 12 + [False] * 12)
    keys = {"dynamic_sampling": 8, "mixed_rows": "split"}
    steps = train(recipe({"use": half}, rows=path, family="qwen2_5_vl", keys=keys, max_steps=4))
    assert max(step["dynamic_sampling/replaced"] for step in steps) > 0
    for table in _rollouts(tmp_path / "grpo"):
        assert len({int(row[1:]) < 12 for row in table["id"]}) == 1, "a replacement is of the batch's kind"


@pytest.mark.slow
def test_groups_are_replaced_across_ranks(recipe: MakeRecipe, half: str, tmp_path: Path) -> None:
    """Groups of four over two ranks with two completions each a step: every group lies on both."""
    asked = recipe(
        {"use": half},
        "format",
        rows=_rows(24),
        keys={"dynamic_sampling": 12},
        per_device_train_batch_size=2,
        max_steps=5,
    )
    (tmp_path / "recipe.yaml").write_text(json.dumps(asked.model_dump(exclude_none=True)))
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(ROOT / "pipeline" / "run.py"), str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tables = _rollouts(tmp_path / "runs" / "rollouts" / "grpo")
    assert len(tables) == 5
    _assert_whole(tables, 1, 4)


def test_what_is_learned_from_is_logged_and_saved(
    recipe: MakeRecipe, train: Train, contrast: str, tmp_path: Path
) -> None:
    step, *_ = train(recipe("accuracy", {"use": contrast}, rows=_rows(4)))
    assert step["accuracy/number"] == step["outcome/correct"] == step["format_rate"] == 0
    assert step["entropy"] > 0
    assert 0 < step["completions/think_tokens"] + step["completions/answer_tokens"] <= 8
    table = _rollouts(tmp_path / "grpo")[0]
    assert {"step", "prompt", "completion", "accuracy", "contrast", "advantage", "id", "answer"} == {*table.columns}


# --- alarms -----------------------------------------------------------------------------------------------------------


def test_an_engine_that_disagrees_stops_the_run_before_the_step() -> None:
    check_agreement(0.02, 0.98, 0.1, 3)
    with pytest.raises(RolloutError, match=r"step 3: .* 0\.5900 nats .* weights that did not reach the engine"):
        check_agreement(0.59, 0.006, 0.1, 3)
    with pytest.raises(RolloutError, match="weights that did not reach the engine"):
        check_agreement(float("nan"), 1.0, 0.1, 3)
    with pytest.raises(
        RolloutError, match=r"ratio is 0\.0600 \(allowed: 0\.1 to 10\)\. .* small differences over many"
    ):
        check_agreement(0.01, 0.06, 0.1, 3)
    with pytest.raises(RolloutError, match=r"ratio is 12\.0000"):
        check_agreement(0.01, 12.0, 0.1, 3)


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


# --- difficulty -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stage_asks_what_its_first_model_gets_right_neither_never_nor_always(
    recipe: MakeRecipe, contrast: str, tmp_path: Path
) -> None:
    """The model learns to answer 7 to everything; what it is then asked is what 7 does not answer, and once only."""
    content = recipe(
        {"use": contrast}, rows=_rows(12), keys={"difficulty": {"samples": 4, "min_pass_rate": 0, "max_pass_rate": 0.5}}
    )
    stages = content.model_dump(exclude_none=True)
    stages["evaluate"] = None
    rows = [{**row, "think": "Seven it is.", "answer": "7"} for row in _rows(12)]
    (tmp_path / "sevens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages["data"]["sevens"] = {"path": str(tmp_path / "sevens.jsonl")}
    sft = {"name": "sft", "kind": "sft", "data": "sevens", "loss": "token_mean"}
    fast = {"max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "gradient_checkpointing": False}
    stages["stages"] = [{**sft, "trainer": fast}, *stages["stages"]]
    stages["stages"][1]["trainer"]["max_completion_length"] = 32
    (tmp_path / "recipe.yaml").write_text(json.dumps(stages))
    command = [sys.executable, str(ROOT / "pipeline" / "run.py"), str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "rollouts"
    rates = json.loads((run / "pass_rates" / "grpo.json").read_text())["pass_rates"]
    assert rates.pop("q5") > 0.5, "5 plus 2 is 7"
    assert len(rates) == 11
    assert not any(rates.values())
    assert "stage 2 of 2: grpo (GRPO), pass rates: 12 rows" in done.stderr
    assert "grpo: kept 11 of 12 rows (too hard 0, too easy 1: pass rates 0 to 0.5 are asked)" in done.stderr
    asked = {row for table in _rollouts(run / "grpo") for row in table["id"]}
    assert "q5" not in asked

    (run / "grpo" / "COMPLETE").unlink()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "pass rates:" not in again.stderr, "they are measured once"


def test_a_difficulty_that_leaves_nothing_is_an_error_before_the_model_loads(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    asked = recipe(
        "format", rows=_rows(4), keys={"difficulty": {"samples": 2, "min_pass_rate": 0.5, "max_pass_rate": 1.0}}
    )
    stage = asked.stages[0]
    assert stage.kind == "grpo"
    rates = dict.fromkeys(["q0", "q1", "q2", "q3"], 0.25)
    with pytest.raises(RecipeError, match=r"nothing is left of 4 rows \(too hard 4, too easy 0: pass rates 0\.5 to 1"):
        grpo.run(asked, stage, asked.model.path, tmp_path / "grpo", "grpo", rates)


# --- the recipe's own mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "trainer", "message"),
    [
        ({}, {"generation_kwargs": {"seed": 1}}, "all completions of a group would be the same"),
        ({}, {"generation_kwargs": {"n": 2}}, "num_generations says how many completions"),
        (
            {},
            {"use_vllm": True, "vllm_max_model_length": 512, "max_completion_length": 512},
            "512 holds prompt and completion, and max_completion_length is 512, which leaves nothing for the prompt",
        ),
        (
            {},
            {"num_generations": 3},
            "8 completions, which num_generations 3 does not divide; a multiple of 3 processes",
        ),
        ({}, {"use_vllm": True, "loss_type": "vespo"}, "vespo needs vllm_importance_sampling_mode token_truncate or"),
        (
            {"difficulty": {"samples": 2, "min_pass_rate": 0.9, "max_pass_rate": 0.1}},
            {},
            "min_pass_rate 0.9 is above max_pass_rate",
        ),
    ],
)
def test_mistakes_are_found_without_loading_anything(
    recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Any, trainer: Any, message: str
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    content = recipe("format", keys=keys, **trainer).model_dump(exclude_none=True)
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(tmp_path / "recipe.yaml", [])
