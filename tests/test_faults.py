"""A sample of `make faults`: real runs, ended, damaged, starved and interrupted, end as the undisturbed ones."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_faults_cost_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "faults" / "run.py"), "--sample", "60", "--out", "faults.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    faults = json.loads((tmp_path / "faults.json").read_text())
    assert {*faults[0]} == {"name", "outcome", "seconds", "detail"}
    assert {*Counter(fault["outcome"] for fault in faults)} <= {"resumed_identical", "refused_clearly"}
    kinds = {"SIGKILL", "checkpoint-4/", "disk full", "SIGTERM to rank"}
    if "full disks are left out" in done.stdout:  # only root may mount
        kinds.remove("disk full")
    assert [kind for kind in kinds if not any(kind in fault["name"] for fault in faults)] == []
    assert len(faults) >= 5
