"""A recipe's mistakes: each named with its line, all at once, before torch is imported."""

import random
from pathlib import Path
from typing import get_args

import pytest

from pipeline.recipe import consistency, trl_fields
from pipeline.recipe.file import load
from pipeline.recipe.problem import Problem, RecipeError

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
name: small
model: {path: some/model, dtype: float32}
data:
  cold: {path: rows.jsonl}
stages:
  - name: sft
    kind: sft
    data: cold
    loss: {think_weight: {start: 0.9, end: 0.1}}
    trainer:
      learning_rate: 1e-5
      max_steps: 3
  - name: grpo
    kind: grpo
    data: cold
    rewards: [accuracy, {use: format, weight: 0.1}]
    trainer: {num_generations: 8, per_device_train_batch_size: 8, use_vllm: false}
evaluate: {tasks: [scienceqa_img], checkpoints: [base, sft]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    return path


def _problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(path, list(overrides))
    return [str(problem) for problem in caught.value.problems]


def test_a_good_recipe_loads_with_yaml_1_2_numbers_and_words(path: Path) -> None:
    recipe = load(path, ["sft.trainer.eval_strategy=no", "sft.trainer.warmup_steps=1e-1"])
    assert (recipe.stages[0].trainer["eval_strategy"], recipe.stages[0].trainer["warmup_steps"]) == ("no", 0.1)
    assert recipe.stages[0].trainer["learning_rate"] == 1e-5
    assert [stage.label for stage in recipe.stages] == ["sft (SCALe)", "grpo (GRPO)"]
    assert recipe.stages[1].rewards[1].weight == 0.1


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("name: small", "name: small\nsed: 1", 2, "unknown_key: sed: unknown key. Did you mean 'seed'?"),
        ("dtype: float32", "dtyp: float32", 2, "unknown_key: model.dtyp: unknown key. Did you mean 'dtype'?"),
        ("rows.jsonl}", "rows.jsonl, splt: a}", 4, "unknown key. Did you mean 'split'?"),
        (
            "start: 0.9",
            "start: 1.9",
            9,
            "bad_value: sft.loss.think_weight.start: Input should be less than or equal to 1",
        ),
        ("learning_rate: 1e-5", "learning_rat: 1e-5", 11, "unknown to TRL. Did you mean 'learning_rate'?"),
        ("learning_rate: 1e-5", "learning_rate: fast", 11, "bad_value: sft.trainer.learning_rate"),
        ("max_steps: 3", "max_steps: 3.5", 12, "bad_value: sft.trainer.max_steps"),
        ("max_steps: 3", "packing: true", 12, "reserved_key: sft.trainer.packing: segments need one sequence a row"),
        ("max_steps: 3", "ignore_data_skip: true", 12, "a run that resumes sees the rows that it would have seen"),
        ("max_steps: 3", "save_only_model: true", 12, "nothing could be resumed from such a checkpoint"),
        ("max_steps: 3", "trust_remote_code: true", 12, "code that a model brings along is never run"),
        ("max_steps: 3", "loss_type: dft", 12, "reserved_key: sft.trainer.loss_type: the loss is a mean over"),
        ("rows.jsonl}", "rows.jsonl, bad_rows: skip}", 4, "data.cold.bad_rows: Input should be 'fail' or 'drop'"),
        ("max_steps: 3", "eval_strategy: epoch", 6, "eval_data and trainer.eval_strategy (steps or epoch) need each"),
        ("rewards: [acc", "lora: {r: 4, alpha: 8, load_in_4bit: true}\n    rewards: [acc", 16, "for sft stages only"),
        ("max_steps: 3", "max_steps: 3\n      max_steps: 4", 13, "duplicate_key: duplicate key 'max_steps', first in"),
        ("[accuracy,", "[acuracy,", 16, "unknown reward 'acuracy'. Known: accuracy, format"),
        ("num_generations: 8", "num_generations: 7", 17, "8 completions, which num_generations 7 does not divide"),
        ("checkpoints: [base, sft]", "checkpoints: [base, sfd]", 18, "no checkpoint 'sfd'. Did you mean 'sft'?"),
        (
            "[scienceqa_img]",
            "[sciencqa]",
            18,
            "no task 'sciencqa'. Shipped: gsm8k, iconqa, math500, scienceqa, scienceqa_img",
        ),
        ("name: grpo", "name: sft", 13, "stage_name: 'sft' is taken"),
        ("kind: grpo", "kind: ppo", 14, "grpo.kind: 'ppo' is no kind of stage"),
        ("model: {", "model: {{", 2, "yaml: a key is a word, not a mapping or a list"),
        ("rows.jsonl}", "rows.jsonl", 5, "yaml: not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(path: Path, old: str, new: str, line: int, message: str) -> None:
    path.write_text(GOOD.replace(old, new, 1))
    [problem] = _problems(path)
    assert problem.startswith(f"ERROR {path}:{line} id=- ")
    assert message in problem


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, "is_installed", lambda package: False)
    path.write_text(GOOD.replace("    trainer:\n", "    lora: {r: 4, alpha: 8, load_in_4bit: true}\n    trainer:\n"))
    [problem] = _problems(path)
    assert problem.startswith(f"ERROR {path}:10 ")
    assert "pip install 'balanced-thinking[qlora]'" in problem


def test_data_that_is_not_in_the_recipe_is_named(path: Path) -> None:
    path.write_text(GOOD.replace("data: cold", "data: colt", 1))
    assert _problems(path) == [f"ERROR {path}:8 id=- unknown_data: sft.data: no data 'colt'. Did you mean 'cold'?"]
    path.write_text(GOOD)
    [problem] = _problems(path, "sft.eval_data=colt", "sft.trainer.eval_strategy=epoch")
    assert "unknown_data: sft.eval_data: no data 'colt'. Did you mean 'cold'?" in problem


def test_all_mistakes_come_at_once(path: Path) -> None:
    text = GOOD.replace("learning_rate", "learning_rat").replace("num_generations: 8", "num_generations: 7")
    path.write_text(text.replace("[base, sft]", "[sfd]").replace("accuracy", "acuracy"))
    codes = [problem.split()[3] for problem in _problems(path)]
    assert codes == ["unknown_key:", "reward:", "batch_arithmetic:", "unknown_checkpoint:"]


def test_an_override_changes_one_value(path: Path) -> None:
    recipe = load(path, ["sft.trainer.learning_rate=5e-6", "seed=3", "sft.loss.think_weight.schedule=linear"])
    assert recipe.stages[0].trainer["learning_rate"] == 5e-6
    assert recipe.seed == 3
    assert recipe.stages[0].loss.think_weight.schedule == "linear"


@pytest.mark.parametrize("override", ["sftt.trainer.max_steps=1", "sft=1", "sft.trainer.max_steps", "name.x=1"])
def test_an_override_that_fits_nowhere_is_named(path: Path, override: str) -> None:
    [problem] = _problems(path, override)
    assert problem.startswith("ERROR command line id=- override: ")


def test_local_paths_are_relative_to_the_recipe(path: Path) -> None:
    (path.parent / "rows.jsonl").touch()
    assert load(path, []).data["cold"].path == str(path.parent / "rows.jsonl")
    assert load(path, []).model.path == "some/model"


def test_missing_vllm_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(GOOD.replace("use_vllm: false", "use_vllm: true"))
    monkeypatch.setattr("pipeline.recipe.consistency.is_installed", lambda name: False)
    [problem] = _problems(path)
    assert "pip install 'balanced-thinking[vllm]'" in problem
    assert "use_vllm: false" in problem


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("save_steps: 3, num_iterations: 2", "save_steps: 3 steps x gradient_accumulation_steps 1 = 3 batches"),
        (
            "save_steps: 3, num_iterations: 2",
            "1 x num_iterations 2 = 2: a checkpoint within one cannot",
        ),
        ("save_steps: 3, num_iterations: 2", "A multiple of 2 can, such as 4"),
        ("steps_per_generation: 3", "A multiple of 3 can, such as 501"),
        ("steps_per_generation: 8, gradient_accumulation_steps: 4, save_steps: 9", "A multiple of 2 can, such as 10"),
    ],
)
def test_saves_within_a_generation_are_refused_with_the_arithmetic(path: Path, settings: str, message: str) -> None:
    path.write_text(GOOD.replace("use_vllm: false", f"use_vllm: false, {settings}"))
    (problem,) = _problems(path)
    assert problem.startswith(f"ERROR {path}:")
    assert message in problem


