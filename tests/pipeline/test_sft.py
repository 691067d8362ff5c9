"""The SFT stage's trainer: real TRL, real Qwen2.5-VL and Llama classes, small."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from eval.chat import Chat
from pipeline.data import sft_rows
from pipeline.loss import ANSWER, THINK, items, think_weight, token_weights
from pipeline.recipe import Data, Loss, SegmentLoss, ThinkWeight
from pipeline.sft import SegmentTrainer

SCALE = SegmentLoss(think_weight=ThinkWeight(start=0.9, end=0.1))
STEPS = 3


@pytest.fixture(scope="module")
def rows(assets: Path) -> Dataset:
    return sft_rows(Data(path=str(assets / "sft.parquet")), Chat(str(assets / "model"))).select(range(4 * STEPS))


@pytest.fixture
def train(assets: Path, rows: Dataset, tmp_path: Path) -> Callable[..., SegmentTrainer]:
    def train(batch: int, accumulation: int, loss: Loss = SCALE, **settings: Any) -> SegmentTrainer:
        trainer = SegmentTrainer(
            model=str(assets / "model"),
            args=_arguments(tmp_path, batch, accumulation, **settings),
            train_dataset=rows,
            loss=loss,
        )
        trainer.train()
        return trainer

    return train


def _arguments(folder: Path, batch: int, accumulation: int, **settings: Any) -> SFTConfig:
    """Plain SGD, so that a difference in the gradient stays a difference of the same size in the weights."""
    return SFTConfig(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "max_steps": STEPS,
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "max_length": None,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            "model_init_kwargs": {"dtype": "float32"},
            "train_sampling_strategy": "sequential",
            **settings,
        }
    )


def _difference(a: torch.nn.Module, b: torch.nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


@pytest.mark.parametrize("loss", [SCALE, "token_mean", "sample_token_mean"], ids=["scale", "token_mean", "sample"])
def test_every_cut_of_a_batch_gives_the_same_steps(train: Callable[..., SegmentTrainer], loss: Loss) -> None:
    """Also for a model class that declines loss kwargs, where stock SFT averages micro-batch means."""
    whole = train(4, 1, loss).model
    assert _difference(whole, train(2, 2, loss).model) < 1e-6
    assert _difference(whole, train(1, 4, loss).model) < 1e-6


def test_training_equals_a_plain_loop_with_full_logits(
    assets: Path, rows: Dataset, train: Callable[..., SegmentTrainer]
) -> None:
    """The contract with TRL's fused head: per-token log-probabilities in, nothing else reduced."""
    trainer = train(4, 1)
    model = AutoModelForImageTextToText.from_pretrained(assets / "model", dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        batch = trainer.data_collator([rows[index] for index in range(4 * step, 4 * step + 4)])
        segments_BT = batch.pop("segments")[:, 1:]
        labels_BT = batch.pop("labels")[:, 1:].clamp(min=0)
        log_probs_BTV = model(**batch).logits[:, :-1].log_softmax(dim=-1)
        nll_BT = -log_probs_BTV.gather(2, labels_BT[..., None])[..., 0]
        weights_BT = token_weights(segments_BT, SCALE, step / STEPS)
        loss = (weights_BT * nll_BT).sum() / items(segments_BT, SCALE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.state.log_history[step]["loss"] == pytest.approx(loss.item(), abs=1e-4)
    assert _difference(trainer.model, model) < 1e-6


def test_token_mean_equals_trls_own_loss(assets: Path, rows: Dataset, tmp_path: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(assets / "model").tokenizer
    rows = rows.remove_columns("images")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    trained = []
    for trainer_class, extra in ((SFTTrainer, {}), (SegmentTrainer, {"loss": "token_mean"})):
        torch.manual_seed(0)
        trainer = trainer_class(
            model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)),
            args=_arguments(tmp_path, 2, 2, model_init_kwargs=None),
            train_dataset=rows,
            processing_class=tokenizer,
            **extra,
        )
        trainer.train()
        trained.append(trainer)
    assert _difference(trained[0].model, trained[1].model) < 1e-6
    losses = [[line["loss"] for line in trainer.state.log_history if "loss" in line] for trainer in trained]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_segments_cover_exactly_what_is_trained(rows: Dataset, train: Callable[..., SegmentTrainer]) -> None:
    trainer = train(4, 1, max_steps=1)
    examples = [rows[index] for index in range(4)]
    targets = [example["completion"][0]["content"] for example in examples]  # the collator changes its examples
    batch = trainer.data_collator(examples)
    assert torch.equal(batch["segments"] != 0, batch["labels"] != -100)
    for ids, segments, target in zip(batch["input_ids"], batch["segments"], targets, strict=True):
        think, answer = (trainer._tokenizer.decode(ids[segments == segment]) for segment in (THINK, ANSWER))
        assert think + answer == f"{target}<|im_end|>\n"
        assert think.startswith("<think>")
        assert think.count("</think>") == 1
        assert answer.endswith("</answer><|im_end|>\n")


def test_the_log_has_each_segment_and_the_weight_that_was_used(train: Callable[..., SegmentTrainer]) -> None:
    logs = train(2, 2).state.log_history[:STEPS]
    expected = [think_weight(SCALE.think_weight, step / STEPS) for step in range(STEPS)]
    assert [line["think_weight"] for line in logs] == pytest.approx(expected, abs=1e-6)
    for line, weight in zip(logs, expected, strict=True):
        assert line["loss"] == pytest.approx(weight * line["think_nll"] + (1 - weight) * line["answer_nll"], abs=1e-4)
        assert line["answer_loss_share"] == pytest.approx((1 - weight) * line["answer_nll"] / line["loss"], abs=1e-4)
        assert line["think_tokens"] > 5 * line["answer_tokens"]
