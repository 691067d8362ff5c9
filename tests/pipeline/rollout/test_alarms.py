"""What ends a run, or is said, when its rollouts or rewards teach nothing."""

from pathlib import Path

import pytest
import torch

from pipeline.rollout.alarms import ConstantRewards, check_agreement
from pipeline.rollout.engine import RolloutError
from tests.support.questions import MakeRecipe, Train


def test_an_engine_that_disagrees_stops_the_run_before_the_step() -> None:
    check_agreement(0.02, 0.98, 0.1, 3)
    with pytest.raises(RolloutError, match=r"step 3: .* 0\.5900 nats .* weights that did not reach the engine"):
        check_agreement(0.59, 0.006, 0.1, 3)
    with pytest.raises(RolloutError, match="weights that did not reach the engine"):
        check_agreement(float("nan"), 1.0, 0.1, 3)
    with pytest.raises(
        RolloutError, match=r"ratio is 0\.0600 \(allowed: 0\.1 to 10\)\. .* small differences over many"
    ):
        check_agreement(0.01, 0.06, 0.1, 3)
    with pytest.raises(RolloutError, match=r"ratio is 12\.0000"):
        check_agreement(0.01, 12.0, 0.1, 3)


def test_rewards_that_tell_nothing_apart_are_reported(
    recipe: MakeRecipe,
    train: Train,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ConstantRewards, "PATIENCE", 2)
    train(recipe("accuracy", {"use": f"{own}:constant"}))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 3
    assert "reward 'accuracy' gave one value to every completion of the last 2 generations" in warnings[0]
    assert "reward 'constant' gave one value" in warnings[1]
    assert "all completions of each group got the same reward, so nothing is learned" in warnings[2]


def test_a_reward_that_differs_again_begins_a_new_count(capsys: pytest.CaptureFixture[str]) -> None:
    watch = ConstantRewards(["a", "b"])
    flat, nan = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[float("nan"), 0.0], [1.0, 1.0]])
    for step in range(2 * ConstantRewards.PATIENCE):
        rewards = (
            torch.tensor([[1.0, 0.0], [0.0, 1.0]]) if step == ConstantRewards.PATIENCE - 1 else (flat, nan)[step % 2]
        )
        watch.see(rewards, rewards.sum(dim=1).view(1, 2), step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"WARNING step {2 * ConstantRewards.PATIENCE - 1}: reward 'a'" in lines[0]
