"""Chat templates as models ship them: which fit the grammar, which do not, and what is done where they differ."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, SFTConfig

from eval.chat import ChatFormat
from pipeline.data.prepare import grpo_rows, rollout_rows, sft_rows
from pipeline.loss import ANSWER, THINK
from pipeline.recipe.schema import Data
from pipeline.rollout.trainer import RolloutTrainer
from pipeline.sft import SegmentTrainer
from rewards.accuracy import accuracy
from rewards.response import TAGS, Response, answer_start, parse, render
from tests.support.families import template
from tests.support.steps import collated, grpo_stage


@pytest.fixture
def checkpoint(small: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Saves a text model with another chat template, or with the tags among its added tokens."""

    def checkpoint(chat_template: str | None = None, tags_special: bool | None = None) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(small("qwen3"))
        model = AutoModelForCausalLM.from_pretrained(small("qwen3"))
        if chat_template:
            tokenizer.chat_template = chat_template
        if tags_special is not None:
            tokenizer.add_tokens([AddedToken(tag, special=tags_special, normalized=False) for tag in TAGS])
            model.resize_token_embeddings(len(tokenizer))
        tokenizer.save_pretrained(tmp_path / "model")
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return checkpoint


@pytest.fixture
def rows(tmp_path: Path) -> Data:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"{n}+{4 - n}?", "think": "Two and two.", "answer": "4"} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(path=str(path))


@pytest.mark.parametrize(
    ("name", "opening"),
    [("qwen2_5", ""), ("qwen3", ""), ("qwen3_instruct_2507", ""), ("qwen3_5_think", "<think>"), ("lfm2", "")],
)
def test_a_template_that_keeps_a_response_fits(checkpoint: Callable[..., Path], name: str, opening: str) -> None:
    chat = ChatFormat(str(checkpoint(template(name))))
    chat.check_template()
    assert chat.opening == opening


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("deepseek_r1_distill", "answer>2</answer>"),  # drops the thinking of an assistant's turn
        ("qwen3_8", "it turns"),  # puts an empty thinking before ours
        ("qwen3_5_nothink", "it turns|differently"),  # answers without thinking
        ("glm4moe", "none of the tokens that end a turn"),
    ],
)
def test_a_template_that_loses_a_response_is_refused(checkpoint: Callable[..., Path], name: str, why: str) -> None:
    chat = ChatFormat(str(checkpoint(template(name))))
    with pytest.raises(ValueError, match=why):
        chat.check_template()


def test_a_model_without_a_template_or_without_a_folder_is_named(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = checkpoint()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        ChatFormat(str(folder))
    with pytest.raises(ValueError, match="no such folder"):
        ChatFormat(str(tmp_path / "missing"))


def _trainers(folder: Path, rows: Data, out: Path) -> tuple[SegmentTrainer, RolloutTrainer]:
    chat = ChatFormat(str(folder))
    common = {"output_dir": str(out), "report_to": "none", "bf16": False, "use_cpu": True, "save_strategy": "no"}
    sft = SegmentTrainer(
        model=str(folder),
        args=SFTConfig(**common, max_length=None, per_device_train_batch_size=2),
        train_dataset=sft_rows(rows, chat),
        chat=chat,
        loss="token_mean",
    )
    grpo = RolloutTrainer(
        model=str(folder),
        chat=chat,
        reward_funcs=[accuracy],
        args=GRPOConfig(**common, num_generations=2, per_device_train_batch_size=2),
        train_dataset=grpo_rows(rollout_rows(rows, chat, grpo_stage()), rows, grpo_stage()),
        stage=grpo_stage(),
    )
    return sft, grpo


@pytest.mark.parametrize(
    "settings",
    [
        {"chat_template": template("qwen3_5_think")},
        {"tags_special": True},
        {"tags_special": False},
        {"chat_template": template("qwen3_5_think"), "tags_special": True},
    ],
    ids=["opened", "special tags", "added tags", "opened and special"],
)
def test_segments_and_rewards_read_the_response_whatever_the_template_and_the_tags_are(
    checkpoint: Callable[..., Path], rows: Data, tmp_path: Path, settings: dict[str, Any]
) -> None:
    sft, grpo = _trainers(checkpoint(**settings), rows, tmp_path)
    batch = collated(sft, range(2))
    think, answer = (batch["input_ids"][0][batch["segments"][0] == segment].tolist() for segment in (THINK, ANSWER))
    assert "Two and two." in sft._tokenizer.decode(think)
    assert sft._tokenizer.decode(think).rstrip().endswith("</think>")
    assert sft._tokenizer.decode(answer).strip().startswith("<answer>4</answer>")
    # What TRL hands to rewards lacks the tags here; the tokens that were sampled have them.
    said = [[{"role": "assistant", "content": "Two and two. 4"}]] * 2
    inputs = [{"answer": "4"}, {"answer": "5"}]
    rewards = grpo._calculate_rewards(inputs, [[{"role": "user", "content": "?"}]] * 2, said, [think + answer] * 2)
    assert rewards[:, 0].tolist() == [1.0, 0.0]


def test_a_truncated_response_is_all_thinking_when_the_prompt_opened_it(checkpoint: Callable[..., Path]) -> None:
    chat = ChatFormat(str(checkpoint(template("qwen3_5_think"))))
    ids = chat.tokenizer("Two and")["input_ids"]
    assert chat.answer_start(ids) == len(ids)
    assert chat.response(ids) == "<think>Two and"


def test_control_tokens_in_text_are_found_and_the_tags_are_not(checkpoint: Callable[..., Path]) -> None:
    chat = ChatFormat(str(checkpoint(tags_special=True)))
    assert chat.control_token("a <think> b </answer>") is None
    assert chat.control_token("a <|im_end|> b") == "<|im_end|>"


@pytest.fixture(scope="module")
def chats(small: Callable[[str], Path]) -> list[ChatFormat]:
    """One byte-level tokenizer, one with byte fallback: multi-byte characters fall apart in each."""
    return [ChatFormat(str(small(family))) for family in ("qwen3", "gemma3")]


WORDS = st.sampled_from([*TAGS, "><", "</", "think>", " ", "7", "é", "数", "🙂"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=120).map("".join), st.booleans())
def test_the_answer_begins_where_a_search_from_the_start_finds_it(
    chats: list[ChatFormat], text: str, whole: bool
) -> None:
    """Random texts, well-formed or not, against the definition; where the parser reads a response, its think too."""
    if whole:
        text = render(text, "7")
    for chat in chats:
        ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        prefixes = [chat.tokenizer.decode(ids[:length]) for length in range(len(ids) + 1)]
        unclosed = len(ids) if "<think>" in prefixes[-1] else 0
        expected = next((length for length, prefix in enumerate(prefixes) if "</think>" in prefix), unclosed)
        assert answer_start(ids, chat.tokenizer.decode) == expected
        response = parse(text)
        if isinstance(response, Response):
            think = prefixes[expected].partition("<think>")[2].rpartition("</think>")[0]
            assert think.strip() == response.think
