"""The run folder belongs to one run at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.checkpoint import run_folder as module
from pipeline.checkpoint.run_folder import RunFolder
from tests.support.inputs import ROOT

LOCKER = """
import os, sys, time
from pathlib import Path
from pipeline.checkpoint.run_folder import RunFolder
RunFolder(Path(sys.argv[1])).lock()
if len(sys.argv) > 2:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], *sys.argv[1:2]])
print("locked", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("replaced", [False, True], ids=["a process", "one that replaced itself"])
def test_a_second_run_in_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.5)
    command = [sys.executable, "-c", LOCKER, str(tmp_path), *([LOCKER] if replaced else [])]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=rf"another run works in .* \(process {first.pid} on "):
            RunFolder(tmp_path).lock()
    finally:
        first.kill()
        first.communicate()
    RunFolder(tmp_path).lock()


@pytest.mark.parametrize("results", [None, "", "{", "[]", "{}", '{"complete": false}'])
def test_results_that_are_not_there_or_damaged_are_to_be_written_again(tmp_path: Path, results: str | None) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "report.html").touch()
    if results is not None:
        (tmp_path / "results.json").write_text(results)
    assert not folder.reported()
    (tmp_path / "results.json").write_text('{"complete": true}')
    assert folder.reported()
