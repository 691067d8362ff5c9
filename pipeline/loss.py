"""The SCALe loss and its controls, as one weight for each trained token.

Per sequence n, with think tokens T_n, answer tokens A_n and token cross-entropies l_i:

    L_n = w(p) * mean_{i in T_n} l_i  +  (1 - w(p)) * mean_{i in A_n} l_i            p = global_step / max_steps
    L   = mean of L_n over the sequences of the whole optimizer step (all micro-batches, all ranks)

What the paper (SCALe, arXiv 2603.18656) says: the weighting is dynamic, independent of segment length, and moves from
think to answer over training by a cosine. What it leaves open to us, and how we read it: the two weights sum to one
(with `answer_weight`, the other reading, the answer's is constant instead); their end points; a segment's mean is taken
per response and the responses' mean over the step (pooling the step's tokens of a segment would count long responses
more); p counts optimizer steps, with no warm-up or hold, so the last step still weighs a little more than `end`; the
tags of the thinking belong to think and all that follows `</think>`, blanks and end-of-turn token included, to answer,
so that no trained token is without a segment; a segment that a response lacks adds nothing, and the other one's weight
is not raised. Evaluation takes the weights of the schedule's end. Where we knowingly differ from a plain SFT loss: its
mean over tokens becomes a mean over responses, so the size of the gradient differs, which AdamW forgives and gradient
clipping does not.

Controls: `token_mean` is ordinary SFT (the true mean over the step's tokens; for Qwen-VL TRL's own is a
mean of micro-batch means), `sample_token_mean` the mean over responses of each one's token mean.

Axes: B batch, T tokens.
"""

import math

import torch

from pipeline.recipe.schema import Loss, ThinkWeight

THINK, ANSWER = 1, 2  # values of a segment id; 0 is a token that is not trained


def think_weight(schedule: ThinkWeight, progress: float) -> float:
    """`w(p)` for progress `p` in [0, 1].

    `cosine` is the paper's; `linear` and `constant` (at `start`) are ablations; `step` is `start` in the first half
    and `end` in the second (SFTKey, arXiv 2512.21017, with 1 and 0).
    """
    start, end = schedule.start, schedule.end
    match schedule.schedule:
        case "cosine":
            return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return start + (end - start) * progress
        case "step":
            return start if progress < 0.5 else end
        case "constant":
            return start


def token_weights(segments_BT: torch.Tensor, loss: Loss, progress: float) -> torch.Tensor:
    """The weight of each token's cross-entropy; their weighted sum over `denominator` is the loss.

    Args:
        segments_BT: segment ids (0, THINK or ANSWER), integer.
        loss: a loss of the recipe.
        progress: `p`, in [0, 1].

    Returns:
        float32 of the same shape, zero on untrained tokens.
    """
    if loss == "token_mean":
        return (segments_BT != 0).float()
    if loss == "sample_token_mean":
        return _share(segments_BT != 0)
    think = think_weight(loss.think_weight, progress)
    answer = 1 - think if loss.answer_weight is None else loss.answer_weight
    return think * _share(segments_BT == THINK) + answer * _share(segments_BT == ANSWER)


def denominator(segments_BT: torch.Tensor, loss: Loss) -> torch.Tensor:
    """What the sum of weighted cross-entropies is divided by: trained tokens for `token_mean`, sequences otherwise."""
    trained_BT = segments_BT != 0
    return trained_BT.sum() if loss == "token_mean" else trained_BT.any(dim=1).sum()


def _share(mask_BT: torch.Tensor) -> torch.Tensor:
    """`1 / count` on the tokens of each row's mask: a sum with these weights is the row's mean."""
    return mask_BT / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
