"""Checks that go wrong, for the runner of tests/gpu."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.gpu.check import Finding, Setting


def hangs(setting: Setting) -> Iterator[Finding]:
    """Starts a process in a group of its own, tells its id, and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], process_group=0)
    yield Finding("hangs.child", child.pid, "pid", "before it hangs")
    time.sleep(300)


def raises(setting: Setting) -> Iterator[Finding]:
    yield Finding("raises.first", 1, "", "before it fails")
    raise ValueError("no such kernel")


def dies(setting: Setting) -> Iterator[Finding]:
    os.abort()
    yield


def finds_a_fault(setting: Setting) -> Iterator[Finding]:
    yield Finding("finds_a_fault", 3.0, "nats", "of a push", wrong="more than 0.01")


def writes(setting: Setting) -> Iterator[Finding]:
    """In its own folder, which is the current one, and in everyone's."""
    with open("mine", "w") as file:
        file.write("x")
    (setting.shared / "ours").touch()
    yield Finding("writes", len(os.listdir(setting.folder)), "files", os.getcwd())
