"""The run folder: what lies where, and the marks that say a stage is complete.

runs/<name>/recipe.json            the resolved recipe, digests of its inputs, processes, versions, git revision
           /<stage>/checkpoints/   while the stage runs: checkpoint-<step>/, each sealed by its manifest.json
           /<stage>/model/         the hand-off
           /<stage>/metrics.jsonl  one line a logged step
           /<stage>/COMPLETE       manifest of model/, written last, atomically
           /<stage>/completions/   of a grpo stage: its rollouts, parquet, one file a logged step
           /pass_rates/<stage>.json  where the stage has a `difficulty`
           /eval/<checkpoint>/<task>/{completions.jsonl,scores.json}
           /results.json  /results.csv  /report.html
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import CARD, sha256, versions, write_json
from pipeline.checkpoint.manifest import check_files, read_sealed, seal
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.schema import Recipe, processes

LOCK = ".lock"
LOCK_WAIT_S = 10.0  # our choice: a run whose launcher was killed needs a moment to save and end


@dataclass(frozen=True)
class RunFolder:
    root: Path

    def stage(self, name: str) -> Path:
        return self.root / name

    def model(self, name: str) -> Path:
        return self.stage(name) / "model"

    def checkpoints(self, name: str) -> Path:
        return self.stage(name) / "checkpoints"

    def pass_rates(self, stage: str) -> Path:
        return self.root / "pass_rates" / f"{stage}.json"

    def scores(self, checkpoint: str, task: str) -> Path:
        return self.root / "eval" / checkpoint / task

    def completed(self, name: str) -> dict[str, Any] | None:
        """The stage's manifest, or None while it is not complete.

        Raises:
            ValueError: it is damaged.
        """
        if not (self.stage(name) / "COMPLETE").exists():
            return None
        try:
            return read_sealed(self.stage(name) / "COMPLETE")
        except ValueError as error:
            raise self._damaged(name, error) from None

    def lock(self) -> None:
        """Make sure that no other run writes here, until this process ends; also through `exec`.

        Raises:
            ValueError: one does.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT)
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    holder = os.read(handle, 200).decode(errors="replace").strip()
                    raise ValueError(
                        f"another run works in {self.root} ({holder}); wait for it, or give this one another `name`"
                    ) from None
                time.sleep(0.2)
        # POSIX locks belong to the process and outlive `exec`, unless a descriptor of the file is closed.
        os.set_inheritable(handle, True)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def claim(self, recipe: Recipe, fresh: bool = False, allow_changed: bool = False) -> None:
        """Store the resolved recipe, or make sure that the folder holds a run of the same one on the same inputs.

        Args:
            fresh: the folder must be empty.
            allow_changed: take what has changed as it is now; the run is then not one that could be repeated.

        Raises:
            ValueError: the folder is not empty, or recipe.json cannot be read.
            RecipeError: something that decides about weights has changed since training began, one line each.
        """
        if fresh and (held := sorted(path.name for path in self.root.iterdir() if path.name != LOCK)):
            raise ValueError(
                f"--fresh starts in an empty folder only, and {self.root} has {', '.join(held[:4])}; move it away, "
                "or leave --fresh out to go on from there"
            )
        path, now = self.root / "recipe.json", self._inputs(recipe)
        before = self._stored(path)
        if before is not None:
            differences = self._differences(before, now)
            if differences and self._has_trained(before) and not allow_changed:
                advice = "give this run another `name`, undo the change, or go on all the same with --allow-changed"
                lines = [
                    *differences,
                    f"{self.root} holds a run of something else ({len(differences)} changes); {advice}",
                ]
                raise RecipeError([Problem(str(self.root), "changed", line) for line in lines])
            if before.keys() >= now.keys() and all(before[key] == now[key] for key in now):
                return
        write_json(path, {**now, "versions": versions(), "git": _git_revision()})

    def _stored(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return stored if {"recipe", "data"} <= stored.keys() else None
        except ValueError:
            raise ValueError(f"{path} is damaged, so nothing says what this run is; move {self.root} away") from None

    def _inputs(self, recipe: Recipe) -> dict[str, Any]:
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

    def _has_trained(self, before: dict[str, Any]) -> bool:
        names = [stage["name"] for stage in before["recipe"]["stages"]]
        return any(
            (self.stage(name) / "COMPLETE").exists() or saved_checkpoints(self.checkpoints(name)) for name in names
        )

    def _differences(self, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
        """One line for each value that differs; what is evaluated may change, and inputs when all is trained."""
        trained = all((self.stage(stage["name"]) / "COMPLETE").exists() for stage in now["recipe"]["stages"])
        sections = [{"recipe": each["recipe"]} if trained else each for each in (before, now)]
        old, new = (
            {key: value for part in _SECTIONS for key, value in _flat(each.get(part), part)} for each in sections
        )
        return [
            f"{_shown(key)}: was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and not key.startswith("recipe.evaluate")
        ]

    def reported(self) -> bool:
        """Whether results and report are those of the finished run; `python -m eval.report` writes earlier ones."""
        path = self.root / "results.json"
        done = path.exists() and json.loads(path.read_text(encoding="utf-8"))["complete"]
        return bool(done) and (self.root / "report.html").exists()

    def begin(self, name: str) -> None:
        """Clear what an interrupted attempt left of its hand-off; checkpoints, metrics and completions stay.

        Scores and results, if there are any, are those of another model of the stage.
        """
        for old in (self.model(name), self.root / "eval" / name):
            shutil.rmtree(old, ignore_errors=True)
        (self.root / "results.json").unlink(missing_ok=True)
        self.stage(name).mkdir(parents=True, exist_ok=True)

    def complete(self, name: str, result: dict[str, Any]) -> None:
        """Mark the stage complete: its result and the manifest of its model, in one atomic write."""
        written = self.checkpoints(name) / "completions"
        for file in sorted(written.glob("*")):
            (self.stage(name) / "completions").mkdir(exist_ok=True)
            file.replace(self.stage(name) / "completions" / file.name)
        seal(self.stage(name) / "COMPLETE", self.model(name), result)
        self.tidy(name)

    def tidy(self, name: str) -> None:
        """Remove the checkpoints of a complete stage, but for damaged ones; nothing resumes from them."""
        remove_checkpoints(self.checkpoints(name), lambda _: True)
        for left in (self.checkpoints(name) / "completions", self.checkpoints(name) / "README.md"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        if self.checkpoints(name).exists() and not any(self.checkpoints(name).iterdir()):
            self.checkpoints(name).rmdir()

    def verify(self, name: str) -> None:
        """Check the hand-off against its manifest.

        Raises:
            ValueError: a file is missing or differs.
        """
        manifest = self.completed(name)
        assert manifest is not None
        try:
            check_files(self.model(name), manifest)
        except ValueError as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: ValueError) -> ValueError:
        return ValueError(f"{self.stage(name)}: {error}; move {self.stage(name)} away to run the stage again")


_SECTIONS = ("recipe", "processes", "data", "model", "rewards")


def saved_checkpoints(root: Path) -> list[Path]:
    """The folders `checkpoint-<step>` in `root`, by step; finished or not."""
    found = [(int(match[1]), path) for path in root.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def remove_checkpoints(root: Path, which: Callable[[Path], bool]) -> None:
    """Remove some; without its manifest, one is nothing that anybody resumes from."""
    for folder in filter(which, saved_checkpoints(root)):
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


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


def _shown(key: str) -> str:
    return key.removeprefix("recipe.").removeprefix("stages.")


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
