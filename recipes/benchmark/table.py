"""`make paper-table`: the paper's five arms and the ablations, over seeds, and the table of what came of them.

Each run is the ordinary command on a recipe of this folder, as many at a time as there are cores, one thread each. What
a run came to is kept in `results/<device>/<run>.json` (scores, and which rows were right), which is what the table is
made of; runs with a stored result are skipped, so the same command resumes.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(HERE))]  # see pipeline/run.py

from eval.compare import compare, verdict, with_holm  # noqa: E402
from eval.files import json_lines, write_text  # noqa: E402
from eval.scores import CORRECT, Line  # noqa: E402

DEVICE = torch.cuda.get_device_name().lower().replace(" ", "-") if torch.cuda.is_available() else "cpu"
ASSETS, RESULTS = HERE / "assets", HERE / "results" / DEVICE
TUNING_SEED, SEEDS = 0, (1, 2, 3)
RATES = (5e-4, 1e-3, 2e-3)  # of SFT
GRPO_RATES = (1e-4, 2e-4)
LOSSES = {
    "sft": "token_mean",
    "scale": "{think_weight: {start: 0.9, end: 0.1, schedule: cosine}}",
    "scale-0.9-0.5": "{think_weight: {start: 0.9, end: 0.5, schedule: cosine}}",
    "linear": "{think_weight: {start: 0.9, end: 0.1, schedule: linear}}",
    "constant": "{think_weight: {start: 0.5, end: 0.5, schedule: constant}}",
    "step": "{think_weight: {start: 1.0, end: 0.0, schedule: step}}",  # SFTKey, with segment means
    "reversed": "{think_weight: {start: 0.1, end: 0.9, schedule: cosine}}",
    "constant-answer": "{think_weight: {start: 1.0, end: 0.3, schedule: cosine}, answer_weight: 1.0}",
    "answer-only": "{think_weight: {start: 0.0, end: 0.0, schedule: constant}}",
    "sample-token-mean": "sample_token_mean",
}
SCORES = ("n", "accuracy", "ci95", "malformed", "truncated", "think_tokens", "answer_tokens")  # that are kept
TUNED = ("sft", "scale")  # the losses of the arms
ARMS = {  # of the paper: the run and its checkpoint
    "base": ("arm-sft", "base"),
    "SFT": ("arm-sft", "sft"),
    "SCALe-SFT": ("arm-scale", "sft"),
    "SFT+GRPO": ("arm-sft", "grpo"),
    "SCALe+GRPO": ("arm-scale", "grpo"),
}


class Run(NamedTuple):
    """One call of the pipeline."""

    name: str
    recipe: str
    overrides: Sequence[str]

    @property
    def kept(self) -> Path:
        """Where its result is kept."""
        return RESULTS / f"{self.name}.json"

    def go(self, threads: int = 1) -> None:
        """Run or resume it; store its result."""
        folder = ROOT / "runs" / f"benchmark-{self.name}"
        command = [sys.executable, "pipeline/run.py", str(HERE / self.recipe), f"name={folder.name}", *self.overrides]
        log = ROOT / "runs" / f"{folder.name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as output:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(f"{self.name} ended with {done.returncode}: see {log}")
        write_text(self.kept, json.dumps(_kept(folder)) + "\n")
        print(f"{self.name}: done", flush=True)


def _kept(folder: Path) -> dict[str, Any]:
    """What the run cost and scored and, by checkpoint and task, a 1 for each row that was right, in the ids' order."""
    results, recipe = (json.loads((folder / f"{name}.json").read_text()) for name in ("results", "recipe"))
    scores = {
        name: {task: {key: found[key] for key in SCORES} for task, found in tasks.items()}
        for name, tasks in results["checkpoints"].items()
    }
    right = {
        name: {task: _right(folder / "eval" / name / task / "completions.jsonl") for task in tasks}
        for name, tasks in scores.items()
    }
    about = {"stages": results["stages"], "versions": recipe["versions"], "git": recipe["git"]}
    return {**about, "checkpoints": scores, "right": right}


def _right(completions: Path) -> str:
    greedy = [line for line in json_lines(completions) if not line["sample"] and not line["image_removed"]]
    return "".join(str(int(line["outcome"] == CORRECT)) for line in sorted(greedy, key=lambda line: line["id"]))


# --- the runs ---------------------------------------------------------------------------------------------------------


BASE = Run("base", "base.yaml", [])  # what all runs start from, as the paper's start from one checkpoint


def _on_data(seed: int) -> list[str]:
    return [f"seed={seed}", f"data.sft.path={ASSETS / str(seed) / 'sft.parquet'}"]


