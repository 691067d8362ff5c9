"""A recipe's mistakes: each named with its line, all at once, before torch is imported."""

import random
from pathlib import Path

import pytest

from pipeline.recipe.file import load
from pipeline.recipe.problem import Problem, RecipeError
from tests.support.recipes import GOOD, problems_of


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
    [problem] = problems_of(path)
    assert problem.startswith(f"ERROR {path}:{line} id=- ")
    assert message in problem


def test_all_mistakes_come_at_once(path: Path) -> None:
    text = GOOD.replace("learning_rate", "learning_rat").replace("num_generations: 8", "num_generations: 7")
    path.write_text(text.replace("[base, sft]", "[sfd]").replace("accuracy", "acuracy"))
    codes = [problem.split()[3] for problem in problems_of(path)]
    assert codes == ["unknown_key:", "reward:", "batch_arithmetic:", "unknown_checkpoint:"]


def test_an_override_changes_one_value(path: Path) -> None:
    recipe = load(path, ["sft.trainer.learning_rate=5e-6", "seed=3", "sft.loss.think_weight.schedule=linear"])
    assert recipe.stages[0].trainer["learning_rate"] == 5e-6
    assert recipe.seed == 3
    assert recipe.stages[0].loss.think_weight.schedule == "linear"


@pytest.mark.parametrize("override", ["sftt.trainer.max_steps=1", "sft=1", "sft.trainer.max_steps", "name.x=1"])
def test_an_override_that_fits_nowhere_is_named(path: Path, override: str) -> None:
    [problem] = problems_of(path, override)
    assert problem.startswith("ERROR command line id=- override: ")


def test_local_paths_are_relative_to_the_recipe(path: Path) -> None:
    (path.parent / "rows.jsonl").touch()
    assert load(path, []).data["cold"].path == str(path.parent / "rows.jsonl")
    assert load(path, []).model.path == "some/model"


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
