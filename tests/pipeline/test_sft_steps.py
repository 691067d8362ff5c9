"""Every way of cutting a batch gives the same optimizer steps, and they are the ones of the definition.

Weights are compared after several steps with a plain loop in float64 (tests/support/steps.py). Qwen2.5-VL and Gemma-3
decline loss arguments, so that stock SFT would average micro-batch means.
"""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from eval.chat import ChatFormat
from pipeline.loss import ANSWER, think_weight
from pipeline.recipe.schema import Loss, SegmentLoss, ThinkWeight
from tests.support.steps import (
    ROWS,
    SCALE,
    SHORT,
    collated,
    difference,
    load,
    log_prob_gradient,
    reference,
    torchrun_steps,
    trainer,
)

FAMILIES = ["qwen2_5_vl", "llama"]
FOURS = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]]  # two epochs of eight rows
FIVES = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] * 2  # two epochs of ten rows, two steps each
LIMIT = 1e-6


@pytest.fixture(scope="module")
def expected(small: Callable[[str], Path]) -> Callable[..., tuple[Any, list[float]]]:
    """The model and the losses of the plain loop, computed once for each question."""

    @cache
    def expected(family: str, kind: str, loss: str | None = None, max_length: int | None = None) -> Any:
        steps = {"fours": FOURS, "short": SHORT, "fives": FIVES}[kind]
        model = load(str(small(family)), torch.float64)
        chosen: Any = loss or SCALE
        return model, reference(model, ChatFormat(str(small(family))), steps, chosen, max_length)

    return expected


def _check(trained: Any, expected: tuple[Any, list[float]], limit: float = LIMIT, loss_limit: float = 1e-4) -> None:
    model, losses = expected
    logged = [line["loss"] for line in trained.state.log_history if "loss" in line]
    assert logged == pytest.approx(losses, abs=loss_limit)
    assert difference(trained.model, model) <= limit


