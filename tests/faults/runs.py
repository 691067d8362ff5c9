"""The pipeline's own entry point in processes that a fault can end, and the fingerprint of what a run ends with.

A process that trains takes 20 s to import its libraries. One process imports them all, and each of a run's processes is
a fork of it that has trained nothing; where the pipeline replaces its process by `exec`, the fork ends and a new one
starts with the environment that `exec` was given. Nothing else of the pipeline is replaced.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "DATASETS_VERBOSITY": "error"}

import pandas
from ruamel.yaml import YAML

import pipeline.grpo
import pipeline.main
import pipeline.sft

HANG_S = 60.0  # the limit that a run keeps, whatever happens to it
HOP = 77  # the exit code of a fork that would have replaced itself
REWARD = """
import time

def contrast(completions, wait=0.0, **columns):
    time.sleep(wait)
    return [float(len(set(completion[0]["content"]))) for completion in completions]
"""
TIMES = ("seconds", "cpu_seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second", "step_time")


def write_recipe(folder: Path, model: Path, keys: dict[str, Any] | None = None) -> Path:
    """Two stages and an evaluation, of a small text model, rolled out with transformers: a few seconds each.

    SFT has three optimizer steps an epoch, of two micro-batches each, and saves each second step: within an epoch and
    after it. A GRPO generation serves two optimizer steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contrast.py").write_text(REWARD)
    rows = [{"id": f"q{n}", "question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(12)]
    held = [{"question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(12, 16)]
    thought = [{**row, "think": f"I see {row['id']}; is that so? Yes!"} for row in rows]
    for name, lines in {"sft": thought, "rl": rows, "held": held}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = {"logging_steps": 1, "gradient_checkpointing": False, "save_steps": 2, "learning_rate": 1e-2}
    recipe = {
        "name": "fault",
        "model": {"path": str(model), "dtype": "float32"},
        "data": {"sft": {"path": "sft.jsonl"}, "rl": {"path": "rl.jsonl"}},
        "stages": [
            {
                "name": "sft",
                "kind": "sft",
                "data": "sft",
                "loss": {"think_weight": {"start": 0.9, "end": 0.1}},
                "trainer": {
                    **common,
                    "per_device_train_batch_size": 2,
                    "gradient_accumulation_steps": 2,
                    "num_train_epochs": 2,
                },
            },
            {
                "name": "grpo",
                "kind": "grpo",
                "data": "rl",
                "rewards": [{"use": "contrast.py:contrast"}],
                "trainer": {
                    **common,
                    "per_device_train_batch_size": 4,
                    "num_generations": 4,
                    "steps_per_generation": 2,
                    "max_steps": 8,
                    "max_completion_length": 8,
                    "use_vllm": False,
                },
            },
        ],
        "evaluate": {"tasks": ["held.yaml"], "checkpoints": ["sft", "grpo"], "batch_size": 4},
        **(keys or {}),
    }
    task = {"name": "held", "path": str(folder / "held.jsonl"), "max_new_tokens": 8}
    for name, value in {"recipe.yaml": recipe, "held.yaml": task}.items():
        with (folder / name).open("w") as file:
            YAML(typ="safe").dump(value, file)
    return folder / "recipe.yaml"


Fault = Callable[[int], None]  # called in each fork, with its number, before the pipeline starts


@dataclass
class Rank:
    """One of a run's processes: `number` counts the forks that follow each other."""

    environment: dict[str, str]
    pid: int = 0
    number: int = -1
    code: int | None = None


@dataclass
class Run:
    """The command `pipeline/run.py RECIPE` in `folder`, with one rank or several."""

    recipe: Path
    folder: Path
    arguments: list[str] = field(default_factory=list)
    ranks: int = 1
    patience: float = HANG_S  # seconds in which one of the run's processes must have ended

    @property
    def root(self) -> Path:
        return self.folder / "runs" / "fault"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace") if (self.folder / "log").exists() else ""

    def go(self, fault: Fault | None = None, meanwhile: Callable[[list[Rank]], None] | None = None) -> list[int]:
        """Run to the end; returns the exit codes of the ranks, a signal's number negative.

        `fault` is called in each fork; `meanwhile`, again and again, in this process.

        Raises:
            TimeoutError: no rank has ended for `patience` seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        everyone = [Rank(self._environment(rank)) for rank in range(self.ranks)]
        for rank in everyone:
            self._start(rank, fault)
        last = time.monotonic()
        while any(rank.code is None for rank in everyone):
            for rank in everyone:
                if rank.code is None and (waited := os.waitpid(rank.pid, os.WNOHANG))[0]:
                    last, code = time.monotonic(), os.waitstatus_to_exitcode(waited[1])
                    if code == HOP:
                        handed = self.folder / f"environment-{rank.pid}.json"
                        rank.environment = json.loads(handed.read_text())
                        handed.unlink()
                        self._start(rank, fault)
                    else:
                        rank.code = code
                        if code:  # as a launcher does, which gives up when one of its ranks has failed
                            self._end([other for other in everyone if other.code is None], signal.SIGTERM)
            if time.monotonic() - last > self.patience:
                self._end([rank for rank in everyone if rank.code is None], signal.SIGKILL)
                raise TimeoutError(f"no process ended for {self.patience:g} s: {self.log[-2000:]}")
            if meanwhile is not None:
                meanwhile(everyone)
            time.sleep(0.01)
        return [rank.code for rank in everyone if rank.code is not None]

    def _environment(self, rank: int) -> dict[str, str]:
        if self.ranks == 1:
            return dict(os.environ)
        if rank == 0:
            with socket.socket() as listener:
                listener.bind(("", 0))
                self.port = listener.getsockname()[1]
        alone = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.ranks, "LOCAL_WORLD_SIZE": self.ranks}
        alone |= {"MASTER_ADDR": "localhost", "MASTER_PORT": self.port, "ACCELERATE_USE_CPU": "true"}
        return os.environ | {name: str(value) for name, value in alone.items()}

    def _start(self, rank: Rank, fault: Fault | None) -> None:
        rank.number += 1
        sys.stdout.flush()
        sys.stderr.flush()
        rank.pid = os.fork()
        if rank.pid:
            return
        code = 1
        try:
            os.setpgrp()
            os.chdir(self.folder)
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.clear()
            os.environ.update(rank.environment)
            os.execve = self._exec_next
            if fault is not None:
                fault(rank.number)
            code = pipeline.main.main([str(self.recipe), *self.arguments])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _exec_next(self, path: str, arguments: list[str], environment: dict[str, str]) -> None:
        (self.folder / f"environment-{os.getpid()}.json").write_text(json.dumps(dict(environment)))
        os._exit(HOP)

    @staticmethod
    def _end(ranks: list[Rank], number: int) -> None:
        for rank in ranks:
            os.kill(rank.pid, number)


def fingerprint(root: Path) -> dict[str, Any]:
    """What a run ends with: digests of the models, each logged number but times, prompts, completions and scores."""
    found: dict[str, Any] = {}
    # A tokenizer writes into its file how it padded last, which is nothing for one that had nothing left to train on;
    # a card says how long a stage took.
    for file in sorted(path for path in root.glob("*/model/*") if path.name not in {"tokenizer.json", "README.md"}):
        found[str(file.relative_to(root))] = hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted(root.glob("*/metrics.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(root))] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    for file in sorted(root.glob("*/completions/*.parquet")):
        found[str(file.relative_to(root))] = pandas.read_parquet(file).to_json()
    for file in sorted((root / "eval").glob("*/*/completions.jsonl")):
        found[str(file.relative_to(root))] = file.read_text()
    for file in sorted((root / "eval").glob("*/*/scores.json")):
        score = json.loads(file.read_text())
        del score["made"]["identity"]["checkpoint"]  # the digest of all of the model's files, tokenizer.json among them
        found[str(file.relative_to(root))] = score
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The parts in which two fingerprints differ."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def logged_step(root: Path, stage: str) -> int:
    """The last step in a stage's metrics; 0 before the first."""
    path = root / stage / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines and lines[-1].endswith("}") else 0
