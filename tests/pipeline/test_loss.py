"""The loss against hand arithmetic."""

import pytest
import torch

from pipeline.loss import ANSWER, THINK, denominator, think_weight, token_weights
from pipeline.recipe.schema import Loss, SegmentLoss, ThinkWeight

SCALE = SegmentLoss(think_weight=ThinkWeight(start=0.9, end=0.1))
# Two sequences: a prompt token, 4 think and 2 answer tokens; a prompt token, 1 think, 3 answer tokens, padding.
SEGMENTS_BT = torch.tensor([[0, 1, 1, 1, 1, 2, 2], [0, 1, 2, 2, 2, 0, 0]])
NLL_BT = torch.tensor([[9.0, 1, 2, 3, 4, 5, 7], [9.0, 8, 1, 2, 6, 9, 9]])


def _loss(loss: Loss, progress: float) -> float:
    weights_BT = token_weights(SEGMENTS_BT, loss, progress)
    return ((weights_BT * NLL_BT).sum() / denominator(SEGMENTS_BT, loss)).item()


@pytest.mark.parametrize(
    ("schedule", "at_0", "at_quarter", "at_half", "at_1"),
    [
        ("cosine", 0.9, 0.1 + 0.8 * (1 + 2**-0.5) / 2, 0.5, 0.1),
        ("linear", 0.9, 0.7, 0.5, 0.1),
        ("step", 0.9, 0.9, 0.1, 0.1),
        ("constant", 0.9, 0.9, 0.9, 0.9),
    ],
)
def test_weights_follow_the_schedule(
    schedule: str, at_0: float, at_quarter: float, at_half: float, at_1: float
) -> None:
    weight = ThinkWeight.model_validate({"start": 0.9, "end": 0.1, "schedule": schedule})
    found = [think_weight(weight, progress) for progress in (0, 0.25, 0.5, 1)]
    assert found == pytest.approx([at_0, at_quarter, at_half, at_1])


def test_reversed_end_points_rise() -> None:
    assert think_weight(ThinkWeight(start=0.1, end=0.9), 0) == pytest.approx(0.1)
    assert think_weight(ThinkWeight(start=0.1, end=0.9), 1) == pytest.approx(0.9)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_scale_is_the_weighted_sum_of_segment_means(progress: float) -> None:
    w = think_weight(SCALE.think_weight, progress)
    first = w * (1 + 2 + 3 + 4) / 4 + (1 - w) * (5 + 7) / 2
    second = w * 8 + (1 - w) * (1 + 2 + 6) / 3
    assert _loss(SCALE, progress) == pytest.approx((first + second) / 2)


def test_the_other_reading_keeps_the_answers_weight() -> None:
    loss = SegmentLoss(think_weight=ThinkWeight(start=1, end=0.2, schedule="linear"), answer_weight=2)
    first = 0.6 * (1 + 2 + 3 + 4) / 4 + 2 * (5 + 7) / 2
    second = 0.6 * 8 + 2 * (1 + 2 + 6) / 3
    assert _loss(loss, 0.5) == pytest.approx((first + second) / 2)


def test_token_mean_is_the_mean_over_all_trained_tokens() -> None:
    assert _loss("token_mean", 0.3) == pytest.approx((1 + 2 + 3 + 4 + 5 + 7 + 8 + 1 + 2 + 6) / 10)


def test_sample_token_mean_is_the_mean_of_sequence_means() -> None:
    assert _loss("sample_token_mean", 0.3) == pytest.approx(((1 + 2 + 3 + 4 + 5 + 7) / 6 + (8 + 1 + 2 + 6) / 4) / 2)


def test_equal_weights_on_one_segment_is_cross_entropy() -> None:
    segments_BT = torch.tensor([[0, 2, 2, 2]])
    answer_only = SegmentLoss(think_weight=ThinkWeight(start=0, end=0))
    assert token_weights(segments_BT, answer_only, 0.5)[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


def test_lengthening_think_leaves_the_answer_share_unchanged() -> None:
    longer_BT = torch.tensor([[0] + [THINK] * 40 + [ANSWER] * 2])
    short_BT = SEGMENTS_BT[:1]
    shares = [
        (token_weights(segments_BT, SCALE, 0.2) * (segments_BT == ANSWER)).sum().item()
        for segments_BT in (short_BT, longer_BT)
    ]
    assert shares[0] == pytest.approx(shares[1])


def test_a_sample_without_answer_contributes_only_its_think_term() -> None:
    weights_BT = token_weights(torch.tensor([[0, 1, 1]]), SCALE, 0.0)
    assert weights_BT[0].tolist() == pytest.approx([0, 0.45, 0.45])


def test_the_weight_is_zero_outside_both_segments() -> None:
    for loss in ("token_mean", "sample_token_mean", SCALE):
        assert torch.all(token_weights(SEGMENTS_BT, loss, 0.5)[SEGMENTS_BT == 0] == 0)  # type: ignore[arg-type]
