"""The house: which file may import which, what each folder's README names, and README's tree beside the disk."""

import ast
import re
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "eval", "rewards")  # each may import those behind it
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


NAMES = {_name(path) for path in MODULES}


def _imported(path: Path) -> Iterator[str]:
    """Our modules that `path` imports, anywhere in it: also below `TYPE_CHECKING` and within functions."""
    package = _name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in NAMES)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            whole = [f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}" in NAMES]
            yield from whole or ([module] if module in NAMES else [])


GRAPH = {_name(path): {*_imported(path)} for path in MODULES}


def _room(module: str, depth: int) -> str:
    """The file or folder at `depth` below the root that a module stands in."""
    return ".".join(module.split(".")[: depth + 1])


def test_the_graph_sees_imports_of_every_kind() -> None:
    assert "eval.chat" in GRAPH["pipeline.data.check_rows"], "below TYPE_CHECKING"
    assert "pipeline.sft" in GRAPH["pipeline.stages"], "within a function"
    assert "rewards.response" in GRAPH["rewards.grading.verify"], "relative, from the folder above"
    assert "rewards.grading.algebra" in GRAPH["rewards.grading.verify"], "relative, a module"


@pytest.mark.parametrize("depth", [1, 2], ids=["files and folders", "files of a folder"])
def test_no_room_imports_one_that_imports_it(depth: int) -> None:
    rooms: dict[str, set[str]] = {}
    for module, imported in GRAPH.items():
        here = _room(module, depth)
        rooms.setdefault(here, set()).update({_room(name, depth) for name in imported} - {here})
    assert list(TopologicalSorter(rooms).static_order())  # raises CycleError, which names the rooms


def test_the_readme_of_pipeline_lists_its_rooms_from_the_top() -> None:
    """A room stands above those that it imports."""
    text = (ROOT / "pipeline" / "README.md").read_text()
    first_column = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    listed = [name for cell in first_column for name in re.findall(r"`(\w+)(?:/|\.py)`", cell)]
    order = {room: place for place, room in enumerate(listed)}
    assert {*order} == {_room(module, 1).split(".")[1] for module in GRAPH if module.startswith("pipeline.")}
    for module, imported in GRAPH.items():
        for name in imported:
            here, there = _room(module, 1), _room(name, 1)
            if here != there and here.startswith("pipeline.") and there.startswith("pipeline."):
                assert order[here.split(".")[1]] < order[there.split(".")[1]], f"{here} imports {there}"


_LIST = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FILES = subprocess.run(_LIST, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
FILES = [file for file in FILES if (ROOT / file).exists()]
FOLDERS = sorted({folder for file in FILES for folder in Path(file).parents if folder != Path()})
SOURCE = [ROOT / folder for folder in FOLDERS if folder.parts[0] in PACKAGES]


@pytest.mark.parametrize("folder", SOURCE, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_each_folder_has_a_readme_that_asks_its_question_and_names_its_files(folder: Path) -> None:
    page = (folder / "README.md").read_text()
    text = page.partition("\n## ")[0]  # what follows is for who uses it, not for who changes it
    assert 10 <= len(text.splitlines()) <= 40
    assert len(page.splitlines()) <= 120
    assert re.fullmatch(r"# \w+: .*\?|# harness: .*", text.splitlines()[0])
    named = {*re.findall(r"[\w*.]+\.(?:py|yaml|j2|txt)\b|[\w]+(?=/`)|_\w+_yaml", text)}
    for path in folder.iterdir():
        if path.name in {"README.md", "__init__.py", "__pycache__"}:
            continue
        stem = path.stem if folder.name == "tasks" else path.name
        assert any(path.match(name) for name in named) or stem in text, f"{folder.name}/README.md lacks {path.name}"
    for name in (name for name in named if name.endswith(".py") and "*" not in name):
        assert name in {*(Path(file).name for file in FILES), "my_rewards.py"}, f"{folder.name}/README.md names {name}"


def test_readmes_tree_is_the_disks_one_level_of_folders_deep() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("## The tree") + 4 :].partition("\n## ")[0]
    listed = {name for name in re.findall(r"\[`([\w./]+)/`\]", tree)}
    shown = [folder for folder in FOLDERS if len(folder.parts) == 1 or not folder.parts[0].startswith(".")]
    on_disk = {folder.as_posix() for folder in shown if len(folder.parts) <= 2}
    assert listed == on_disk
