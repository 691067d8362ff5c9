"""Is it the same run? A folder goes on with the recipe, data, model, rewards and processes that it began with."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.environment import versions
from eval.files import CARD, sha256, write_json
from pipeline.checkpoint.run_folder import LOCK, RunFolder, saved_checkpoints
from pipeline.launch import processes
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.schema import Recipe

_SECTIONS = ("recipe", "processes", "data", "model", "rewards")  # of recipe.json, that must stay


def claim(folder: RunFolder, recipe: Recipe, fresh: bool = False, allow_changed: bool = False) -> None:
    """Store the resolved recipe, or make sure that the folder holds a run of the same one on the same inputs.

    Args:
        fresh: the folder must be empty.
        allow_changed: take what has changed as it is now; the run is then not one that could be repeated.

    Raises:
        ValueError: the folder is not empty, or recipe.json cannot be read.
        RecipeError: something that decides about weights has changed since training began, one line each.
    """
    if fresh and (present := sorted(path.name for path in folder.root.iterdir() if path.name != LOCK)):
        raise ValueError(
            f"--fresh starts in an empty folder only, and {folder.root} has {', '.join(present[:4])}; move it away, "
            "or leave --fresh out to go on from there"
        )
    path, now = folder.root / "recipe.json", _inputs(recipe)
    before = _stored(path)
    if before is not None:
        differences = _differences(folder, before, now)
        if differences and _has_trained(folder, before) and not allow_changed:
            advice = "give this run another `name`, undo the change, or go on all the same with --allow-changed"
            lines = [
                *differences,
                f"{folder.root} holds a run of something else ({len(differences)} changes); {advice}",
            ]
            raise RecipeError([Problem(str(folder.root), "changed", line) for line in lines])
        if before.keys() >= now.keys() and all(before[key] == now[key] for key in now):
            return
    write_json(path, {**now, "versions": versions(), "git": _git_revision()})


def _stored(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored if {"recipe", "data"} <= stored.keys() else None
    except ValueError:
        raise ValueError(f"{path} is damaged, so nothing says what this run is; move {path.parent} away") from None


def _inputs(recipe: Recipe) -> dict[str, Any]:
    """What decides about the weights that a run ends with, libraries and hardware aside."""
    places = {name: data.path for name, data in recipe.data.items()}
    images = {f"{name}.images": data.images for name, data in recipe.data.items() if data.images}
    rewards = {reward.use.rpartition(":")[0] for stage in recipe.stages for reward in getattr(stage, "rewards", [])}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "processes": processes(),
        "data": {name: digest for name, place in (places | images).items() if (digest := _content(Path(place)))},
        "model": _content(Path(recipe.model.path)),
        "rewards": {file: digest for file in sorted(rewards) if file and (digest := _content(Path(file)))},
    }


def _has_trained(folder: RunFolder, before: dict[str, Any]) -> bool:
    names = [stage["name"] for stage in before["recipe"]["stages"]]
    return any(
        (folder.stage(name) / "COMPLETE").exists() or saved_checkpoints(folder.checkpoints(name)) for name in names
    )


def _differences(folder: RunFolder, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each value that differs; what is evaluated may change, and inputs when all is trained."""
    trained = all((folder.stage(stage["name"]) / "COMPLETE").exists() for stage in now["recipe"]["stages"])
    sections = [{"recipe": each["recipe"]} if trained else each for each in (before, now)]
    old, new = ({key: value for part in _SECTIONS for key, value in _flat(each.get(part), part)} for each in sections)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [
        f"{re.sub(r'^recipe.(stages.)?', '', key)}: was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
        for key in changed
        if not key.startswith("recipe.evaluate")
    ]


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists with their dotted paths; stages go by their names."""
    children: dict[str, Any] = {}
    if isinstance(value, dict):
        children = value
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        children = {str(item.get("name", item.get("use", index))): item for index, item in enumerate(value)}
    if not children:
        yield path, value
    for key, child in children.items():
        yield from _flat(child, f"{path}.{key}")


def _content(path: Path) -> str | None:
    """A digest: of a file, its content; of a folder, the names and sizes in it; None of what is neither (a hub id).

    A model's card may change: evaluations are written into it.
    """
    if path.is_file():
        return sha256(path)
    if not path.is_dir():
        return None
    listing = sorted(
        f"{file.relative_to(path)} {file.stat().st_size}"
        for file in path.rglob("*")
        if file.is_file() and file.name != CARD
    )
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a wheel
