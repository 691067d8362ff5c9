"""The paper's three model families and others, through both stages: SCALe-SFT, the hand-off, GRPO."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from trl import GRPOConfig

from eval.chat import ChatFormat
from eval.data.rows import read
from eval.decode import TransformersDecoder
from pipeline import grpo, sft
from pipeline.data.prepare import grpo_rows, rollout_rows
from pipeline.loss import ANSWER, THINK
from pipeline.recipe.schema import Data, Recipe
from pipeline.rollout.trainer import RolloutTrainer
from rewards.response import Response, parse
from tests.support.families import FAMILIES, VLMS
from tests.support.steps import collated, grpo_stage, load
from tests.support.sums import ROWS, arguments, sft_trainer, sums


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Data]:
    return sums(tmp_path_factory.mktemp("sums"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_in_both_stages_and_loads_again(
    family: str, small: Callable[[str], Path], data: Callable[..., Data], contrast: str, tmp_path: Path
) -> None:
    common = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "gradient_checkpointing": False}
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    recipe = Recipe.model_validate(
        {
            "name": family,
            "model": {"path": str(small(family)), "dtype": "float32"},
            "data": {"sft": data(family, "mixed").model_dump(), "rl": data(family).model_dump()},
            "stages": [
                {
                    "name": "sft",
                    "kind": "sft",
                    "data": "sft",
                    "loss": {"think_weight": {"start": 0.9, "end": 0.1}},
                    "trainer": {**common, **batch},
                },
                {
                    "name": "grpo",
                    "kind": "grpo",
                    "data": "rl",
                    "rewards": [{"use": contrast}],
                    "trainer": {**common, **batch, "num_generations": 4, "max_completion_length": 8, "use_vllm": False},
                },
            ],
        }
    )
    before = str(small(family))
    for stage, run in zip(recipe.stages, (sft.run, grpo.run), strict=True):
        out = tmp_path / stage.name
        run(recipe, stage, before, out, stage.name)  # type: ignore[operator]
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in metrics if "loss" in line]
        assert len(losses) == 2
        assert all(map(math.isfinite, losses))
        old, new = _weights(before), _weights(str(out / "model"))
        assert old.keys() == new.keys()
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        assert any("vision" in name or "visual" in name for name in moved) == (family in VLMS)
        assert any("layers.0.self_attn" in name for name in moved)
        before = str(out / "model")
    assert ChatFormat(before).prompt_text("?") == ChatFormat(str(small(family))).prompt_text("?")


def _weights(folder: str) -> dict[str, torch.Tensor]:
    return dict(load(folder, torch.float32).named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_training_rollouts_and_evaluation_see_the_same_prompt_and_stop_at_the_same_token(
    family: str, small: Callable[[str], Path], data: Callable[..., Data], tmp_path: Path
) -> None:
    """TRL alone trains LLaVA-NeXT without the beginning-of-sequence token that its rollouts have."""
    chat, source = ChatFormat(str(small(family))), data(family)
    batch = collated(sft_trainer(chat, source, tmp_path), range(2))
    rollouts = RolloutTrainer(
        model=str(small(family)),
        chat=chat,
        reward_funcs=[lambda completions, **columns: [0.0] * len(completions)],
        args=GRPOConfig(**arguments(tmp_path), num_generations=2),
        train_dataset=grpo_rows(rollout_rows(source, chat, grpo_stage()), source, grpo_stage()),
        stage=grpo_stage(),
    )
    rows = read(source).select(range(2))
    prompts = [chat.conversation(row["question"], row.get("images") or []) for row in rows]
    sampled_from = rollouts._tokenize_prompts(prompts)[0]
    asked = TransformersDecoder(ChatFormat(str(small(family))), "float32")._inputs(list(rows))
    for index, row in enumerate(rows):
        ids = batch["input_ids"][index][batch["attention_mask"][index] == 1].tolist()
        response = batch["labels"][index][batch["labels"][index] != -100].tolist()
        prompt = ids[: len(ids) - len(response)]
        assert prompt == list(sampled_from[index])
        assert prompt == asked["input_ids"][index][asked["attention_mask"][index] == 1].tolist()
        assert chat.length(response) < len(response)
        assert parse(chat.response(response)) == Response(row["think"], row["answer"])


@pytest.mark.parametrize("family", FAMILIES)
def test_token_masks_agree_with_the_text_parser(
    family: str, small: Callable[[str], Path], data: Callable[..., Data], tmp_path: Path
) -> None:
    chat = ChatFormat(str(small(family)))
    batch = collated(sft_trainer(chat, data(family, "mixed"), tmp_path), range(len(ROWS)))
    assert torch.equal(batch["segments"] != 0, batch["labels"] != -100)
    for ids, segments, row in zip(batch["input_ids"], batch["segments"], ROWS, strict=True):
        think, answer = (_text(chat, ids[segments == segment].tolist()) for segment in (THINK, ANSWER))
        assert think.count("</think>") == 1
        assert "".join(row["think"].split()) in "".join(think.split())
        assert row["answer"] in answer
        assert "</think>" not in answer
        assert "</answer>" in answer


def _text(chat: ChatFormat, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))
