"""`make gpu`: every check that needs a GPU, the most telling first; writes gpu.json and prints a table.

Each check has a process and a limit of its own, and one that fails does not stop the next. gpu.json is written anew
after each finding: a list of {"name", "value", "unit", "detail"}, with null and the reason where something is missing.
Exits 1 if something found must not be so or a check failed, and 2 where there is no GPU.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.gpu.check import ROOT, Check, Finding, Setting

TRL = ("trl", "datasets", "pydantic", "ruamel.yaml")
VLLM = (*TRL, "vllm")
SHARDED = "tests/pipeline/test_launch_sharded.py does it over gloo"
CHECKS = (
    Check("machine", "tests.gpu.machine", "machine", 5, 60),
    Check("exec_frees_gpu", "tests.gpu.memory", "exec_frees_gpu", 20, 60, needs=TRL),
    Check("fsdp2_policy", "tests.gpu.precision", "fsdp2_policy", 10, 60, needs=TRL),
    Check("reference_peak", "tests.gpu.memory", "reference_peak", 15, 60, needs=TRL),
    Check("sft_steps", "tests.gpu.steps", "sft_steps", 40, 120, needs=(*TRL, "peft")),
    Check("resume_bits", "tests.gpu.stops", "resume_bits", 30, 120, needs=(*TRL, "plotly")),
    Check("vision_windows", "tests.gpu.vision", "vision_windows", 20, 90),
    Check("log_prob_spread", "tests.gpu.precision", "log_prob_spread", 10, 60, needs=TRL),
    Check("sigterm", "tests.gpu.stops", "sigterm", 20, 90, needs=TRL),
    Check("vllm_push", "tests.gpu.engine", "pushes", 120, 240, needs=(*VLLM, "peft")),
    Check("grpo_3b", "tests.gpu.grpo", "step", 100, 200, needs=VLLM),
    Check("sft_3b", "tests.gpu.sft", "rows_a_micro_batch", 100, 180, needs=TRL),
    Check("lora_7b", "tests.gpu.sft", "lora", 40, 90, needs=(*TRL, "peft")),
    Check("rollout_rate", "tests.gpu.engine", "rates", 90, 180, needs=VLLM, gpu_only="make bench measures it on a CPU"),
    Check("demo", "tests.gpu.stops", "demo", 150, 300, needs=(*VLLM, "plotly")),
    Check("two_gpus", "tests.gpu.steps", "two_gpus", 60, 150, gpus=2, needs=TRL, gpu_only=SHARDED),
)
# The server from which the checks' processes are forked imports these once; it must not start CUDA.
PRELOADED = ["torch", "transformers", "accelerate", "trl", "pipeline.main", "pipeline.sft", "pipeline.rollout.trainer"]
UNFIT, FORKED_LATE = "left out: ", 75  # the exit code of a process that cannot use CUDA because its parent did


class Report:
    """gpu.json, and what is printed."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.wrong = path, [], False

    def add(self, finding: Finding) -> None:
        self.rows.append(finding.row())
        self.wrong |= bool(finding.wrong)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)

    def print(self) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table("name", "value", "unit", "detail")
        for row in self.rows:
            value = "-" if row["value"] is None else f"{row['value']:g}"
            table.add_row(row["name"], value, row["unit"], row["detail"])
        Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [check.name for check in CHECKS[1:]]
    parser.add_argument("--only", action="append", choices=names, help="run this one; may be given several times")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU: what of it runs there")
    parser.add_argument("--limit", type=float, default=540, help="seconds for all of it (540)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu.json and gpu-logs/ (this one)")
    parser.add_argument("--list", action="store_true", help="print the names and run none")
    options = parser.parse_args(arguments)
    if options.list:
        print(*(f"{check.name:16} about {check.seconds:3} s" for check in CHECKS[1:]), sep="\n")
        return 0
    chosen = [check for check in CHECKS if check.name in (options.only or names) or check.name == "machine"]
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out / "gpu.json")
    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as work:
        code = _run(chosen, Path(work), options, report)
    if code != 2:
        report.print()
    return code


def _run(chosen: list[Check], work: Path, options: argparse.Namespace, report: Report) -> int:
    end = time.monotonic() + options.limit
    runner = Runner(work, options.out / "gpu-logs", options.rehearse)
    for check in chosen:
        left = end - time.monotonic()
        if (why := _missing(check, options.rehearse, report)) or left < check.seconds:
            why = why or f"{UNFIT}takes about {check.seconds} s, and {max(left, 0):.0f} of {options.limit:g} s are left"
            report.add(Finding(check.name, None, "", why))
            print(f"{check.name}: {why}", flush=True)
            continue
        begun = time.monotonic()
        how = runner.run(check, min(check.limit, left), report)
        print(f"{check.name}: {how}, {time.monotonic() - begun:.0f} s", flush=True)
        if check.name == "machine" and not options.rehearse and not report.rows[0]["value"]:
            message = report.rows[0]["detail"].partition(";")[0]
            print(f"ERROR no GPU: {message}; --rehearse runs what a CPU can", file=sys.stderr)
            return 2
    return 1 if report.wrong else 0


