"""`make paper-table`: the paper's five arms and the ablations, over seeds, and the table of what came of them.

Each run is the ordinary command on a recipe of this folder, as many at a time as there are cores, one thread each. What
a run came to is kept in `results/<device>/<run>.json` (scores, and which rows were right), which is what the table is
made of; a run that is kept there is not run again, so the same command goes on.
"""

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(HERE))]  # see pipeline/run.py

from eval.compare import compare, verdict, with_holm  # noqa: E402
from eval.files import json_lines, write_json, write_text  # noqa: E402
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
        """Run it, or go on with it; keep its result."""
        folder = ROOT / "runs" / f"benchmark-{self.name}"
        command = [sys.executable, "pipeline/run.py", str(HERE / self.recipe), f"name={folder.name}", *self.overrides]
        log = ROOT / "runs" / f"{folder.name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as output:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(f"{self.name} ended with {done.returncode}: see {log}")
        write_json(self.kept, _kept(folder))
        print(f"{self.name}: done", flush=True)


def _kept(folder: Path) -> dict[str, Any]:
    """What the run cost and scored and, by checkpoint and task, a 1 for each row that was right, in the ids' order."""
    results, recipe = _read(folder / "results.json"), _read(folder / "recipe.json")
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


def base() -> Run:
    """The model that all runs start from, as the paper's start from one checkpoint."""
    return Run("base", "base.yaml", [])


def _on_data(seed: int) -> list[str]:
    return [f"seed={seed}", f"data.sft.path={ASSETS / str(seed) / 'sft.parquet'}"]


def _sft(name: str, seed: int, loss: str, rate: float, *overrides: str) -> Run:
    changes = [f"sft.loss={LOSSES[loss]}", f"sft.trainer.learning_rate={rate:g}"]
    return Run(name, "ablation.yaml", [*_on_data(seed), *changes, *overrides])


def _grpo(name: str, seed: int, loss: str, rate: float, *overrides: str) -> Run:
    changes = [f"sft.trainer.learning_rate={tuned(loss):g}", f"grpo.trainer.learning_rate={rate:g}"]
    if importlib.util.find_spec("vllm") is None:
        changes.append("grpo.trainer.use_vllm=false")
    data = f"data.rl.path={ASSETS / str(seed) / 'rl.parquet'}"
    return Run(name, f"{loss}.yaml", [*_on_data(seed), data, *changes, *overrides])


DEV = f"evaluate.tasks=[{HERE / 'dev.yaml'}]"


def tuning() -> list[Run]:
    """Each arm's loss with each learning rate, on a seed and on questions that are used for nothing else."""
    pairs = itertools.product(("sft", "scale"), RATES)
    return [_sft(f"tune-{loss}-{rate:g}", TUNING_SEED, loss, rate, DEV) for loss, rate in pairs]


def grpo_tuning() -> list[Run]:
    """The same for GRPO, after SFT with the learning rate that was found."""
    pairs = itertools.product(("sft", "scale"), GRPO_RATES)
    return [_grpo(f"tune-{loss}-grpo-{rate:g}", TUNING_SEED, loss, rate, DEV) for loss, rate in pairs]


def tuned(loss: str, stage: str = "sft") -> float:
    """The learning rate with the highest accuracy on `dev`."""
    rates = RATES if stage == "sft" else GRPO_RATES
    found = {rate: _read(_tuning_result(loss, rate, stage)) for rate in rates}
    return max(found, key=lambda rate: found[rate]["checkpoints"][stage]["dev"]["accuracy"])


def _tuning_result(loss: str, rate: float, stage: str) -> Path:
    return RESULTS / f"tune-{loss}-{'grpo-' if stage == 'grpo' else ''}{rate:g}.json"


def arms(seed: int) -> list[Run]:
    return [_grpo(f"arm-{loss}-{seed}", seed, loss, tuned(loss, "grpo")) for loss in ("sft", "scale")]


def ablations(seed: int) -> list[Run]:
    return [_sft(f"{loss}-{seed}", seed, loss, tuned("scale")) for loss in LOSSES if loss not in ("sft", "scale")]


def build(seed: int) -> None:
    """The data and the untrained model of a seed."""
    if not (ASSETS / str(seed)).exists():
        command = [sys.executable, str(HERE / "build.py"), "--seed", str(seed), "--out", str(ASSETS / str(seed))]
        subprocess.run(command, check=True)


# --- the table --------------------------------------------------------------------------------------------------------


def table() -> str:
    """What the results kept for this device say, as Markdown."""
    return "\n".join([*_arms_table(), *_ablations_table(), *_tuning_table()]) + "\n"


PAIRS = (("SFT", "SCALe-SFT"), ("SFT+GRPO", "SCALe-SFT"), ("SFT+GRPO", "SCALe+GRPO"), ("SCALe-SFT", "SCALe+GRPO"))


