"""A run of one stage, trained in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import stages
from pipeline.checkpoint.run_folder import RunFolder
from pipeline.checkpoint.run_identity import claim
from pipeline.recipe.file import load


def trains(small: Callable[[str], Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """What trains one stage, `sft` or `grpo`, in `folder`; see the fixture `trained`."""

    def trained(kind: str, **trainer: Any) -> RunFolder:
        rows = [
            {"question": f"What is {n} plus 1?", "think": f"Add one to {n}.", "answer": str(n + 1)} for n in range(4)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        common = {"max_steps": 2, "logging_steps": 1, "gradient_checkpointing": False, "learning_rate": 1e-3, **trainer}
        stage: dict[str, Any] = {"name": kind, "kind": kind, "data": "rows", "trainer": common}
        if kind == "sft":
            stage["loss"] = {"think_weight": {"start": 0.9, "end": 0.1}}
            common["per_device_train_batch_size"] = 4
        else:
            stage["rewards"] = ["accuracy"]
            common |= {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 8}
        content = {
            "name": "told",
            "model": {"path": str(small("qwen3")), "dtype": "float32"},
            "data": {"rows": {"path": "rows.jsonl"}},
            "stages": [stage],
            "evaluate": {"tasks": [], "checkpoints": [kind]},
        }
        (folder / "told.yaml").write_text(yaml.safe_dump(content))
        recipe = load(folder / "told.yaml", [])
        monkeypatch.chdir(folder)
        for name in ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "WANDB_PROJECT", "MASTER_PORT"):
            monkeypatch.setenv(name, "x")  # so that what the run sets is undone
            monkeypatch.delenv(name)
        out = RunFolder(Path("runs") / recipe.name)
        out.root.mkdir(parents=True)
        claim(out, recipe)
        stages._run_stage(recipe, 0, out, first=True)
        trained.recipe = recipe  # type: ignore[attr-defined]
        return out

    return trained