def _sft(name: str, seed: int, loss: str, rate: float, *overrides: str) -> Run:
    changes = [f"sft.loss={LOSSES[loss]}", f"sft.trainer.learning_rate={rate:g}"]
    return Run(name, "ablation.yaml", [*_on_data(seed), *changes, *overrides])


def _grpo(name: str, seed: int, loss: str, rate: float, *overrides: str) -> Run:
    changes = [f"sft.loss={LOSSES[loss]}", f"sft.trainer.learning_rate={tuned(loss):g}"]
    changes.append(f"grpo.trainer.learning_rate={rate:g}")
    if importlib.util.find_spec("vllm") is None:
        changes.append("grpo.trainer.use_vllm=false")
    data = f"data.rl.path={ASSETS / str(seed) / 'rl.parquet'}"
    return Run(name, "arm.yaml", [*_on_data(seed), data, *changes, *overrides])


DEV = f"evaluate.tasks=[{HERE / 'dev.yaml'}]"


def tuning() -> list[Run]:
    """Each arm's loss with each learning rate, on a seed and on questions that are used for nothing else."""
    pairs = itertools.product(TUNED, RATES)
    return [_sft(_tuning_name(loss, rate, "sft"), TUNING_SEED, loss, rate, DEV) for loss, rate in pairs]


def grpo_tuning() -> list[Run]:
    """The same for GRPO, after SFT with the learning rate that was found."""
    pairs = itertools.product(TUNED, GRPO_RATES)
    return [_grpo(_tuning_name(loss, rate, "grpo"), TUNING_SEED, loss, rate, DEV) for loss, rate in pairs]


def tuned(loss: str, stage: str = "sft") -> float:
    """The learning rate with the highest accuracy on `dev`."""
    found = _tuning_accuracies(loss, stage)
    return max(found, key=lambda rate: found[rate])


def _tuning_accuracies(loss: str, stage: str) -> dict[float, float]:
    rates = RATES if stage == "sft" else GRPO_RATES
    found = {rate: json.loads((RESULTS / f"{_tuning_name(loss, rate, stage)}.json").read_text()) for rate in rates}
    return {rate: each["checkpoints"][stage]["dev"]["accuracy"] for rate, each in found.items()}


def _tuning_name(loss: str, rate: float, stage: str) -> str:
    return f"tune-{loss}-{'grpo-' if stage == 'grpo' else ''}{rate:g}"


def arms(seed: int) -> list[Run]:
    return [_grpo(f"arm-{loss}-{seed}", seed, loss, tuned(loss, "grpo")) for loss in TUNED]


def ablations(seed: int) -> list[Run]:
    return [_sft(f"{loss}-{seed}", seed, loss, tuned("scale")) for loss in LOSSES if loss not in TUNED]


def build(seed: int) -> None:
    """The data and the untrained model of a seed."""
    if not (ASSETS / str(seed)).exists():
        command = [sys.executable, str(HERE / "build.py"), "--seed", str(seed), "--out", str(ASSETS / str(seed))]
        subprocess.run(command, check=True)


# --- the table --------------------------------------------------------------------------------------------------------


def table() -> str:
    """What the results kept for this device say, as Markdown. All tests that are shown are one family."""
    shown = [each for each in (ARMS_SHOWN, ABLATIONS_SHOWN) if each.seeds()]
    every = with_holm([result for each in shown for result in each.comparisons()])
    results = iter(every)
    parts = [_shown(each, list(itertools.islice(results, len(each.pairs)))) for each in shown]
    return "\n".join([*itertools.chain(*parts), *_tuning_table()]) + "\n"


PAIRS = (("SFT", "SCALe-SFT"), ("SFT+GRPO", "SCALe-SFT"), ("SFT+GRPO", "SCALe+GRPO"), ("SCALe-SFT", "SCALe+GRPO"))


class Shown(NamedTuple):
    """A table: its runs with their checkpoints, by title, and the pairs (A, B) of titles that are compared."""

    what: str
    runs: dict[str, tuple[str, str]]
    pairs: Sequence[tuple[str, str]]

    def seeds(self) -> list[int]:
        """Those for which all runs are kept."""
        names = {run for run, _ in self.runs.values()}
        return [seed for seed in SEEDS if all((RESULTS / f"{run}-{seed}.json").exists() for run in names)]

    def stored(self, run: str) -> list[dict[str, Any]]:
        """The results of a run, by seed."""
        return [json.loads((RESULTS / f"{run}-{seed}.json").read_text()) for seed in self.seeds()]

    def lines(self, title: str) -> list[list[Line]]:
        """The kept rows, by seed."""
        run, checkpoint = self.runs[title]
        return [_lines(result, checkpoint) for result in self.stored(run)]

    def comparisons(self) -> list[dict[str, Any]]:
        return [compare(self.lines(a), self.lines(b)) for a, b in self.pairs]