def _missing(check: Check, rehearse: bool, report: Report) -> str:
    """Why a check cannot run here."""
    if rehearse and check.gpu_only:
        return f"{UNFIT}{check.gpu_only}"
    if report.rows and check.gpus > 1 and not rehearse and (report.rows[0]["value"] or 0) < check.gpus:
        return f"{UNFIT}needs {check.gpus} GPUs"
    absent = [name for name in check.needs if find_spec(name.partition(".")[0]) is None]
    return f"{UNFIT}{', '.join(absent)} cannot be imported here" if absent else ""


class Runner:
    """Runs checks, each in a process that is forked from one which has imported what they need."""

    def __init__(self, work: Path, logs: Path, tiny: bool) -> None:
        self.work, self.logs, self.tiny = work, logs, tiny
        logs.mkdir(exist_ok=True)
        (work / "shared").mkdir()
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        os.environ |= _environment(tiny)
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def run(self, check: Check, limit: float, report: Report) -> str:
        """How it ended; its findings are in the report."""
        folder = self.work / check.name
        folder.mkdir()
        found, log = folder / "findings", self.logs / f"{check.name}.txt"
        setting = Setting(folder / "work", self.work / "shared", self.tiny)
        process = self.context.Process(target=_child, args=(check, setting, found, log))
        with _stderr_into(self.logs / "imports.txt"):  # of the server, which the first process starts
            process.start()
        deadline, read = time.monotonic() + limit, 0
        while process.is_alive() and time.monotonic() < deadline:
            read = self._read(found, read, report)
            process.join(0.2)
        late = process.is_alive()
        _end(process)
        self._read(found, read, report)
        shutil.rmtree(folder)
        if process.exitcode == FORKED_LATE:
            self.context = multiprocessing.get_context("spawn")
            return self.run(check, max(deadline - time.monotonic(), 1), report)
        if late:
            report.add(Finding(check.name, None, "", f"ended after {limit:.0f} s", wrong="it took too long"))
            return "ended at its limit"
        if process.exitcode:
            why = _last_line(log)
            report.add(Finding(check.name, None, "", why, wrong=f"it ended with {process.exitcode}"))
            return f"failed: {why}"
        return "done"

    @staticmethod
    def _read(found: Path, read: int, report: Report) -> int:
        """Add what was found since `read` bytes."""
        lines = found.read_bytes()[read:] if found.exists() else b""
        whole = lines[: lines.rfind(b"\n") + 1]
        for line in whole.splitlines():
            report.add(Finding(**json.loads(line)))
        return read + len(whole)


@contextmanager
def _stderr_into(path: Path) -> Iterator[None]:
    """For what a process that is started here prints; libraries tell of kernels that a check does without."""
    kept = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _environment(tiny: bool) -> dict[str, str]:
    made = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    made |= {"TQDM_DISABLE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 8))}
    # Whether there is a GPU is asked of the driver's library: CUDA, once started, is of no use to forks.
    made |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
    if tiny:  # an engine that compiles nothing, and takes 1 GiB
        made |= {"CUDA_VISIBLE_DEVICES": "", "TORCH_COMPILE_DISABLE": "1"}
        made |= {"VLLM_CPU_CI_ENV": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return made


def _child(check: Check, setting: Setting, found: Path, log: Path) -> None:
    """Write the findings of `check` to `found`, a line each, and what it prints to `log`."""
    os.setsid()  # so that all that it starts can be ended with it
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    if not setting.tiny and torch.cuda._is_in_bad_fork():
        os._exit(FORKED_LATE)
    setting.folder.mkdir()
    os.chdir(setting.folder)
    code = 0
    with found.open("a") as file:
        try:
            for finding in check.find(setting):
                file.write(json.dumps(vars(finding)) + "\n")
                file.flush()
        except BaseException:
            code = 1
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an engine's threads may never end


def _end(process: Any) -> None:
    """End the process and all that it started, in whichever group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in [each.pid for each in psutil.process_iter() if _session(each.pid) == process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        process.join(2)
    process.join()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip()[:400] if lines else "it printed nothing"


if __name__ == "__main__":
    sys.exit(main())
