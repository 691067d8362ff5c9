"""Runs that go on from a checkpoint, against the same runs undisturbed: every bit of weights, numbers, completions."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eval.chat import ChatFormat
from pipeline import grpo, sft
from pipeline.checkpoint.manifest import read_sealed, seal
from pipeline.checkpoint.run_folder import saved_checkpoints
from pipeline.checkpoint.trainer import MANIFEST, newest
from pipeline.recipe.schema import Recipe
from tests.faults.runs import differences, fingerprint
from tests.support.steps import trainer

EVERY = {"save_steps": 1, "save_total_limit": 50, "logging_steps": 1, "gradient_checkpointing": False}


def run(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train the recipe's stage in `out`; what it ends with."""
    stage = recipe.stages[0]
    run_stage: Any = sft.run if stage.kind == "sft" else grpo.run
    run_stage(recipe, stage, recipe.model.path, out, stage.name)
    for file in (out / "checkpoints" / "completions").glob("*"):
        (out / "completions").mkdir(exist_ok=True)
        shutil.copy(file, out / "completions")
    return fingerprint(out.parent)


def resumed_from_each(recipe: Recipe, tmp_path: Path) -> tuple[list[int], dict[int, list[str]]]:
    """The steps that a checkpoint was left of; and for those from which a resumed run ends otherwise, in what."""
    stage = recipe.stages[0].name
    undisturbed = tmp_path / "undisturbed" / stage
    expected = run(recipe, undisturbed)
    assert len(expected) > 3
    others: dict[int, list[str]] = {}
    steps = [int(folder.name.rpartition("-")[2]) for folder in saved_checkpoints(undisturbed / "checkpoints")]
    for step in steps:
        out = tmp_path / str(step) / stage
        (out / "checkpoints").mkdir(parents=True)
        name = f"checkpoint-{step}"
        shutil.copytree(undisturbed / "checkpoints" / name, out / "checkpoints" / name)
        for kept in ("metrics.jsonl", "completions"):  # as a kill leaves them: with steps that come again
            if (undisturbed / kept).is_dir():
                shutil.copytree(undisturbed / kept, out / kept)
            elif (undisturbed / kept).exists():
                shutil.copy(undisturbed / kept, out)
        if differing := differences(run(recipe, out), expected):
            others[step] = differing
        shutil.rmtree(out)
    return steps, others


def sft_recipe(model: Path, tmp_path: Path, vlm: bool = False, **keys: Any) -> Recipe:
    rows = []
    for index in range(14):
        row: dict[str, Any] = {"id": str(index), "question": f"What is {index} plus 2?", "answer": str(index + 2)}
        row["think"] = "I see it." + " Is that so? Yes!" * (index % 3)
        if vlm:
            Image.new("RGB", (60 + 10 * (index % 3), 60), (index * 15, 90, 10)).save(tmp_path / f"{index}.png")
            row["images"] = [str(tmp_path / f"{index}.png")]
        rows.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    trainer = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 3e-3, **EVERY}
    stage = {"name": "sft", "kind": "sft", "data": "rows", "loss": {"think_weight": {"start": 0.9, "end": 0.1}}, **keys}
    return Recipe.model_validate(
        {
            "name": "resumed",
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"rows": {"path": str(tmp_path / "rows.jsonl")}},
            "stages": [{**stage, "trainer": {**trainer, **keys.get("trainer", {})}}],
        }
    )


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_sft_goes_on_exactly_from_every_checkpoint(small: Callable[[str], Path], tmp_path: Path, strategy: str) -> None:
    """Three epochs of seven micro-batches, two a step: the last step of each epoch has one."""
    settings = {"num_train_epochs": 3, "train_sampling_strategy": strategy}
    steps, others = resumed_from_each(sft_recipe(small("qwen3"), tmp_path, trainer=settings), tmp_path)
    assert steps == list(range(1, 13))
    assert others == {}


def test_sft_of_an_adapter_with_dropout_goes_on_exactly(small: Callable[[str], Path], tmp_path: Path) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": 0.1}
    recipe = sft_recipe(small("qwen3"), tmp_path, lora=lora, trainer={"max_steps": 5})
    steps, others = resumed_from_each(recipe, tmp_path)
    assert steps == [1, 2, 3, 4, 5]
    assert others == {}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next", "gemma3"])
