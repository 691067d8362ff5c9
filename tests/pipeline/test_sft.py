"""The SFT stage's trainer beside its steps (test_sft_steps.py): segments, logs, resuming, what it needs of TRL."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from eval.chat import ChatFormat
from pipeline.loss import ANSWER, THINK, think_weight
from pipeline.sft import SegmentTrainer
from tests.support.families import template
from tests.support.steps import END, ROWS, SCALE, collated, dataset, difference, load, log_prob_gradient, trainer

STEPS = 6  # two epochs of ten rows in windows of four


@pytest.fixture(scope="module")
def folder(small: Callable[[str], Path]) -> str:
    return str(small("llama"))


def test_token_mean_equals_trls_own_loss(folder: str, tmp_path: Path) -> None:
    ours = trainer(folder, ChatFormat(folder), tmp_path, 2, 2, loss="token_mean")
    theirs = SFTTrainer(
        model=folder,
        args=ours.args,
        train_dataset=dataset(range(ROWS), vlm=False),
        processing_class=ChatFormat(folder).processor,
    )
    ours.train()
    theirs.train()
    assert difference(ours.model, theirs.model) <= 1e-6
    assert difference(ours.model, load(folder, torch.float32)) > 1e-3
    losses = [[line["loss"] for line in each.state.log_history if "loss" in line] for each in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_each_turn_of_a_conversation_has_both_segments(small: Callable[[str], Path], tmp_path: Path) -> None:
    chat = ChatFormat(str(small("qwen3")))
    chat.processor.chat_template = template("qwen2_5")
    turns = []
    for a, b in ((2, 3), (4, 1)):
        turns += [{"role": "user", "content": f"{a}+{b}?"}]
        turns += [{"role": "assistant", "content": f"<think>I see {a}, {b}.</think><answer>{a + b}</answer>"}]
    trained = SegmentTrainer(
        model=str(small("qwen3")),
        args=SFTConfig(output_dir=str(tmp_path), report_to="none", bf16=False, use_cpu=True, assistant_only_loss=True),
        train_dataset=Dataset.from_dict({"messages": [turns]}),
        chat=chat,
        loss=SCALE,
    )
    batch = collated(trained, [0])
    assert torch.equal(batch["segments"] != 0, batch["labels"] != -100)
    ids, segments = batch["input_ids"][0], batch["segments"][0]
    think, answer = (chat.tokenizer.decode(ids[segments == segment]).split() for segment in (THINK, ANSWER))
    # The token that closes think and opens the answer, `><`, straddles: it belongs to think, where it starts.
    assert " ".join(think) == "<think>I see 2, 3.</think>< <think>I see 4, 1.</think><"
    assert answer == ["answer>5</answer><|im_end|>"] * 2


def test_the_log_has_each_segment_and_the_weight_that_was_used(folder: str, tmp_path: Path) -> None:
    trained = trainer(folder, ChatFormat(folder), tmp_path, 1, 4)
    trained.train()
    logs = [line for line in trained.state.log_history if "loss" in line]
    expected = [think_weight(SCALE.think_weight, step / STEPS) for step in range(STEPS)]
    # Were the weight not constant in a window of four micro-batches, their mean would be another number.
    assert [line["think_weight"] for line in logs] == pytest.approx(expected, abs=1e-6)
    for line, weight in zip(logs, expected, strict=True):
        assert line["loss"] == pytest.approx(weight * line["think_nll"] + (1 - weight) * line["answer_nll"], abs=1e-4)
        assert line["answer_loss_share"] == pytest.approx((1 - weight) * line["answer_nll"] / line["loss"], abs=1e-4)
        assert line["think_tokens"] > 2 * line["answer_tokens"]


def test_doubling_the_think_trace_leaves_the_answers_share_of_the_gradient(folder: str, tmp_path: Path) -> None:
    trained = trainer(folder, ChatFormat(folder), tmp_path, 1, 1)
    shares, lengths = [], []
    for index in (0, 2):  # row 2 is row 0 with a longer trace
        gradient, segments = log_prob_gradient(trained, [index])
        shares.append(float(gradient[segments == ANSWER].sum() / gradient.sum()))
        lengths.append(int((segments == THINK).sum()))
    assert lengths[1] > 1.5 * lengths[0]
    assert shares[0] == pytest.approx(shares[1], abs=1e-6)


def test_evaluation_uses_fixed_weights_and_counts_every_row(folder: str, tmp_path: Path) -> None:
    """Ten rows in batches of four; the loss is the one of the schedule's end, at the first step and at the last."""
    settings = {"per_device_eval_batch_size": 4, "logging_steps": 100, "eval_rows": ROWS}
    trained = trainer(folder, ChatFormat(folder), tmp_path, 2, 2, **settings)
    results = []
    for _ in range(2):
        trained.state.max_steps = STEPS
        found = trained.evaluate()
        batch = collated(trained, range(ROWS))
        terms = {}
        with torch.no_grad():
            logits = trained.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        nll = -logits.log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
        for name, segment in (("think", THINK), ("answer", ANSWER)):
            masks = batch["segments"][:, 1:] == segment
            terms[name] = sum(float(row[mask].mean()) for row, mask in zip(nll, masks, strict=True)) / ROWS
        assert found["eval_loss"] == pytest.approx(END * terms["think"] + (1 - END) * terms["answer"], abs=1e-5)
        assert trained.state.log_history[-1]["eval_think_nll"] == pytest.approx(terms["think"], abs=1e-5)
        assert trained.state.log_history[-1]["eval_answer_nll"] == pytest.approx(terms["answer"], abs=1e-5)
        assert trained.state.log_history[-1]["eval_think_weight"] == pytest.approx(END)
        results.append(found["eval_loss"])
        trained.train()
    assert results[1] < results[0]