ARMS_SHOWN = Shown("arm", ARMS, PAIRS)
ABLATIONS_SHOWN = Shown(
    "loss of SFT",
    {loss: (f"arm-{loss}" if loss in TUNED else loss, "sft") for loss in LOSSES},  # two are the arms'
    [(a, b) for a in TUNED for b in LOSSES if b not in TUNED],
)


def _tuning_table() -> list[str]:
    """Accuracy on `dev` by learning rate; the highest was taken."""
    rows = []
    for stage, loss in itertools.product(("sft", "grpo"), TUNED):
        with contextlib.suppress(FileNotFoundError):  # not tuned yet
            found = _tuning_accuracies(loss, stage).items()
            shown = " | ".join(f"{accuracy:.3f} at {rate:g}" for rate, accuracy in found)
            rows.append(f"| {loss}{'+GRPO' if stage == 'grpo' else ''} | {shown} |")
    return ["| dev accuracy, seed 0 | learning rate | | |", "|---|---|---|---|", *rows] if rows else []


def _shown(shown: Shown, compared: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each run and checkpoint and for each pair, over the seeds for which all are kept."""
    what, seeds = shown.what, shown.seeds()
    rows = [
        _row(title, shown.stored(run), checkpoint, shown.lines(title))
        for title, (run, checkpoint) in shown.runs.items()
    ]
    differences = []
    for (a, b), result in zip(shown.pairs, compared, strict=True):
        low, high = result["ci95"]
        differences.append(
            f"| {b} - {a} | {result['difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {result['p']:.2g} "
            f"({result['holm_p']:.2g}) | {verdict(result, a, b)} |"
        )
    return [
        "Held-out accuracy, greedy; the mean with its 95% interval over seeds and rows.",
        "",
        f"| {what} | "
        + " | ".join(f"seed {seed}" for seed in seeds)
        + " | mean | malformed | truncated | CPU seconds |",
        "|---|" + "---|" * (len(seeds) + 4),
        *rows,
        "",
        "| B - A | difference (95%) | p (Holm) | |",
        "|---|---|---|---|",
        *differences,
        "",
    ]


def _row(title: str, stored: Sequence[dict[str, Any]], checkpoint: str, lines: Sequence[list[Line]]) -> str:
    """`stored` and `lines` are by seed."""
    scores = [result["checkpoints"][checkpoint]["heldout"] for result in stored]
    order = ("base", "sft", "grpo").index
    stages = [stage for result in stored for stage in result["stages"] if order(stage["name"]) <= order(checkpoint)]
    seconds = sum(stage["cpu_seconds"] for stage in stages) / len(stored)
    nothing = [[{**line, "outcome": "wrong"} for line in result] for result in lines]
    low, high = compare(nothing, lines)["ci95"]
    malformed, truncated = (sum(score[key] for score in scores) / len(stored) for key in ("malformed", "truncated"))
    accuracies = [score["accuracy"] for score in scores]
    shown = " | ".join(f"{result:.3f}" for result in accuracies)
    mean = f"{sum(accuracies) / len(stored):.3f} ({max(low, 0):.3f} to {min(high, 1):.3f})"
    return f"| {title} | {shown} | {mean} | {malformed:.1%} | {truncated:.1%} | {seconds:.0f} |"


def _lines(held: dict[str, Any], checkpoint: str) -> list[Line]:
    """Kept rows in the shape that `eval.compare` reads; all grids differ."""
    blank = {"sample": 0, "image_removed": False, "image": None, "question": None, "gold": None}
    return [
        {**blank, "id": str(index), "outcome": CORRECT if right == "1" else "wrong"}
        for index, right in enumerate(held["right"][checkpoint]["heldout"])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts: dict[str, Callable[[], list[Run]]] = {
        "tuning": tuning,
        "grpo-tuning": grpo_tuning,
        "arms": lambda: [run for seed in SEEDS for run in arms(seed)],
        "ablations": lambda: [run for seed in SEEDS for run in ablations(seed)],
    }
    parser.add_argument("--only", choices=[*parts, "table"], help="this part alone")
    only, ready = parser.parse_args().only, False
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for part, runs in parts.items():
            missing = [run for run in runs() if not run.kept.exists()] if only in (None, part) else []
            if missing and not ready:
                list(pool.map(build, (TUNING_SEED, *SEEDS)))
                BASE.go(threads=os.cpu_count() or 1)
                ready = True
            list(pool.map(Run.go, missing))
    made = table()
    write_text(RESULTS / "table.md", made)
    print(made)


if __name__ == "__main__":
    main()