@pytest.mark.parametrize(
    "settings",
    [
        "save_steps: 4, num_iterations: 2",
        "steps_per_generation: 3, max_steps: 20",
        "steps_per_generation: 3, save_strategy: epoch",
        "steps_per_generation: 8, gradient_accumulation_steps: 4, save_steps: 10",
    ],
)
def test_saves_between_two_generations_are_not(path: Path, settings: str) -> None:
    path.write_text(GOOD.replace("use_vllm: false", f"use_vllm: false, {settings}"))
    load(path, [])


def test_every_limit_is_on_a_setting_that_trl_has() -> None:
    known = {**trl_fields.fields("sft"), **trl_fields.fields("grpo")}
    assert trl_fields._LIMITS.keys() <= known.keys()
    for name in trl_fields._WORDS:
        assert known[name].default in get_args(known[name].type), "TRL's own default is one of the words"


def test_whatever_stands_in_a_recipe_it_loads_or_is_a_mistake(path: Path) -> None:
    rng, lines = random.Random(0), GOOD.splitlines()
    junk = "null|[]|{}|-1|1e400|''|yes|{a: b}|!!int 3|&a b|*a|\t|- x|: :|\0|-.inf|?|<<: 1|\ufeff|'|123456789".split("|")
    mistakes: list[Problem] = []
    for _ in range(400):
        mangled = list(lines)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(mangled))
            key, colon, _ = mangled[at].partition(":")
            word = rng.choice([*mangled[at].split(), *"{}[],: "])
            broken = [key + colon + " " + rng.choice(junk)], [mangled[at].replace(word, rng.choice(junk), 1)]
            mangled[at : at + 1] = rng.choice([[], *broken, [rng.choice(lines), mangled[at]]])
        path.write_text("\n".join(mangled) + "\n")
        try:
            load(path, [])
        except RecipeError as error:
            mistakes += error.problems
    assert len(mistakes) > 300
    assert all(str(problem).startswith(f"ERROR {path}") for problem in mistakes)
