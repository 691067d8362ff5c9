"""What trackers get of a stage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.checkpoint.run_folder import RunFolder

SEGMENTS = {"think_nll", "answer_nll", "think_weight"}
OUTCOMES = {"outcome/malformed", "format_rate", "rewards/accuracy/mean", "completions/think_tokens"}


@pytest.mark.parametrize(("kind", "metrics"), [("sft", SEGMENTS), ("grpo", OUTCOMES)])
def test_tensorboard_gets_every_metric_that_the_file_has(
    trained: Callable[..., RunFolder], kind: str, metrics: set[str]
) -> None:
    folder = trained(kind, report_to="tensorboard")
    events = EventAccumulator(str(folder.stage(kind) / "tensorboard")).Reload()
    told = {
        tag.removeprefix("train/"): [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    lines = [json.loads(line) for line in (folder.stage(kind) / "metrics.jsonl").read_text().splitlines()]
    for name in metrics:
        assert told[name] == pytest.approx([line[name] for line in lines if name in line], rel=1e-6)
        assert len(told[name]) == 2


def test_trackio_gets_the_run_by_its_name(
    trained: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trackio
    from trackio import utils

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    trained("sft", report_to="trackio")
    found = trackio.Api().runs("told")
    assert [each.name for each in found] == ["told-sft"]


def test_wandb_writes_beside_the_stage(trained: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = trained("sft", report_to="wandb")
    assert list((folder.stage("sft") / "wandb").glob("offline-run-*/run-*.wandb"))
