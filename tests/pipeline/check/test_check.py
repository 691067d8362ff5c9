"""`--check`: each mistake caught under its own code, at its file and row; a good recipe raises no alarm."""

import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from pipeline.main import main
from pipeline.recipe.file import load
from tests.support import inputs
from tests.support.checked import Checked, Found, row, write


@pytest.mark.parametrize(
    ("old", "new", "line", "code"),
    [
        ("name: checked", "name: [checked", 2, "yaml"),
        ("name: checked", "name: checked\nname: again", 2, "duplicate_key"),
        ("name: checked", "seed: 010\nname: checked", 1, "yaml_ambiguous"),
        ("name: checked", "name: !!python/object/apply:os.system [ls]", 1, "yaml_tag"),
        ("name: checked", "name: &a checked\nseed: *a", 2, "yaml_alias"),
        ("name: checked", "name: " + "[" * 5000, 1, "yaml_too_deep"),
        ("name: checked", "name: checked\nenv: {PATH: /tmp}", 2, "unknown_key"),
        ("name: checked", "# " + "x" * 200_000 + "\nname: checked", None, "yaml_too_large"),
        ("name: checked\n", "", 1, "missing_key"),
        ("kind: grpo", "kind: dpo", 15, "bad_value"),
        ("max_length: 400", "max_length: 512.5", 12, "bad_value"),
        ("max_length: 400", "learning_rate: -1", 12, "bad_value"),
        ("max_length: 400", "learning_rate: '1e-5'", 12, "bad_value"),
        ("max_length: 400", "gradient_checkpointing: yes", 12, "bad_value"),
        ("max_length: 400", "lr_scheduler_type: cosin", 12, "bad_value"),
        ("max_length: 400", "optim: adam", 12, "bad_value"),
        ("max_length: 400", "max_grad_norm: .inf", 12, "bad_value"),
        ("max_length: 400", "max_lenght: 400", 12, "unknown_key"),
        ("max_length: 400", "packing: true", 12, "reserved_key"),
        ("max_length: 400", "use_liger_kernel: true", 12, "package_missing"),
        ("max_length: 400", "report_to: swanlab", 12, "package_missing"),
        ("max_length: 400", "eval_strategy: epoch", 7, "eval_data"),
        ("max_steps: 3", "loss_type: ppo", 18, "bad_value"),
        ("max_steps: 3", "scale_rewards: all", 18, "bad_value"),
        ("max_steps: 3", "eval_strategy: steps", 18, "reserved_key"),
        ("max_steps: 3", "temperature: 0", 18, "bad_value"),
        ("num_generations: 4", "num_generations: 3", 18, "batch_arithmetic"),
        ("num_generations: 4", "num_generations: 4, generation_batch_size: 6", 18, "batch_arithmetic"),
        ("max_steps: 3", "num_iterations: 2, save_steps: 3", 18, "save_steps"),
        ("max_completion_length: 1500", "use_vllm: true, vllm_max_model_length: 100", 18, "too_long"),
        ("data: cold", "data: colt", 9, "unknown_data"),
        ("name: grpo", "name: sft", 14, "stage_name"),
        ("checkpoints: [base, grpo]", "checkpoints: [grop]", 19, "unknown_checkpoint"),
        ("tasks: [held.yaml]", "tasks: [hold.yaml]", 19, "task"),
        ("[accuracy,", "[own.py:none,", 17, "reward"),
    ],
)
def test_a_mistake_in_the_recipe(
    check: Callable[..., Checked], folder: Path, old: str, new: str, line: int | None, code: str
) -> None:
    text = (folder / "recipe.yaml").read_text()
    assert old in text
    (folder / "recipe.yaml").write_text(text.replace(old, new, 1))
    exit_code, problems, _ = check()
    assert exit_code == 2
    assert Found("recipe.yaml" if line is None else f"recipe.yaml:{line}", code, "-") in problems


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"sft.trainer.max_length": 100_000}, None, "no problem found"),
        ({"data.cold.path": "none.jsonl"}, "data", "no file none.jsonl"),
        (
            {"data.cold.format": "vision_r1"},
            "data",
            "missing: conversations; found: id, question, think",
        ),
        ({"data.cold.columns": "{question: ask}"}, "data", "missing: ask"),
        ({"data.cold.path": "held.yaml"}, "data", "held.yaml"),
        ({"data.cold.path": "broken.parquet"}, "data", "broken.parquet: cannot be read"),
        ({"data.rl.images": "elsewhere"}, "data", "elsewhere: no folder of images"),
        ({"model.path": "no/such-model"}, "model", "no such folder"),
        ({"grpo.trainer.max_completion_length": 2040}, "too_long", "a prompt and its longest completion do not fit"),
        ({"grpo.trainer.per_device_train_batch_size": 32}, "data", "6 prompts are fewer than a generation takes"),
        ({"sft.trainer.report_to": "mlflow"}, "package_missing", "pip install mlflow"),
        ({"sft.trainer.fsdp": "foo"}, "trainer", "recipe.yaml:11"),
        ({"grpo.trainer.debug": "overflow"}, "trainer", "recipe.yaml:18"),
        ({"sft.trainer.tf32": "true"}, None, "no problem found"),
        ({"grpo.rewards": "[own.py:breaks]"}, "reward", "recipe.yaml:17"),
    ],
)
def test_what_does_not_fit_together(
    check: Callable[..., Checked], folder: Path, change: dict[str, Any], code: str | None, words: str
) -> None:
    (folder / "own.py").write_text("def breaks(completions, gold, **columns):\n    return [0.0 for _ in completions]\n")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    exit_code, problems, text = check(*(f"{key}={value}" for key, value in change.items()))
    assert exit_code == (2 if code else 0)
    assert {problem.code for problem in problems} <= {code, "bad_rows"}
    assert words in text