def test_a_vision_language_model_goes_on_exactly(small: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    """Their files carry other names than their modules: transformers restores next to nothing of them."""
    recipe = sft_recipe(small(family), tmp_path, vlm=True, trainer={"max_steps": 4, "save_steps": 2})
    steps, others = resumed_from_each(recipe, tmp_path)
    assert steps == [2, 4]
    assert others == {}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next", "gemma3"])
def test_every_tensor_of_a_checkpoint_is_restored(small: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    model = small(family)
    trained = trainer(str(model), ChatFormat(str(model)), tmp_path, 2, 1)
    restored = trainer(str(model), ChatFormat(str(model)), tmp_path, 2, 1)
    with torch.no_grad():
        for weight in trained.model.parameters():
            weight.add_(1.0)
    trained.save_model(str(tmp_path / "saved"))
    restored._load_from_checkpoint(str(tmp_path / "saved"))
    pairs = list(zip(trained.model.state_dict().items(), restored.model.state_dict().values(), strict=True))
    assert len(pairs) > 50
    assert [name for (name, one), other in pairs if not torch.equal(one, other)] == []


def test_a_checkpoint_that_lacks_a_tensor_is_not_filled_up(small: Callable[[str], Path], tmp_path: Path) -> None:
    model = small("qwen3")
    trained = trainer(str(model), ChatFormat(str(model)), tmp_path, 2, 1)
    trained.save_model(str(tmp_path / "saved"))
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"lacks 1 tensors, the first model\.norm\.weight"):
        trained._load_from_checkpoint(str(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("settings", "stage", "expected"),
    [
        ({"max_steps": 12}, {}, list(range(1, 13))),
        (
            {"max_steps": 12, "gradient_accumulation_steps": 2, "steps_per_generation": 4, "save_steps": 2},
            {},
            [2, 4, 6, 8, 10, 12],
        ),
        ({"max_steps": 8, "num_iterations": 2, "save_steps": 2, "beta": 0.1}, {}, [2, 4, 6, 8]),
        ({"max_steps": 4, "learning_rate": 1e-2}, {"dynamic_sampling": 2}, [1, 2, 3, 4]),
    ],
    ids=["each step", "steps per generation", "iterations", "dynamic sampling"],
)
def test_grpo_goes_on_exactly_from_every_checkpoint(
    recipe: Callable[..., Recipe],
    contrast: str,
    tmp_path: Path,
    settings: dict[str, Any],
    stage: dict[str, Any],
    expected: list[int],
) -> None:
    """Eight questions, two a generation: from the fifth generation on, it is the second epoch."""
    rows = [{"id": f"q{n}", "question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(8)]
    batch = {"per_device_train_batch_size": 8, "learning_rate": 1e-2} | EVERY | settings
    steps, others = resumed_from_each(recipe({"use": contrast}, rows=rows, keys=stage, **batch), tmp_path)
    assert steps == expected
    assert others == {}


def test_a_save_that_falls_into_a_generation_waits_for_its_end(
    recipe: Callable[..., Recipe], contrast: str, tmp_path: Path
) -> None:
    """As a signal may ask for one at any step; `--check` refuses a recipe that would."""
    made = recipe({"use": contrast}, **{**EVERY, "max_steps": 7, "num_iterations": 3})
    run(made, tmp_path / "run" / "grpo")
    saved = [folder.name for folder in saved_checkpoints(tmp_path / "run" / "grpo" / "checkpoints")]
    assert saved == ["checkpoint-3", "checkpoint-6", "checkpoint-7"]  # at the last, training is over


def test_rotation_keeps_the_newest_and_what_is_set_aside(small: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = sft_recipe(small("qwen3"), tmp_path, trainer={"max_steps": 4, "save_total_limit": 1})
    out = tmp_path / "run" / "sft"
    aside = out / "checkpoints" / "checkpoint-1.corrupt"
    aside.mkdir(parents=True)
    run(recipe, out)
    assert sorted(path.name for path in (out / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-1.corrupt",
        "checkpoint-4",
    ]
    manifest = json.loads((out / "checkpoints" / "checkpoint-4" / MANIFEST).read_text())
    assert manifest["step"] == 4
    assert manifest["processes"] == 1
    assert manifest["batch"]["gradient_accumulation_steps"] == 2
    listed = {entry["path"] for entry in manifest["files"]}
    assert listed >= {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert "training_args.bin" not in listed


def test_no_pickle_of_a_checkpoint_runs_code(small: Callable[[str], Path], tmp_path: Path) -> None:
    """Whoever can write a checkpoint can write its manifest; what torch's safe loader refuses is not loaded."""
    recipe, out = sft_recipe(small("qwen3"), tmp_path, trainer={"max_steps": 2}), tmp_path / "run" / "sft"
    run(recipe, out)
    saved = out / "checkpoints" / "checkpoint-1"
    shutil.rmtree(out / "checkpoints" / "checkpoint-2")
    manifest = read_sealed(saved / MANIFEST)
    for name, refused in {"training_args.bin": False, "optimizer.pt": True, "rng_state.pth": True}.items():
        kept = (saved / name).read_bytes() if (saved / name).exists() else None
        (saved / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        seal(saved / MANIFEST, saved, {key: value for key, value in manifest.items() if key != "files"})
        if refused:
            with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
                run(recipe, out)
        if kept is not None:
            (saved / name).write_bytes(kept)
    seal(saved / MANIFEST, saved, {key: value for key, value in manifest.items() if key != "files"})
    run(recipe, out)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_is_resumed_from_that_is_not_as_it_was_written(
    small: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run" / "sft"
    run(sft_recipe(small("qwen3"), tmp_path, trainer={"max_steps": 3}), out)
    root = out / "checkpoints"
    state = root / "checkpoint-3" / "trainer_state.json"
    state.write_text(state.read_text().replace("3", "2", 1))
    (root / "checkpoint-2" / MANIFEST).unlink()
    (root / "checkpoint-2.corrupt").mkdir()
    assert newest(root) == root / "checkpoint-1"
    names = {path.name for path in root.glob("checkpoint-*")}
    assert names == {"checkpoint-1", "checkpoint-2.corrupt", "checkpoint-2.corrupt-2", "checkpoint-3.corrupt"}
    said = capsys.readouterr().err
    assert "checkpoint-3 cannot be resumed from (trainer_state.json is not what was written)" in said
    assert "checkpoint-2 cannot be resumed from (there is no manifest.json: it was not finished)" in said