@pytest.mark.parametrize(
    ("kind", "rows", "batch", "accumulation"),
    [
        ("fours", 8, 4, 1),
        ("fours", 8, 2, 2),
        ("fours", 8, 1, 4),
        ("short", ROWS, 4, 1),
        ("short", ROWS, 2, 2),
        ("short", ROWS, 1, 4),
        ("fives", ROWS, 5, 1),
        ("fives", ROWS, 1, 5),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cut_of_a_batch_gives_the_steps_of_the_definition(
    small: Callable[[str], Path],
    expected: Callable[..., Any],
    tmp_path: Path,
    family: str,
    kind: str,
    rows: int,
    batch: int,
    accumulation: int,
) -> None:
    chat = ChatFormat(str(small(family)))
    trained = trainer(str(small(family)), chat, tmp_path, batch, accumulation, rows)
    trained.train()
    _check(trained, expected(family, kind))


@pytest.mark.parametrize("family", ["gemma3", "llava_next", "qwen3_vl", "smolvlm", "qwen3"])
def test_the_other_families_take_the_same_steps(
    small: Callable[[str], Path], expected: Callable[..., Any], tmp_path: Path, family: str
) -> None:
    trained = trainer(str(small(family)), ChatFormat(str(small(family))), tmp_path, 2, 2)
    trained.train()
    _check(trained, expected(family, "short"))


def test_an_uneven_window_of_micro_batches_is_still_a_mean_over_its_sequences(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    """Five rows an epoch in micro-batches of two, two and one."""
    folder = str(small("qwen2_5_vl"))
    trained = trainer(folder, ChatFormat(folder), tmp_path, 2, 3, rows=5)
    trained.train()
    model = load(folder, torch.float64)
    _check(trained, (model, reference(model, ChatFormat(folder), [[0, 1, 2, 3, 4]] * 2)))


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "accumulation"), [(2, 1), (1, 2)])
def test_two_ranks_take_the_same_steps(
    small: Callable[[str], Path], tmp_path: Path, batch: int, accumulation: int
) -> None:
    """Ten rows do not fill the last step of two ranks: accelerate begins again, and these rows count like others."""
    folder = str(small("qwen2_5_vl"))
    log = torchrun_steps(folder, tmp_path, batch, accumulation)["log"]
    model = load(folder, torch.float64)
    last = [8, 9, 0, 1] if batch == 2 else [8, 9]
    losses = reference(model, ChatFormat(folder), [[0, 1, 2, 3], [4, 5, 6, 7], last] * 2)
    assert difference(load(str(tmp_path / "model"), torch.float32), model) <= LIMIT
    assert [line["loss"] for line in log if "loss" in line] == pytest.approx(losses, abs=1e-4)
    for line, step in zip(log, range(6), strict=False):  # reduced over both ranks
        weight = think_weight(SCALE.think_weight, step / 6)
        assert line["think_weight"] == pytest.approx(weight, abs=1e-6)
        assert line["loss"] == pytest.approx(weight * line["think_nll"] + (1 - weight) * line["answer_nll"], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", ["token_mean", "sample_token_mean"])
def test_the_controls_take_the_steps_of_their_definitions(
    small: Callable[[str], Path], expected: Callable[..., Any], tmp_path: Path, family: str, loss: Any
) -> None:
    trained = trainer(str(small(family)), ChatFormat(str(small(family))), tmp_path, 2, 2, loss=loss)
    trained.train()
    _check(trained, expected(family, "short", loss))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing(
    small: Callable[[str], Path], expected: Callable[..., Any], tmp_path: Path, family: str
) -> None:
    trained = trainer(str(small(family)), ChatFormat(str(small(family))), tmp_path, 2, 2, gradient_checkpointing=True)
    trained.train()
    assert trained.model.is_gradient_checkpointing
    _check(trained, expected(family, "short"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_the_padding_changes_nothing(
    small: Callable[[str], Path], expected: Callable[..., Any], tmp_path: Path, family: str, side: str
) -> None:
    chat = ChatFormat(str(small(family)))
    chat.tokenizer.padding_side = side
    trained = trainer(str(small(family)), chat, tmp_path, 4, 1)
    trained.train()
    _check(trained, expected(family, "short"))


def test_padding_on_the_left_of_a_batch_changes_no_step(
    small: Callable[[str], Path], expected: Callable[..., Any], tmp_path: Path
) -> None:
    """TRL's collators pad on the right whatever the tokenizer says, so the batch itself is turned over here."""
    folder = str(small("llama"))
    trained = trainer(folder, ChatFormat(folder), tmp_path, 4, 1)
    trained.data_collator.collator = _PadLeft(trained.data_collator.collator)
    trained.train()
    _check(trained, expected("llama", "short"))


class _PadLeft:
    def __init__(self, collator: Callable[[Any], Any]) -> None:
        self.collator = collator

    def __call__(self, examples: Any) -> Any:
        batch = self.collator(examples)
        for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            for values in batch.values():
                values[row] = values[row].roll(values.shape[1] - length)
        batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        assert (batch["attention_mask"][:, 0] == 0).any()
        return batch


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [4, 1])
def test_truncated_rows_count_with_what_is_left_of_them(
    small: Callable[[str], Path], expected: Callable[..., Any], tmp_path: Path, family: str, batch: int
) -> None:
    """The pipeline refuses such rows; the trainer is right about them all the same, an empty answer included."""
    folder = str(small(family))
    longest = int(
        collated(trainer(folder, ChatFormat(folder), tmp_path, 4, 1), range(ROWS))["attention_mask"].sum(dim=1).max()
    )
    trained = trainer(folder, ChatFormat(folder), tmp_path, batch, 4 // batch, max_length=longest - 15)
    answers = (collated(trained, range(ROWS))["segments"] == ANSWER).sum(dim=1)
    assert answers.min() == 0
    assert answers.max() > 0
    trained.train()
    _check(trained, expected(family, "short", None, longest - 15))


@pytest.mark.parametrize("batch", [4, 1])
def test_an_adapter_takes_the_same_steps(small: Callable[[str], Path], tmp_path: Path, batch: int) -> None:
    folder = str(small("qwen2_5_vl"))
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(load(folder, torch.float32), lora)
    by_hand = copy.deepcopy(model).double()
    trained = trainer(model, ChatFormat(folder), tmp_path, batch, 4 // batch)
    trained.train()
    _check(trained, (by_hand, reference(by_hand, ChatFormat(folder), SHORT)))


def test_bfloat16_autocast_stays_near_the_definition(
    small: Callable[[str], Path], expected: Callable[..., Any], tmp_path: Path
) -> None:
    folder = str(small("llama"))
    whole, cut = (trainer(folder, ChatFormat(folder), tmp_path, batch, 4 // batch, bf16=True) for batch in (4, 1))
    whole.train()
    cut.train()
    for trained in (whole, cut):
        _check(trained, expected("llama", "short"), limit=1e-2, loss_limit=5e-2)
    assert difference(whole.model, cut.model) <= 1e-2
    assert difference(whole.model, load(folder, torch.float32)) > 5e-2  # it has moved by much more than that


def test_untrained_tokens_and_a_segment_of_weight_zero_get_no_gradient(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(small("llama"))
    answer_only = SegmentLoss(think_weight=ThinkWeight(start=0, end=0))
    trained = trainer(folder, ChatFormat(folder), tmp_path, 4, 1, loss=answer_only)
    gradient, segments = log_prob_gradient(trained, range(ROWS))
    assert torch.all(gradient[segments != ANSWER] == 0)
    assert torch.all(gradient[segments == ANSWER] < 0)
    assert float(-gradient.sum()) == pytest.approx(1)


def test_equal_weights_on_one_segment_is_cross_entropy(small: Callable[[str], Path], tmp_path: Path) -> None:
    """Rows one by one, trained on the answer alone: SCALe with weight zero is torch's own cross-entropy."""
    folder = str(small("llama"))
    loss: Loss = SegmentLoss(think_weight=ThinkWeight(start=0, end=0))
    trained = trainer(folder, ChatFormat(folder), tmp_path, 1, 1, loss=loss)
    trained.state.max_steps = 1
    for index in range(ROWS):
        batch = collated(trained, [index])
        labels = batch["labels"].masked_fill(batch["segments"] != ANSWER, -100)
        logits = trained.model(batch["input_ids"], batch["attention_mask"]).logits
        expected = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
        found = trained.compute_loss(trained.model, batch, num_items_in_batch=torch.tensor(1))
        assert found.item() == pytest.approx(expected.item(), abs=1e-6)