def test_rows_with_and_without_images_cannot_be_mixed(check: Callable[..., Checked], folder: Path) -> None:
    write(folder / "rl.jsonl", [{**row(n), "question": f"{n}?", "images": ["0.png"] * (n % 2)} for n in range(6)])
    code, [problem], text = check()
    assert (code, problem.code, problem.place) == (2, "data", "recipe.yaml:5")
    assert "3 with images and 3 without" in text


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_where_ranks_would_wait_for_each_other_rows_must_be_alike(
    check: Callable[..., Checked], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A rank whose rows have no image does not call a vision tower that all ranks gather together."""
    write(folder / "cold.jsonl", [{**row(n), "images": ["0.png"] * (n % 2)} for n in range(6)])
    inputs.launch_under(monkeypatch, name)
    assert check().code == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, problems, text = check()
    assert code == (0 if name == "ddp" else 2), text
    assert [problem.place for problem in problems] == ([] if name == "ddp" else ["recipe.yaml:4"])
    assert ("3 of 6 rows have images" in text) == (name != "ddp")


def test_a_text_model_cannot_see(check: Callable[..., Checked], folder: Path, small: Callable[[str], Path]) -> None:
    code, problems, _ = check(f"model.path={small('qwen3')}")
    assert code == 2
    assert {problem.code for problem in problems} == {"unseen_images", "bad_rows"}


def test_a_bad_row_of_a_task_is_named(check: Callable[..., Checked], folder: Path) -> None:
    write(folder / "held.jsonl", [row(20), {**row(21), "images": ["none.png"]}, {**row(22), "id": "r20"}])
    _, problems, _ = check()
    assert problems == [Found("held.jsonl:2", "image_missing", "r21"), Found("held.jsonl:3", "duplicate_id", "r20")]


def test_all_comes_in_one_go(check: Callable[..., Checked], folder: Path) -> None:
    (folder / "own.py").write_text("def breaks(completions, gold, **columns):\n    return [0.0 for _ in completions]\n")
    write(folder / "cold.jsonl", [{**row(0), "answer": ""}, row(1)])
    write(folder / "rl.jsonl", [{**row(n), "images": ["none.png"]} for n in range(1)] + [row(n + 30) for n in range(5)])
    write(folder / "held.jsonl", ["{"])
    _, problems, _ = check("grpo.rewards=[own.py:breaks]")
    codes = [problem.code for problem in problems]
    assert codes == ["empty_answer", "bad_rows", "image_missing", "bad_rows", "task_data", "reward"]


@pytest.mark.parametrize("path", inputs.RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_passes_on_stand_ins(
    path: Path, tmp_path: Path, small: Callable[[str], Path], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = inputs.stand_ins(load(path, []), small, tmp_path)
    assert main([str(path), "--check", *overrides]) == 0, capsys.readouterr().out
    assert ": no problem found; every row was read" in capsys.readouterr().out


def test_a_model_whose_settings_of_generation_could_not_be_saved_is_a_problem(
    check: Callable[..., Checked], small: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers refuses to save `temperature` without `do_sample`, so the run would end at its first checkpoint."""
    shutil.copytree(small("qwen2_5_vl"), tmp_path / "odd")
    path = tmp_path / "odd" / "generation_config.json"
    own = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**own, "temperature": 0.9, "do_sample": False}))
    code, [problem], text = check(f"model.path={tmp_path / 'odd'}")
    assert (code, problem.code) == (2, "model")
    assert "could not be saved after training: GenerationConfig is invalid: - `temperature`" in text
    path.write_text(json.dumps({**own, "temperature": 0.9, "do_sample": True}))
    assert check(f"model.path={tmp_path / 'odd'}")[0] == 0


def test_a_prompt_of_a_task_beyond_the_context_is_named_and_stops_nothing(
    check: Callable[..., Checked], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row(n), "question": f"Held out {n}?" + " Think again." * (2000 if n == 2 else 0)} for n in range(4)]
    write(folder / "held.jsonl", rows)
    with redirect_stderr(StringIO()) as said:
        assert check()[0] == 0
    assert "WARNING task held: too_long: row 3 (id " in said.getvalue()
    assert "the prompt leaves no room in the model's context" in said.getvalue()
