"""The paper's three model families and others, through both stages: SCALe-SFT, the hand-off, GRPO."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from families import FAMILIES, VLMS
from PIL import Image as PILImage
from steps import collated, grpo_stage, load
from trl import GRPOConfig, SFTConfig

from eval.chat import ChatFormat
from eval.data.rows import read
from eval.decode import TransformersDecoder
from pipeline import grpo, sft
from pipeline.data.prepare import grpo_rows, rollout_rows, sft_rows
from pipeline.loss import ANSWER, THINK
from pipeline.recipe.schema import Data, Recipe
from pipeline.rollout.trainer import RolloutTrainer
from pipeline.sft import SegmentTrainer
from rewards.response import Response, parse

SUMS = [(3, 4), (6, 2), (5, 5), (1, 8)]
ROWS = [
    {
        "id": str(index),
        "question": f"What is {a} plus {b}?",
        "think": f"I see {a} and {b}; é ≠ 数.{' Yes!' * index} Together they are {a + b}.",
        "answer": str(a + b),
    }
    for index, (a, b) in enumerate(SUMS)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Data]:
    """Rows for a family: text, or with no, one, one and two images of different sizes."""
    folder = tmp_path_factory.mktemp("sums")
    text = Features({name: Value("string") for name in ROWS[0]})
    Dataset.from_list(ROWS, features=text).to_parquet(folder / "text.parquet")
    for name, counts in (("images", (1, 1, 1, 1)), ("mixed", (0, 1, 1, 2))):
        rows = [{**row, "images": _pictures(count)} for row, count in zip(ROWS, counts, strict=True)]
        features = Features({**text, "images": List(Image())})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{name}.parquet")

    def data(family: str, images: str = "images") -> Data:
        return Data(path=str(folder / f"{images if family in VLMS else 'text'}.parquet"))

    return data


def _pictures(count: int) -> list[PILImage.Image]:
    noise = torch.Generator().manual_seed(count)
    sizes = [(60, 70), (120, 60)][:count]
    return [
        PILImage.fromarray(torch.randint(0, 256, (*size, 3), generator=noise).to(torch.uint8).numpy()) for size in sizes
    ]


def _arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "model_init_kwargs": {"dtype": "float32"},
        "per_device_train_batch_size": 2,
    }


def _sft_trainer(chat: ChatFormat, rows: Data, folder: Path) -> SegmentTrainer:
    return SegmentTrainer(
        model=chat.checkpoint,
        args=SFTConfig(**_arguments(folder), max_length=None),
        train_dataset=sft_rows(rows, chat),
        chat=chat,
        loss="token_mean",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_in_both_stages_and_loads_again(
    family: str, small: Callable[[str], Path], data: Callable[[str], Data], contrast: str, tmp_path: Path
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
    family: str, small: Callable[[str], Path], data: Callable[[str], Data], tmp_path: Path
) -> None:
    """TRL alone trains LLaVA-NeXT without the beginning-of-sequence token that its rollouts have."""
    chat, source = ChatFormat(str(small(family))), data(family)
    batch = collated(_sft_trainer(chat, source, tmp_path), range(2))
    rollouts = RolloutTrainer(
        model=str(small(family)),
        chat=chat,
        reward_funcs=[lambda completions, **columns: [0.0] * len(completions)],
        args=GRPOConfig(**_arguments(tmp_path), num_generations=2),
        train_dataset=grpo_rows(rollout_rows(source, chat, grpo_stage()), source, grpo_stage()),
        stage=grpo_stage(),
    )
    rows = read(source).select(range(2))
    prompts = [chat.conversation(row["question"], row.get("images") or []) for row in rows]
    sampled_from = rollouts._tokenize_prompts(prompts)[0]
    asked = TransformersDecoder(ChatFormat(str(small(family))), "float32", "")._inputs(list(rows))
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
    family: str, small: Callable[[str], Path], data: Callable[[str], Data], tmp_path: Path
) -> None:
    chat = ChatFormat(str(small(family)))
    batch = collated(_sft_trainer(chat, data(family, "mixed"), tmp_path), range(len(ROWS)))
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


@pytest.mark.parametrize("family", VLMS)
def test_a_prompt_has_as_many_tokens_as_the_check_counts(
    family: str, small: Callable[[str], Path], data: Callable[[str], Data], tmp_path: Path
) -> None:
    """At the limit nothing is left out; one token less, and the longest row is named."""
    chat, source = ChatFormat(str(small(family))), data(family, "mixed")
    batch = collated(_sft_trainer(chat, source, tmp_path), range(len(ROWS)))
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    longest = lengths.index(max(lengths))
    assert len(sft_rows(source, chat, max(lengths))) == len(ROWS)
    with pytest.raises(ValueError, match=f"id={longest} too_long: {max(lengths)} tokens"):
        sft_rows(source, chat, max(lengths) - 1)
    dropped = source.model_copy(update={"bad_rows": "drop"})
    assert len(sft_rows(dropped, chat, max(lengths) - 1)) == len(ROWS) - lengths.count(max(lengths))