def test_evaluating_between_two_logs_leaves_the_training_metrics_alone(folder: str, tmp_path: Path) -> None:
    logs = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 1, "eval_rows": 3}):
        trained = trainer(folder, ChatFormat(folder), tmp_path, 4, 1, logging_steps=2, **settings)
        trained.train()
        logs.append([line["think_nll"] for line in trained.state.log_history if "think_nll" in line])
    assert len(logs[0]) == STEPS // 2
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)


def test_the_schedule_goes_on_after_a_resume(folder: str, tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": STEPS // 2}
    whole = trainer(folder, ChatFormat(folder), tmp_path, 2, 2, **settings)
    whole.train()
    resumed = trainer(folder, ChatFormat(folder), tmp_path, 2, 2, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    assert difference(whole.model, resumed.model) == 0
    weights = [[line["think_weight"] for line in each.state.log_history if "loss" in line] for each in (whole, resumed)]
    assert weights[0] == weights[1]


# --- what TRL must go on doing ----------------------------------------------------------------------------------------


def _loss(trained: SegmentTrainer) -> torch.Tensor:
    trained.state.max_steps = 1
    batch = collated(trained, range(2))
    loss: torch.Tensor = trained.compute_loss(trained.model, batch, num_items_in_batch=torch.tensor(2))
    return loss


def test_trl_calls_the_fused_head_once_and_reduces_nothing_but_its_log_probabilities(
    folder: str, tmp_path: Path
) -> None:
    trained, seen = trainer(folder, ChatFormat(folder), tmp_path, 2, 1), []
    model = trained.model

    def recorded(**inputs: Any) -> Any:
        seen.append(inputs)
        outputs = model(**inputs)
        outputs.log_probs = torch.full_like(outputs.log_probs, -1.0).requires_grad_()
        return outputs

    trained.state.max_steps = 1
    batch = collated(trained, range(2))
    loss = trained.compute_loss(recorded, batch, num_items_in_batch=torch.tensor(2))
    message = "TRL no longer calls model(**inputs, fused_lm_head=True) once; see pipeline/sft.py"
    assert [inputs.get("fused_lm_head") for inputs in seen] == [True], message
    assert "segments" not in seen[0]
    # Every cross-entropy is 1, and so are the weights of a sequence together.
    assert loss.item() == pytest.approx(1.0), "TRL no longer reduces log_probs alone; see pipeline/sft.py"


def _without_the_fused_head(self: Any, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
    return model(**{name: value for name, value in inputs.items() if name != "labels"}).logits.sum()


def _with_its_own_model(self: Any, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
    return self.model(**inputs, fused_lm_head=True).log_probs.sum()


@pytest.mark.parametrize("release", [_without_the_fused_head, _with_its_own_model])
def test_a_trl_that_computes_its_loss_otherwise_stops_the_run(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: Callable[..., Any]
) -> None:
    trained = trainer(folder, ChatFormat(folder), tmp_path, 2, 1)
    assert math.isfinite(_loss(trained))
    monkeypatch.setattr(SFTTrainer, "compute_loss", release)
    with pytest.raises(RuntimeError, match="does not work the way the segment loss needs"):
        _loss(trained)
