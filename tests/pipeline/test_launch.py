"""The launcher's side of a job: the launch files as accelerate reads them, what is refused, what is overruled."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoint.run_folder import RunFolder
from pipeline.recipe.file import load
from pipeline.recipe.problem import RecipeError
from pipeline.sft import SegmentTrainer
from tests.support.inputs import ROOT, launch_under

DEMO = ROOT / "recipes" / "demo.yaml"
FILES = {
    "ddp": {},
    "fsdp2": {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_RESHARD_AFTER_FORWARD": "true"},
    "zero2": {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"},
}


def test_every_launch_file_is_looked_at() -> None:
    assert {path.stem for path in (ROOT / "recipes" / "accelerate").glob("*.yaml")} == {*FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_launch_file_asks_for_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch_under(monkeypatch, name).items() >= FILES[name].items()
    load(DEMO, [])


@pytest.mark.parametrize(
    ("name", "line", "changed"),
    [
        ("fsdp2", "fsdp_state_dict_type: FULL_STATE_DICT", "fsdp_state_dict_type: SHARDED_STATE_DICT"),
        ("fsdp2", "fsdp_version: 2", "fsdp_version: 1"),
        ("zero3", "zero3_save_16bit_model: true", "zero3_save_16bit_model: false"),
    ],
)
def test_a_launch_that_would_hand_nothing_on_is_refused(
    name: str, line: str, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "recipes" / "accelerate" / f"{name}.yaml").read_text()
    (tmp_path / "launch.yaml").write_text(text.replace(line, changed))
    launch_under(monkeypatch, "launch", tmp_path)
    with pytest.raises(RecipeError) as refused:
        load(DEMO, [])
    [problem] = refused.value.problems
    assert problem.code == "sharding"
    assert line.split(":")[0] in problem.message


@pytest.mark.parametrize(("name", "refused"), [("fsdp2", True), ("zero3", True), ("zero2", False), ("ddp", False)])
def test_a_base_of_four_bits_is_not_cut(name: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    launch_under(monkeypatch, name)
    with pytest.raises(RecipeError, match=r"ddp\.yaml") if refused else contextlib.nullcontext():
        load(ROOT / "recipes" / "llava-v1.6-mistral-7b.yaml", [])


def test_a_run_has_a_port_of_its_own(trained: Callable[..., RunFolder]) -> None:
    """TRL's own choice is 29500 where that is free, for each of two runs that start together."""
    trained("sft")
    assert int(os.environ["MASTER_PORT"]) not in (29500, 23456, 12355, 12345)


def test_the_recipe_says_in_what_precision_and_not_the_launcher(
    trained: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch` with `mixed_precision: bf16`, on a recipe with `dtype: float32`."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    used: list[str] = []
    train = SegmentTrainer.train
    monkeypatch.setattr(
        SegmentTrainer,
        "train",
        lambda self, **given: (used.append(self.accelerator.mixed_precision), train(self, **given)),
    )
    trained("sft")
    assert used == ["no"]