def _arms_table() -> list[str]:
    seeds = _seeds(["arm-sft", "arm-scale"])
    if not seeds:
        return []
    rows = [_row(arm, run, checkpoint, seeds) for arm, (run, checkpoint) in ARMS.items()]
    lines = {arm: [_lines(_result(run, seed), checkpoint) for seed in seeds] for arm, (run, checkpoint) in ARMS.items()}
    return [
        *_head("arm", seeds),
        *rows,
        "",
        *_differences([(a, lines[a], b, lines[b]) for a, b in PAIRS]),
        "",
    ]


def _ablations_table() -> list[str]:
    """All losses; ordinary SFT and SCALe are the arms'."""
    runs = {loss: f"arm-{loss}" if loss in ("sft", "scale") else loss for loss in LOSSES}
    seeds = _seeds(runs.values())
    if not seeds:
        return []
    lines = {loss: [_lines(_result(run, seed), "sft") for seed in seeds] for loss, run in runs.items()}
    others = [loss for loss in LOSSES if loss not in ("sft", "scale")]
    pairs = [(name, lines[name], loss, lines[loss]) for name in ("sft", "scale") for loss in others]
    return [
        *_head("loss of SFT", seeds),
        *(_row(loss, run, "sft", seeds) for loss, run in runs.items()),
        "",
        *_differences(pairs),
        "",
    ]


def _tuning_table() -> list[str]:
    """Accuracy on `dev` by learning rate; the highest was taken."""
    rows = []
    for stage, rates in (("sft", RATES), ("grpo", GRPO_RATES)):
        for loss in ("sft", "scale"):
            kept = [_tuning_result(loss, rate, stage) for rate in rates]
            if all(path.exists() for path in kept):
                scores = [f"{_read(path)['checkpoints'][stage]['dev']['accuracy']:.3f} at {rate:g}"
                          for path, rate in zip(kept, rates, strict=True)]  # fmt: skip
                rows.append(f"| {loss}{'+GRPO' if stage == 'grpo' else ''} | {' | '.join(scores)} |")
    return ["| dev accuracy, seed 0 | learning rate | | |", "|---|---|---|---|", *rows] if rows else []


def _seeds(runs: Iterable[str]) -> list[int]:
    """The seeds for which all of these runs are kept."""
    runs = list(runs)
    return [seed for seed in SEEDS if all((RESULTS / f"{run}-{seed}.json").exists() for run in runs)]


def _head(title: str, seeds: Sequence[int]) -> list[str]:
    return [
        "Held-out accuracy, greedy; the mean with its 95% interval over seeds and rows.",
        "",
        f"| {title} | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | malformed | CPU seconds |",
        "|---|" + "---|" * (len(seeds) + 3),
    ]


def _row(title: str, run: str, checkpoint: str, seeds: Sequence[int]) -> str:
    held = [_result(run, seed) for seed in seeds]
    scores = [each["checkpoints"][checkpoint]["heldout"] for each in held]
    stages = [[stage for stage in each["stages"] if _until(stage["name"], checkpoint)] for each in held]
    seconds = sum(stage["cpu_seconds"] for each in stages for stage in each) / len(seeds)
    accuracies = [score["accuracy"] for score in scores]
    lines = [_lines(each, checkpoint) for each in held]
    nothing = [[{**line, "outcome": "wrong"} for line in each] for each in lines]
    low, high = compare(nothing, lines)["ci95"]
    malformed = sum(score["malformed"] for score in scores) / len(seeds)
    shown = " | ".join(f"{each:.3f}" for each in accuracies)
    mean = f"{sum(accuracies) / len(seeds):.3f} ({max(low, 0):.3f} to {min(high, 1):.3f})"
    return f"| {title} | {shown} | {mean} | {malformed:.1%} | {seconds:.0f} |"


def _differences(pairs: Sequence[tuple[str, list[list[Line]], str, list[list[Line]]]]) -> list[str]:
    """Of B from A over seeds and rows, one line each; p is Holm's over all that are shown."""
    found = with_holm([compare(left, right) for _, left, _, right in pairs])
    rows = []
    for (a, _, b, _), each in zip(pairs, found, strict=True):
        low, high = each["ci95"]
        rows.append(
            f"| {b} - {a} | {each['difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {each['p']:.2g} "
            f"({each['holm_p']:.2g}) | {verdict(each, a, b)} |"
        )
    return ["| B - A | difference (95%) | p (Holm) | |", "|---|---|---|---|", *rows]


def _until(stage: str, checkpoint: str) -> bool:
    """Whether `stage` is part of what made `checkpoint`."""
    order = ("base", "sft", "grpo")
    return order.index(stage) <= order.index(checkpoint)


def _result(run: str, seed: int) -> dict[str, Any]:
    return _read(RESULTS / f"{run}-{seed}.json")


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


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
                base().go(threads=os.cpu_count() or 1)
                ready = True
            list(pool.map(Run.go, missing))
    write_text(RESULTS / "table.md", table())
    print((RESULTS / "table.md").read_text())


if __name__ == "__main__":
    main()
