"""The run folder: what lies where (README.md has the map), and the marks that say a stage is complete."""

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.manifest import read_sealed, seal, verify_files

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

    def evaluation(self, checkpoint: str) -> Path:
        """A folder for each task."""
        return self.root / "eval" / checkpoint

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

    def reported(self) -> bool:
        """Whether results and report are those of the finished run; `python -m eval.report` writes earlier ones."""
        with suppress(OSError, ValueError, KeyError, TypeError):  # one that is damaged is written again
            done = json.loads((self.root / "results.json").read_text(encoding="utf-8"))["complete"]
            return bool(done) and (self.root / "report.html").exists()
        return False

    def begin(self, name: str) -> None:
        """Clear what an interrupted attempt left of its hand-off; checkpoints, metrics and completions stay.

        Scores and results, if there are any, are those of another model of the stage.
        """
        for old in (self.model(name), self.evaluation(name)):
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
            verify_files(self.model(name), manifest)
        except ValueError as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: ValueError) -> ValueError:
        return ValueError(f"{self.stage(name)}: {error}; move {self.stage(name)} away to run the stage again")


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
