"""`make faults`: end, damage, starve and interrupt real runs; each, started again, must end as the undisturbed one.

Writes faults.json, a list of {"name", "outcome", "seconds", "detail"}, and exits 1 if any fault has an outcome that it
must not have. `--sample N` injects every Nth fault of each kind.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from rich.console import Console
from rich.table import Table

from tests.faults import inject
from tests.faults.inject import Injector, Moment
from tests.faults.runs import Rank, Run, differences, fingerprint, logged_step, write_recipe

IDENTICAL, REFUSED, DIVERGED, LOST, HUNG = "resumed_identical", "refused_clearly", "diverged", "lost", "hung"
SAVE_STEPS = 2
STAGES = {"sft": 0, "grpo": 1}  # the process of each stage
LAST = 4  # the step of the checkpoint that is disturbed
SLOW = {"sft.trainer.num_train_epochs": 6, "grpo.trainer.max_steps": 12}  # for signals: long enough to get one

Fault = tuple[str, Callable[[Path], tuple[str, str]]]  # its name; in a folder, its outcome and a detail


class Suite:
    def __init__(self, work: Path) -> None:
        self.work = work
        self.recipe = write_recipe(work / "recipe", self._model())
        base = Run(self.recipe, work / "undisturbed")
        recorder = Injector(base.root)
        recorder.record = work / "moments"
        assert base.go(recorder) == [0], base.log
        self.expected = fingerprint(base.root)
        self.moments = [eval(line) for line in recorder.record.read_text().splitlines()]

    def _model(self) -> Path:
        if not (
            pid := os.fork()
        ):  # in a process of its own: this one is forked for each run, and must have run nothing
            from tests.support.families import save

            save("qwen3", self.work / "model")
            os._exit(0)
        os.waitpid(pid, 0)
        return self.work / "model"

    def faults(self) -> Iterator[list[Fault]]:
        """By kind."""
        yield list(self._kills())
        yield list(self._damages())
        yield list(self._full_disks())
        yield list(self._signals())

    # --- SIGKILL around every file ---

    def _kills(self) -> Iterator[Fault]:
        for moment in self.moments:
            stage = moment.path.partition("/")[0]
            saved = f"/checkpoint-{LAST}" in moment.path or "/checkpoint-" not in moment.path
            if (saved or moment.kind == "remove") and (moment.nth == 0 or stage not in STAGES):
                where = f"{'border' if moment.kind == 'hop' else stage}: SIGKILL"
                yield f"{where} before {moment}", lambda folder, m=moment: self._killed(folder, m, inject.kill)
                if moment.kind in {"open", "save"}:
                    yield (
                        f"{where} within {moment}",
                        lambda folder, m=moment: self._killed(folder, m, inject.kill_within),
                    )

    def _killed(self, folder: Path, moment: Moment, act: Callable[..., None]) -> tuple[str, str]:
        run = Run(self.recipe, folder)
        codes = run.go(Injector(run.root, moment, act))
        if codes != [-signal.SIGKILL]:
            return LOST, f"the fault did not happen: {codes}"
        stage = next((name for name, process in STAGES.items() if process == moment.process), None)
        return self._again(run, self.expected, at_step=_logged(run, stage))

    # --- what is on the disk is not what was written ---

    def _damages(self) -> Iterator[Fault]:
        ways = {"cut short": _cut, "one bit flipped": _flip, "missing": Path.unlink}
        for stage, process in STAGES.items():
            first = next(m for m in self.moments if m.path.startswith(f"{stage}/checkpoints/checkpoint-{LAST + 2}/"))
            here = f"{stage}/checkpoints/checkpoint-{LAST}/"
            names = sorted(
                {m.path.removeprefix(here).removesuffix(".part") for m in self.moments if m.path.startswith(here)}
            )
            for name in [name for name in names if name != "training_args.bin"]:
                for way, damage in ways.items():
                    yield (
                        f"{stage}: checkpoint-{LAST}/{name} {way}",
                        lambda folder, f=first, p=here + name, d=damage: self._damaged(folder, f, [p], d),
                    )
            both = [f"{stage}/checkpoints/checkpoint-{step}/manifest.json" for step in (LAST - 2, LAST)]
            yield (
                f"{stage}: both manifests missing",
                lambda folder, f=first, p=both: self._damaged(folder, f, p, Path.unlink),
            )
            assert first.process == process
        border = next(m for m in self.moments if m.kind == "hop")
        for path in ("recipe.json", "sft/COMPLETE", "sft/model/model.safetensors", "sft/model/config.json"):
            yield (
                f"border: {path} one bit flipped",
                lambda folder, p=path: self._damaged(folder, border, [p], _flip, may_refuse=True),
            )

    def _damaged(
        self, folder: Path, moment: Moment, paths: list[str], damage: Callable[[Path], Any], may_refuse: bool = False
    ) -> tuple[str, str]:
        run, state = Run(self.recipe, folder), self.work / f"before-{moment.process}-{moment.kind}"
        if not state.exists():
            assert Run(self.recipe, state).go(Injector(state / "runs" / "fault", moment, inject.kill)) == [
                -signal.SIGKILL
            ]
        shutil.copytree(state, folder)
        for path in paths:
            damage(run.root / path)
        return self._again(run, self.expected, may_refuse=may_refuse)

    # --- a full disk ---

    def _full_disks(self) -> Iterator[Fault]:
        probe = self.work / "probe"
        probe.mkdir()
        if why := _mount(probe):
            print(f"full disks are left out: a tmpfs cannot be mounted here: {why}", flush=True)
            return
        _unmount(probe)
        for stage in STAGES:
            folder = f"{stage}/checkpoints/checkpoint-{LAST}/"
            for moment in [
                m for m in self.moments if m.path.startswith(folder) and m.kind in {"open", "save"} and not m.nth
            ]:
                yield f"{stage}: disk full at {moment}", lambda folder, m=moment: self._filled(folder, m)
            before = next(m for m in self.moments if m.path == f"{stage}/metrics.jsonl" and m.nth == 2)
            yield (
                f"{stage}: disk full before checkpoint-{LAST}",
                lambda folder, m=before: self._filled(folder, m, spare=300_000),
            )
            handed = next(m for m in self.moments if m.path == f"{stage}/model/model.safetensors")
            yield f"{stage}: disk full at {handed}", lambda folder, m=handed: self._filled(folder, m)

    def _filled(self, folder: Path, moment: Moment, spare: int = 0) -> tuple[str, str]:
        """Fill the file system of the run, a real and small one, at `moment`, up to `spare` bytes."""
        run = Run(self.recipe, folder)
        folder.mkdir(parents=True)
        assert not (why := _mount(folder)), why
        try:
            filler = folder / "filler"

            def fill(_: str, half: Callable[[], Any]) -> None:
                with filler.open("wb", buffering=0) as file:
                    try:
                        while shutil.disk_usage(folder).free > spare:
                            file.write(bytes(min(1 << 16, shutil.disk_usage(folder).free - spare)))
                    except OSError:
                        pass

            codes = run.go(Injector(run.root, moment, fill))
            if codes != [2] or "disk full" not in run.log or "Traceback" in run.log:
                return LOST, f"exit codes {codes}, said: {run.log[-300:]}"
            said = next(line for line in run.log.splitlines() if "disk full" in line)
            filler.unlink()
            outcome, detail = self._again(run, self.expected, at_step=_logged(run, moment.path.partition("/")[0]))
            return outcome, f"{detail}; {said}"
        finally:
            _unmount(folder)

    # --- two ranks that are told to stop, one after the other ---

    def _signals(self) -> Iterator[Fault]:
        cases = [
            ("sft", 2, 0, "SIGTERM"),
            ("sft", 5, 1, "SIGUSR1"),
            ("sft", 8, 0, "SIGTERM"),
            ("grpo", 1, 0, "SIGTERM"),
            ("grpo", 4, 1, "SIGTERM"),
            ("grpo", 7, 0, "SIGUSR1"),
        ]
        for stage, step, first, name in cases:
            for skew in (0.0, 0.3, 1.0, 5.0):
                title = f"{stage}: {name} to rank {first} after step {step}, to the other {skew:g} s later"
                yield title, lambda folder, c=(stage, step, first, name), s=skew: self._signalled(folder, *c, s)

    def _signalled(self, folder: Path, stage: str, step: int, first: int, name: str, skew: float) -> tuple[str, str]:
        run = Run(self.recipe, folder, [f"{key}={value}" for key, value in SLOW.items()], ranks=2)
        expected = self._with_two_ranks(run.arguments)
        sent: list[float] = []

        def meanwhile(ranks: list[Rank]) -> None:
            if not sent and (_logged(run, stage) or 0) >= step:
                _signal(ranks[first], name)
                sent.append(time.monotonic())
            elif len(sent) == 1 and time.monotonic() - sent[0] >= skew:
                _signal(ranks[1 - first], name)
                sent.append(time.monotonic())

        codes = run.go(meanwhile=meanwhile)
        if codes != [143, 143]:
            return LOST, f"exit codes {codes}: {run.log[-500:]}"
        return self._again(run, expected, at_step=_logged(run, stage))

    def _with_two_ranks(self, arguments: list[str]) -> dict[str, Any]:
        run = Run(self.recipe, self.work / "undisturbed-2", arguments, ranks=2)
        if not run.root.exists():
            assert run.go() == [0, 0], run.log
        return fingerprint(run.root)

    # --- the same command again ---

    def _again(
        self, run: Run, expected: dict[str, Any], at_step: int | None = None, may_refuse: bool = False
    ) -> tuple[str, str]:
        """Start the run once more; `at_step` is what it had reached, of which it may lose no more than it saves in."""
        said = len(run.log)
        codes = run.go()
        log = run.log[said:]
        if any(codes):
            clear = "ERROR" in log and "Traceback" not in log
            return (REFUSED if clear and may_refuse else LOST), f"exit codes {codes}: {log[-300:]}"
        if differing := differences(fingerprint(run.root), expected):
            return DIVERGED, f"other {', '.join(differing)}"
        resumed = [line for line in log.splitlines() if line.startswith("resuming from ")]
        step = int(resumed[0].rpartition(" ")[2]) if resumed else 0
        detail = resumed[0] if resumed else "no checkpoint was needed, or there was none"
        if at_step is not None and at_step - step > SAVE_STEPS and f"{run.root.name}" in "".join(resumed or ["fault"]):
            return LOST, f"{at_step - step} steps of {at_step}; {detail}"
        return IDENTICAL, detail


def _logged(run: Run, stage: str | None) -> int | None:
    """The last step in the stage's metrics, if it is not complete."""
    if stage is None or (run.root / stage / "COMPLETE").exists() or not (run.root / stage / "metrics.jsonl").exists():
        return None
    return logged_step(run.root, stage)


