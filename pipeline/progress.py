"""What a person sees while a stage trains, and the file that keeps every logged number."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from eval.files import write_json_lines

_SHOWN = ("loss", "think_nll", "answer_nll", "think_weight", "eval_loss", "reward", "rewards/accuracy/mean")


def show_progress(trainer: Trainer, title: str, metrics: Path) -> None:
    """Replace the trainer's own printing by one bar, titled "stage 2 of 3: sft (SCALe)", and the file `metrics`."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Reporter(title, metrics))


class _Reporter(TrainerCallback):
    def __init__(self, title: str, metrics: Path) -> None:
        self.title, self.metrics = title, metrics
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = _lines_until(self.metrics, state.global_step)
        write_json_lines(self.metrics, kept)
        self.started, self.started_cpu = (
            clock() - (kept[-1].get(name, 0.0) if kept else 0.0)
            for name, clock in (("seconds", time.monotonic), ("cpu_seconds", time.process_time))
        )
        if sys.stderr.isatty():
            shape = {"total": state.max_steps, "initial": state.global_step, "dynamic_ncols": True, "disable": False}
            self.bar = tqdm(desc=self.title, unit="step", **shape)
        else:
            print(f"{self.title}: {state.max_steps} steps", file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        seconds, cpu_seconds = time.monotonic() - self.started, time.process_time() - self.started_cpu  # of rank 0
        times = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
        line = {"step": state.global_step, **times, **logs}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = {name.removesuffix("/mean"): f"{logs[name]:.3g}" for name in _SHOWN if logs.get(name) is not None}
        if self.bar is not None:
            self.bar.set_postfix(shown)
        elif shown and self._tenth(state):
            numbers = ", ".join(f"{name} {value}" for name, value in shown.items())
            print(f"{self.title}: step {state.global_step}/{state.max_steps}, {numbers}", file=sys.stderr, flush=True)

    def _tenth(self, state: Any) -> bool:
        """Whether a log without a terminal gets a line: about ten a stage."""
        tenth = 10 * state.global_step // max(state.max_steps, 1)
        due: bool = tenth != getattr(self, "printed", None)
        self.printed = tenth
        return due

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def _lines_until(metrics: Path, step: int) -> list[dict[str, Any]]:
    """What was logged up to `step`; a run that was killed has logged steps that come again, and half a last line."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    logged: list[dict[str, Any]] = []
    for line in lines:
        try:
            logged.append(json.loads(line))
        except ValueError:
            break
    return [line for line in logged if line["step"] <= step and "train_runtime" not in line]
