"""`--check`: each mistake caught under its own code, at its file and row; a good recipe raises no alarm."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import inputs
import jsonschema
import pytest

from pipeline import grpo, sft
from pipeline.check import plan
from pipeline.main import main
from pipeline.recipe.file import load

GOOD = """\
name: checked
model: {{path: {model}, dtype: float32}}
data:
  cold: {{path: cold.jsonl, images: images}}
  rl: {{path: rl.jsonl, images: images}}
stages:
  - name: sft
    kind: sft
    data: cold
    loss: {{think_weight: {{start: 0.9, end: 0.1}}}}
    trainer:
      max_length: 400
      num_train_epochs: 2
  - name: grpo
    kind: grpo
    data: rl
    rewards: [accuracy, {{use: format, weight: 0.1}}]
    trainer: {{num_generations: 4, per_device_train_batch_size: 4, max_completion_length: 1500, max_steps: 3}}
evaluate: {{tasks: [held.yaml], checkpoints: [base, grpo]}}
"""


class Found(NamedTuple):
    place: str
    code: str
    id: str


class Checked(NamedTuple):
    code: int
    problems: list[Found]
    text: str


@pytest.fixture
def folder(tmp_path: Path, small: Callable[[str], Path]) -> Path:
    """A good recipe of a small Qwen2.5-VL with its data and task."""
    for number in range(6):
        inputs.picture(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "recipe.yaml").write_text(GOOD.format(model=small("qwen2_5_vl")))
    _write(tmp_path / "cold.jsonl", [_row(number) for number in range(6)])
    _write(tmp_path / "rl.jsonl", [{**_row(number), "question": f"Again {number}?"} for number in range(6)])
    _write(tmp_path / "held.jsonl", [{**_row(number), "question": f"Held out {number}?"} for number in range(4)])
    (tmp_path / "held.yaml").write_text("{name: held, path: held.jsonl, images: images, max_new_tokens: 9}\n")
    return tmp_path


def _row(number: int) -> dict[str, Any]:
    picture = [f"{number % 6}.png"]
    return {
        "id": f"r{number}",
        "question": f"What is {number}?",
        "think": f"I see {number}.",
        "answer": "7",
        "images": picture,
    }


def _write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def check(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Checked]:
    monkeypatch.chdir(folder)

    def check(*options: str) -> Checked:
        capsys.readouterr()
        code = main(["recipe.yaml", "--check", *options])
        text = capsys.readouterr().out
        errors = [line for line in text.splitlines() if line.startswith("ERROR")]
        found = [re.fullmatch(r"ERROR (.*?) id=(.*?) (\w+): .*", line) for line in errors]
        assert all(found), text
        return Checked(code, [Found(match[1], match[3], match[2]) for match in found if match], text)

    return check


def test_a_good_recipe_passes_and_says_what_will_happen(check: Callable[..., Checked]) -> None:
    code, problems, text = check()
    assert (code, problems) == (0, [])
    assert "checked: no problem found; every row was read" in text
    assert "stage 1, sft (SCALe): 6 rows, 2 steps of 8 rows" in text
    assert re.search(r"think \d+ \(\d+\), answer \d+ \(\d+\)\n  the answer has \d+\.\d% of the tokens", text)
    assert "stage 2, grpo (GRPO): 6 rows, 3 steps of 1 prompts x 4 completions" in text
    assert re.search(r"checkpoints: 1 of [\d.]+ MB, at most 3 at a time; hands on [\d.]+ MB\n  one process of 1", text)
    assert re.search(r"one process of 1, not sharded: ([\d.]+ MB) of memory, weights [\d.]+ MB, grad.*\ndisk: ", text)


def test_the_plan_is_what_the_run_does(check: Callable[..., Checked], tmp_path: Path) -> None:
    """Steps, sizes and tokens against the recipe's own stages, run."""
    short = ["grpo.trainer.max_completion_length=8", "sft.trainer.gradient_accumulation_steps=2"]
    planned = json.loads(check("--json", *short).text.splitlines()[-1])["plan"]["stages"]
    recipe = load(Path("recipe.yaml"), [*short, "sft.trainer.logging_steps=1"])
    for stage, expected in zip(recipe.stages, planned, strict=True):
        run, out = sft.run if stage.kind == "sft" else grpo.run, tmp_path / stage.name
        assert run(recipe, stage, recipe.model.path, out, "").steps == expected["steps"]
        written = (out / "model" / "model.safetensors").stat().st_size
        assert expected["model_bytes"] == pytest.approx(written, rel=0.05)
        [saved] = (out / "checkpoints").glob("checkpoint-*")
        states = sum(file.stat().st_size for file in saved.glob("*") if file.suffix in {".safetensors", ".pt"})
        assert expected["checkpoint_bytes"] == pytest.approx(states, rel=0.1)
    first, *_ = map(json.loads, (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines())
    assert planned[0]["think"][0] == pytest.approx(first["think_tokens"], abs=1)
    assert planned[0]["answer"][0] == pytest.approx(first["answer_tokens"], abs=1)


# --- the recipe -------------------------------------------------------------------------------------------------------


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


def test_recipe_errors_come_without_torch_in_a_second(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(
        text.replace("max_steps: 3", "temperature: 0").replace("data: cold", "data: cool")
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.main import main;"
        "code = main(['recipe.yaml', '--check']); assert not {'torch', 'datasets'} & {*sys.modules}; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(inputs.ROOT)], cwd=folder, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.splitlines()[-1] == "bad_value: 1, unknown_data: 1"


# --- rows -------------------------------------------------------------------------------------------------------------

BAD_ROWS: list[tuple[str, Any]] = [  # its code, and what differs from a good row; text is the line itself
    ("json", '{"id": "r1", "question": "cut'),
    ("json", ""),
    ("json", "[1, 2]"),
    ("row_shape", {"images": "images/0.png", "choices": 5}),
    ("row_shape", {"kind": 3}),
    ("row_shape", {"think": ["a", "b"]}),
    ("row_shape", {"choices": [{"A": "cat"}], "answer": "A"}),
    ("json", '{"id": "r9", "question": "\\ud83d alone", "answer": "7"}'),
    ("empty_question", {"question": " "}),
    ("empty_think", {"think": "..."}),
    ("empty_answer", {"answer": ""}),
    ("long_answer", {"answer": "7 " * 200}),
    ("several_boxes", {"answer": r"\boxed{7} or \boxed{8}"}),
    ("repeated_tag", {"think": "so </think> then"}),
    ("lookalike_tag", {"think": "so </ think> then"}),
    ("tag_in_question", {"question": "Answer in <answer> tags."}),
    ("special_token", {"question": "What is <|im_end|>?"}),
    ("special_token", {"think": "A token: <|image_pad|>."}),
    ("too_long", {"think": "again " * 300}),
    ("choice_range", {"answer": "C", "choices": ["dog", "cat"]}),
    ("answer_unusable", {"answer": "cow", "choices": ["dog", "cat"]}),
    ("answer_unusable", {"answer": "seven", "kind": "number"}),
    ("duplicate_id", {"id": "good"}),
    ("duplicate_row", {"question": "what  is 0?", "think": "I see 0.", "images": ["0.png"]}),
    ("overlap", {"question": "held OUT 1?", "images": ["1.png"]}),
    ("image_missing", {"images": ["none.png"]}),
    ("image_path", {"images": ["../cold.jsonl"]}),
    ("image_path", {"images": ["/etc/hostname"]}),
    ("image_path", {"images": ["out.png"]}),
    ("image_url", {"images": ["https://example.org/a.png"]}),
    ("image_type", {"images": [7]}),
    *((code, {"images": [f"{code}.jpg"]}) for code in inputs.BROKEN),
]


def test_every_bad_row_is_named_under_its_own_code(check: Callable[..., Checked], folder: Path) -> None:
    for code, content in inputs.BROKEN.items():
        (folder / "images" / f"{code}.jpg").write_bytes(content)
    (folder / "images" / "out.png").symlink_to(inputs.picture(folder / "elsewhere" / "a.png", 9))
    rows = [{**_row(0), "id": "good"}]
    rows += [bad if isinstance(bad, str) else {**_row(line), **bad} for line, (_, bad) in enumerate(BAD_ROWS, 2)]
    _write(folder / "cold.jsonl", [*rows, {**_row(5), "id": "last"}])
    code, problems, text = check()
    assert code == 2
    named = [problem for problem in problems if problem.code != "bad_rows"]
    assert [(problem.place, problem.code) for problem in named] == [
        (f"cold.jsonl:{line}", code) for line, (code, _) in enumerate(BAD_ROWS, 2)
    ]
    assert named[-1].id == f"r{len(BAD_ROWS) + 1}"
    assert f"{len(BAD_ROWS)} of {len(BAD_ROWS) + 2} rows cannot be used" in text
    assert "Traceback" not in text
    dropped = check("data.cold.bad_rows=drop")
    assert (dropped.code, dropped.problems) == (0, [])
    assert f"2 rows ({len(BAD_ROWS)} left out)" in dropped.text


def test_at_most_ten_of_a_kind_are_named_and_the_rest_counted(check: Callable[..., Checked], folder: Path) -> None:
    _write(folder / "cold.jsonl", [{**_row(number), "answer": ""} for number in range(30)] + [_row(31)])
    _, problems, text = check()
    assert [problem.code for problem in problems] == ["empty_answer"] * 11 + ["bad_rows"]
    assert "ERROR cold.jsonl id=- empty_answer: 20 more" in text
    assert text.splitlines()[-1] == "bad_rows: 1, empty_answer: 30"
    _, problems, _ = check("--sample", "3")
    assert [problem.code for problem in problems] == ["empty_answer"] * 3 + ["bad_rows"]


def test_json_says_the_same(check: Callable[..., Checked], folder: Path) -> None:
    _write(folder / "rl.jsonl", [{**_row(number), "answer": "1/0"} for number in range(6)])
    told = check()
    lines = [json.loads(line) for line in check("--json").text.splitlines()]
    assert [Found(line["where"], line["code"], line["id"] or "-") for line in lines] == told.problems
    assert {line["code"] for line in lines} == {"answer_unusable", "bad_rows"}


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


def test_vllm_on_a_cpu_names_the_library_that_it_lacks(
    check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    use = ["grpo.trainer.use_vllm=true", "grpo.trainer.vllm_max_model_length=2048"]
    assert check(*use).code == 0
    monkeypatch.setattr("pipeline.recipe.consistency.NUMA", "libnone.so.1")
    code, [problem], text = check(*use)
    assert (code, problem.code) == (2, "package_missing")
    assert "apt-get install libnuma1" in text


def test_batches_are_those_of_all_ranks(check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch) -> None:
    small = "grpo.trainer.per_device_train_batch_size=1"
    code, [problem], _ = check(small)
    assert (code, problem.code) == (2, "batch_arithmetic")
    monkeypatch.setenv("WORLD_SIZE", "8")
    code, problems, text = check(small)
    assert (code, problems) == (0, [])
    assert "3 steps of 2 prompts x 4 completions" in text


def test_rows_with_and_without_images_cannot_be_mixed(check: Callable[..., Checked], folder: Path) -> None:
    _write(folder / "rl.jsonl", [{**_row(n), "question": f"{n}?", "images": ["0.png"] * (n % 2)} for n in range(6)])
    code, [problem], text = check()
    assert (code, problem.code, problem.place) == (2, "data", "recipe.yaml:5")
    assert "3 with images and 3 without" in text


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_where_ranks_would_wait_for_each_other_rows_must_be_alike(
    check: Callable[..., Checked], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A rank whose rows have no image does not call a vision tower that all ranks gather together."""
    _write(folder / "cold.jsonl", [{**_row(n), "images": ["0.png"] * (n % 2)} for n in range(6)])
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
    _write(folder / "held.jsonl", [_row(20), {**_row(21), "images": ["none.png"]}, {**_row(22), "id": "r20"}])
    _, problems, _ = check()
    assert problems == [Found("held.jsonl:2", "image_missing", "r21"), Found("held.jsonl:3", "duplicate_id", "r20")]


def test_images_that_are_evaluated_on_with_another_question_are_counted(
    check: Callable[..., Checked], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe.yaml", "--check"]) == 0
    said = capsys.readouterr().err
    warning = "WARNING {}: 4 rows show an image that is evaluated on, with another question"
    assert all(warning.format(folder / name) in said for name in ("cold.jsonl", "rl.jsonl"))


def test_a_full_disk_is_foreseen(check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_bytes", lambda root: 1_000_000)
    code, [problem], text = check()
    assert (code, problem.code) == (2, "disk_space")
    assert re.search(r"the run needs \d+\.\d+ MB at a time and 1\.00 MB are free", text)


def test_all_comes_in_one_go(check: Callable[..., Checked], folder: Path) -> None:
    (folder / "own.py").write_text("def breaks(completions, gold, **columns):\n    return [0.0 for _ in completions]\n")
    _write(folder / "cold.jsonl", [{**_row(0), "answer": ""}, _row(1)])
    _write(
        folder / "rl.jsonl", [{**_row(n), "images": ["none.png"]} for n in range(1)] + [_row(n + 30) for n in range(5)]
    )
    _write(folder / "held.jsonl", ["{"])
    _, problems, _ = check("grpo.rewards=[own.py:breaks]")
    codes = [problem.code for problem in problems]
    assert codes == ["empty_answer", "bad_rows", "image_missing", "bad_rows", "task_data", "reward"]


# --- the shipped recipes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", inputs.RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_passes_on_stand_ins(
    path: Path, tmp_path: Path, small: Callable[[str], Path], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = inputs.stand_ins(load(path, []), small, tmp_path)
    assert main([str(path), "--check", *overrides]) == 0, capsys.readouterr().out
    assert ": no problem found; every row was read" in capsys.readouterr().out


def test_the_resolved_recipe_has_trls_exact_arguments(check: Callable[..., Checked], capsys: Any) -> None:
    from ruamel.yaml import YAML
    from trl import GRPOConfig, SFTConfig

    capsys.readouterr()
    assert main(["recipe.yaml", "--print-recipe", "sft.trainer.learning_rate=5e-6"]) == 0
    printed = YAML(typ="safe").load(capsys.readouterr().out)
    assert printed["recipe"]["stages"][0]["trainer"]["learning_rate"] == 5e-6
    sft, grpo = printed["arguments"]["sft"]["SFTConfig"], printed["arguments"]["grpo"]["GRPOConfig"]
    assert (sft["learning_rate"], sft["max_length"], sft["seed"], sft["save_total_limit"]) == (5e-6, 400, 0, 2)
    assert (grpo["reward_weights"], grpo["log_completions"]) == ([1.0, 0.1], True)
    assert sft.keys() >= {name for name in SFTConfig.__dataclass_fields__ if not name.startswith("_")} - {"hub_token"}
    assert grpo.keys() >= {"num_generations", "beta"} & GRPOConfig.__dataclass_fields__.keys()


def test_editors_get_a_schema(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--schema"])
    assert ended.value.code == 0
    schema = json.loads(capsys.readouterr().out)
    from ruamel.yaml import YAML

    for path in inputs.RECIPES:
        jsonschema.validate(YAML(typ="safe").load(path.read_text()), schema)
    wrong = YAML(typ="safe").load((folder / "recipe.yaml").read_text())
    wrong["stages"][0]["trainer"]["learning_rate"] = -1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
