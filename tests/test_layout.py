"""The tree, the recipes and the wheel."""

import ast
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from pipeline.recipe.file import load
from pipeline.recipe.schema import NamedLoss, ThinkWeight
from tests.support.inputs import RECIPES, ROOT, stand_ins

FOLDERS = ("pipeline", "rewards", "eval")
TESTS = ROOT / "tests"
ALLOWED = {"pipeline": {"pipeline", "eval", "rewards"}, "eval": {"eval", "rewards"}, "rewards": set()}


def _imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        ours = _imported(path) & set(FOLDERS)
        assert ours <= ALLOWED[folder], path


def test_no_module_shadows_an_installed_package() -> None:
    stems = {path.stem for folder in FOLDERS for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
    outside = [
        stem for stem in stems if (spec := find_spec(stem)) and not str(spec.origin).startswith(str(ROOT / stem))
    ]
    assert not outside


def test_tests_mirror_the_source() -> None:
    """`a/b.py` has `tests/a/test_b.py`, and may have `tests/a/test_b_<aspect>.py`; no other test lies there."""
    source = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    modules = {path.with_name(path.stem.strip("_")) for path in source if path.stem != "__init__"}
    files = [path.relative_to(TESTS) for folder in FOLDERS for path in (TESTS / folder).rglob("test_*.py")]
    tests = {path.with_name(path.stem.removeprefix("test_")) for path in files}
    assert sorted(map(str, modules - tests)) == [], "modules without a test"
    stray = {test for test in tests if not any(_is_of(test, module) for module in modules)}
    assert sorted(map(str, stray)) == [], "tests of no module; what is about several stands in tests/"


def _is_of(test: Path, module: Path) -> bool:
    return test.parent == module.parent and f"{test.name}_".startswith(f"{module.name}_")


def test_helpers_live_in_support() -> None:
    folders = [TESTS, *(path for folder in FOLDERS for path in [TESTS / folder, *(TESTS / folder).rglob("*/")])]
    found = [path for folder in folders for path in folder.glob("*.py") if path.name != "conftest.py"]
    assert [str(path.relative_to(ROOT)) for path in found if not path.name.startswith("test_")] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(path: Path) -> None:
    assert load(path, []).stages


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_value_says_where_it_comes_from(path: Path) -> None:
    """In `full.yaml` and its like, each trainer setting is the paper's, Vision-R1's or our choice."""
    text = path.read_text()
    inside = False
    for line in text.splitlines() if "Every value here is our choice" not in text else []:
        if line.strip().startswith("trainer:"):
            inside, indent = True, len(line) - len(line.lstrip())
        elif inside and line.strip() and len(line) - len(line.lstrip()) <= indent:
            inside = False
        elif inside and "use_vllm" not in line:
            assert any(source in line for source in ("paper", "Vision-R1", "our choice")), line


@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "llava-v1.6-mistral-7b", "gemma-3-4b"])
def test_the_papers_arms_differ_in_the_loss_and_in_what_follows_alone(name: str) -> None:
    """The longest is `full.yaml` for Qwen2.5-VL; ordinary SFT is an override that the file names."""
    scale, whole = (ROOT / "recipes" / "paper" / f"{name}-{arm}.yaml" for arm in ("scale", "scale-grpo"))
    [ordinary] = re.findall(r"^# Ordinary SFT.*: (sft\.loss=token_mean name=\S+)$", scale.read_text(), re.M)
    both = whole if whole.exists() else ROOT / "recipes" / "full.yaml"
    plain, shaped, longest = (
        load(path, overrides).model_dump() for path, overrides in ((scale, ordinary.split()), (scale, []), (both, []))
    )
    assert longest["stages"][0] == shaped["stages"][0]
    assert (longest["model"], longest["data"]["cold"]) == (shaped["model"], shaped["data"]["cold"])
    assert plain["stages"][0]["loss"] == "token_mean"
    assert isinstance(shaped["stages"][0]["loss"], dict)
    assert plain["name"] == f"{name}-sft"


def test_controls_differ_in_their_loss_alone_and_use_every_schedule() -> None:
    path = ROOT / "recipes" / "controls" / "loss.yaml"
    overrides = [shlex.split(line[1:]) for line in path.read_text().splitlines() if line.startswith("#   name=")]
    assert all(len(each) == 2 and each[1].startswith("sft.loss=") for each in overrides)
    recipes = [load(ROOT / "recipes" / "demo.yaml", []), *(load(path, each) for each in [[], *overrides])]
    demo, *controls = (recipe.model_dump() for recipe in recipes)
    losses = [recipe["stages"][1]["loss"] for recipe in (demo, *controls)]
    assert len({recipe["name"] for recipe in controls}) == len(controls) == 7
    [pretrain, sft], [demo_pretrain, demo_sft, _] = controls[0]["stages"], demo["stages"]
    assert pretrain == demo_pretrain
    assert sft["trainer"].items() >= demo_sft["trainer"].items()
    named = {loss if isinstance(loss, str) else loss["think_weight"]["schedule"] for loss in losses}
    assert named == {*get_args(NamedLoss), *get_args(ThinkWeight.model_fields["schedule"].annotation)}


def test_the_wheel_has_one_name_holds_the_recipes_and_runs(tmp_path: Path, small: Callable[[str], Path]) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"balanced_thinking"}
    assert {"balanced_thinking/recipes/full.yaml", "balanced_thinking/rewards/grading/units.txt"} <= set(names)
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    recipe = "site/balanced_thinking/recipes/full.yaml"
    run = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "balanced_thinking.pipeline.run",
            recipe,
            "--check",
            *stand_ins(load(tmp_path / recipe, []), small, tmp_path),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert ": no problem found" in run.stdout
