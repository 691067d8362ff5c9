"""Signals: one asks for a checkpoint, a second ends the process; what a launcher repeats is not a second one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TRAINER = """
import os, sys, time
from pipeline.checkpoint import preemption
preemption.listen()
if "patient" in sys.argv:
    preemption.be_patient()
print(os.getpid(), flush=True)
deadline = time.monotonic() + 30
while preemption._requested_at is None and time.monotonic() < deadline:
    time.sleep(0.01)
print("asked to stop", flush=True)
time.sleep(2)
preemption.stop("saved")
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


class Process:
    def __init__(self, *arguments: str, code: str = TRAINER, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.pid = int(self.line())  # of what trains

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output


@pytest.fixture
def started() -> Iterator[list[Process]]:
    processes: list[Process] = []
    yield processes
    for each in processes:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_waits_for_the_checkpoint_and_what_a_launcher_repeats_changes_nothing(
    started: list[Process], number: signal.Signals
) -> None:
    started.append(process := Process("patient"))
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGTERM)
    code, output = process.end()
    assert code == 143
    assert f"{number.name}: stopping at the next checkpoint; a second signal stops at once" in output
    assert "saved" in output


def test_a_second_signal_ends_at_once(started: list[Process]) -> None:
    started.append(process := Process("patient"))
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.8)
    os.kill(process.pid, signal.SIGTERM)
    code, output = process.end()
    assert code == 143
    assert "stopped at once by SIGTERM" in output
    assert "saved" not in output


def test_where_nothing_is_trained_a_signal_ends_at_once(started: list[Process]) -> None:
    started.append(process := Process())
    os.kill(process.pid, signal.SIGUSR1)
    code, output = process.end()
    assert code == 143
    assert "stopped at once by SIGUSR1" in output


def test_the_end_of_its_launcher_reaches_the_trainer(started: list[Process]) -> None:
    """`accelerate launch` with one process hands no signal on."""
    started.append(launched := Process(TRAINER, "patient", code=LAUNCHER, ACCELERATE_MIXED_PRECISION="no"))
    os.kill(launched.process.pid, signal.SIGTERM)
    assert "SIGUSR2: stopping at the next checkpoint" in launched.end()[1]


def test_the_end_of_a_shell_does_not(started: list[Process]) -> None:
    started.append(launched := Process(TRAINER, "patient", code=LAUNCHER))
    os.kill(launched.process.pid, signal.SIGTERM)
    time.sleep(0.5)
    os.kill(launched.pid, 0)  # it goes on
    os.kill(launched.pid, signal.SIGKILL)
