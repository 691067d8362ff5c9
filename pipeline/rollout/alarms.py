"""What ends a run, or is said, when its rollouts or rewards teach nothing."""

from collections.abc import Sequence

import torch

from pipeline.launch import tell
from pipeline.rollout.engine import RolloutError

DIFFERENCE = "sampling/sampling_logp_difference/mean"
RATIO = "sampling/importance_sampling_ratio/mean"
LOWEST_RATIO = 0.1  # our choice: nine tenths of what is learned from the completions is gone


def check_agreement(difference: float, ratio: float, limit: float, step: int) -> None:
    """That the rollout engine and the trainer agree about the tokens of a generation, before a step is taken on it.

    Both hold the same weights, so the mean absolute difference of their log-probabilities (in nats) is rounding, and
    the mean of the trainer's probability over the engine's is near 1. Where the engine keeps old weights they are not;
    the importance correction then scales the loss to nothing, and GRPO silently learns nothing.

    Raises:
        RolloutError: they do not.
    """
    if difference <= limit and LOWEST_RATIO <= ratio <= 1 / LOWEST_RATIO:
        return
    measured = (
        f"step {step}: the rollout engine's log-probabilities differ from the trainer's by {difference:.4f} nats on "
        f"average (max_logp_difference: {limit}), the mean importance ratio is {ratio:.4f} (allowed: {LOWEST_RATIO} to "
        f"{1 / LOWEST_RATIO:g})"
    )
    if difference <= limit:
        causes = "small differences over many tokens: ratios of single tokens (vllm_importance_sampling_mode: "
        causes += "token_truncate) do not multiply them"
    else:
        causes = "weights that did not reach the engine (tied embeddings, stale vision features, a server of another "
        causes += "model), a different dtype or attention in the two, or sampling settings that change probabilities "
        causes += "after the fact (a repetition penalty, top_p, a logit bias)"
    raise RolloutError(f"{measured}. The likely causes: {causes}")


class ConstantRewards:
    """Says on stderr when rewards have told completions apart nowhere for `PATIENCE` generations in a row.

    A group whose completions all get the same has no advantage: nothing is learned from it, and nothing else says so.
    """

    PATIENCE = 10  # our choice

    def __init__(self, names: Sequence[str]) -> None:
        self.flat = dict.fromkeys([*names, ""], 0)  # generations in a row; "" is the weighted sum within each group

    def see(self, rewards: torch.Tensor, totals: torch.Tensor, step: int) -> None:
        """Look at one generation: `rewards` are N completions by F functions, `totals` groups by completions."""
        spread = dict(zip(self.flat, [column[~column.isnan()] for column in rewards.T], strict=False))
        flat = {name: bool((values == values[:1]).all()) for name, values in spread.items()}
        flat[""] = bool((totals == totals[:, :1]).all())
        for name, is_flat in flat.items():
            self.flat[name] = self.flat[name] + 1 if is_flat else 0
            if self.flat[name] == self.PATIENCE:
                what = f"reward {name!r} gave one value to every completion" if name else _NO_ADVANTAGE
                tell(f"WARNING step {step}: {what} of the last {self.PATIENCE} generations")


_NO_ADVANTAGE = "all completions of each group got the same reward, so nothing is learned,"
