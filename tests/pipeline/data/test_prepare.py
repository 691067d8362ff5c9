"""Rows that would be trained wrongly, or could not be asked: each named with its row, or left out and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.chat import ChatFormat
from pipeline.data.prepare import grpo_rows, rollout_rows, sft_rows
from pipeline.main import main
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import Data
from tests.support.checked import Checked
from tests.support.questions import mixed, questions
from tests.support.steps import grpo_stage

GOOD = {"question": "2+2?", "think": "Two and two.", "answer": "4"}


@pytest.fixture(scope="module")
def chat(small: Callable[[str], Path]) -> ChatFormat:
    return ChatFormat(str(small("qwen3")))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Data]:
    def write(*rows: dict[str, Any], **settings: Any) -> Data:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"id": f"r{index}", **row}) + "\n" for index, row in enumerate(rows)))
        return Data(path=str(path), **settings)

    return write


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"think": "so </think> then"}, "repeated_tag", "a tag of the grammar stands within"),
        ({"think": " "}, "empty_think", "no think trace"),
        ({"answer": ""}, "empty_answer", "no answer"),
        ({"answer": "4" * 300}, "long_answer", "a second trace"),
        ({"question": "In <think> tags: 2+2?"}, "tag_in_question", "the system prompt asks for the tags"),
        ({"think": "ends <|im_end|> here"}, "special_token", "the response has '<|im_end|>'"),
        ({"question": "What is <|im_start|>?"}, "special_token", "the question has '<|im_start|>'"),
        ({"think": "again " * 200}, "too_long", "where max_length leaves 300; the answer would be cut off"),
    ],
)
def test_a_row_that_would_be_trained_wrongly_is_refused_by_name(
    chat: ChatFormat, write: Callable[..., Data], row: dict[str, str], code: str, words: str
) -> None:
    data = write(GOOD, {**GOOD, **row}, {**GOOD, "question": "1+3?"})
    with pytest.raises(RecipeError) as caught:
        sft_rows(data, chat, max_length=300)
    named, summary = caught.value.problems
    assert (named.where, named.id, named.code) == (f"{data.path}:2", "r1", code)
    assert words in named.message
    assert summary.message.startswith(f"1 of 3 rows cannot be used ({code} 1); mend them, or leave them out with")


def test_rows_are_dropped_and_counted_when_the_recipe_says_so(
    chat: ChatFormat, write: Callable[..., Data], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{**GOOD, "think": "so </think> then"}, {**GOOD, "think": "again " * 200}]
    rows = sft_rows(write(GOOD, *bad, {**GOOD, "answer": "5"}, bad_rows="drop"), chat, max_length=300)
    assert [row["completion"][0]["content"][-10:] for row in rows] == ["4</answer>", "5</answer>"]
    assert "rows.jsonl: left out 2 of 4 rows (repeated_tag 1, too_long 1)" in capsys.readouterr().err


def test_nothing_left_is_an_error_even_when_rows_may_be_dropped(chat: ChatFormat, write: Callable[..., Data]) -> None:
    with pytest.raises(ValueError, match="no usable row is left"):
        sft_rows(write({**GOOD, "think": " "}, bad_rows="drop"), chat)


def test_many_rows_that_are_bad_alike_are_named_in_a_line(chat: ChatFormat, write: Callable[..., Data]) -> None:
    with pytest.raises(RecipeError) as caught:
        sft_rows(write(*[{**GOOD, "think": " "}] * 30, GOOD), chat)
    [named, summary] = caught.value.problems
    assert (named.code, named.count) == ("empty_think", 30)
    assert "30 of 31 rows cannot be used" in summary.message


def test_prompts_for_rollouts_are_checked_too_and_hide_the_trace(chat: ChatFormat, write: Callable[..., Data]) -> None:
    with pytest.raises(RecipeError, match="special_token"):
        rollout_rows(write({**GOOD, "question": "<|im_end|>"}), chat, grpo_stage())
    data = write(GOOD)
    rows = grpo_rows(rollout_rows(data, chat, grpo_stage()), data, grpo_stage())
    assert sorted(rows.column_names) == ["answer", "id", "prompt"]


def test_a_malformed_response_of_vision_r1_is_a_bad_row(chat: ChatFormat, tmp_path: Path) -> None:
    turns = [{"from": "user", "value": "What is it?"}, {"from": "assistant", "value": "<think>a</think> "}]
    good = [turns[0], {"from": "assistant", "value": "<think>a</think><answer>Final Answer: B</answer>"}]
    (tmp_path / "r1.json").write_text(json.dumps([{"conversations": good}, {"conversations": turns}]))
    data = Data(path=str(tmp_path / "r1.json"), format="vision_r1")
    with pytest.raises(RecipeError, match=r"r1\.json:2 id=1 missing_tag: nothing follows </think>; an answer"):
        sft_rows(data, chat)
    [row] = sft_rows(data.model_copy(update={"bad_rows": "drop"}), chat)
    assert row["completion"][0]["content"] == "<think>a</think><answer>B</answer>"


def test_images_that_are_evaluated_on_with_another_question_are_counted(
    check: Callable[..., Checked], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe.yaml", "--check"]) == 0
    said = capsys.readouterr().err
    warning = "WARNING {}: 4 rows show an image that is evaluated on, with another question"
    assert all(warning.format(folder / name) in said for name in ("cold.jsonl", "rl.jsonl"))


def _usable(data: Data, chat: ChatFormat, **keys: Any) -> Any:
    stage = grpo_stage(**keys)
    return grpo_rows(rollout_rows(data, chat, stage), data, stage)


def test_prompts_that_leave_no_room_for_a_completion_are_found_before_training(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    """Counted with the tokens of their images, to the last one."""
    chat, data = ChatFormat(str(small("qwen2_5_vl"))), Data(path=str(mixed(tmp_path, [True] * 4)))
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
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions(3)))
    chat, data = ChatFormat(str(small("qwen3"))), Data(path=str(tmp_path / "rows.jsonl"))
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}
    with pytest.raises(
        ValueError, match=r"3 prompts are fewer than a generation takes, 16 completions / 4 num_gen.* = 4;"
    ):
        _usable(data, chat, trainer=settings)
    assert len(_usable(data, chat, trainer={**settings, "gradient_accumulation_steps": 1})) == 3


def test_rows_with_images_are_not_asked_of_a_text_model(small: Callable[[str], Path], tmp_path: Path) -> None:
    data = Data(path=str(mixed(tmp_path, [False, True])))
    with pytest.raises(RecipeError, match="id=q1 unseen_images: the row has images, and the model reads text alone"):
        _usable(data, ChatFormat(str(small("qwen3"))))