def _mount(folder: Path) -> str:
    """A file system of 64 MB of its own, in memory; why there is none, for example because only root may."""
    failed = ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=64m")
    return os.strerror(ctypes.get_errno()) if failed else ""


def _unmount(folder: Path) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(folder), 2)  # MNT_DETACH


def _signal(rank: Rank, name: str) -> None:
    if rank.code is None:
        os.kill(rank.pid, getattr(signal, name))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=1, help="inject every Nth fault of each kind")
    parser.add_argument("--only", default="", help="inject faults with this in their name")
    parser.add_argument("--out", type=Path, default=Path("faults.json"))
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        suite = Suite(Path(work))
        chosen = [fault for kind in suite.faults() for fault in kind[:: options.sample] if options.only in fault[0]]
        for number, (name, inject_it) in enumerate(chosen):
            started, folder = time.monotonic(), Path(work) / f"fault-{number}"
            try:
                outcome, detail = inject_it(folder)
            except TimeoutError as error:
                outcome, detail = HUNG, str(error)
            seconds = round(time.monotonic() - started, 1)
            results.append({"name": name, "outcome": outcome, "seconds": seconds, "detail": detail.replace(work, "")})
            print(f"{number + 1}/{len(chosen)} {outcome} {seconds} s: {name}", flush=True)
            if outcome not in {IDENTICAL, REFUSED}:
                print(detail, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    options.out.write_text(json.dumps(results, indent=1))
    table = Table("outcome", "faults", "longest", title=f"{len(results)} faults")
    for outcome, count in Counter(result["outcome"] for result in results).items():
        table.add_row(outcome, str(count), f"{max(r['seconds'] for r in results if r['outcome'] == outcome)} s")
    Console().print(table)
    return int(not results or any(result["outcome"] in {DIVERGED, LOST, HUNG} for result in results))


if __name__ == "__main__":
    sys.exit(main())
