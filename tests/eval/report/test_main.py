"""The command `python -m eval.report`."""

import json
from pathlib import Path

import pytest

from eval.report.__main__ import main


def test_the_command_writes_results_and_page_and_names_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").stat().st_size < 5_500_000, "plotly, and hardly more"
    assert json.loads((run / "results.json").read_text())["complete"]


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        assert main([str(place)]) == 2
        assert capsys.readouterr().out == f"ERROR {place}: no run folder, since it holds no recipe.json\n"
    assert not [*tmp_path.iterdir()]


def test_a_run_with_keys_of_before_their_renaming_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = json.loads((run / "recipe.json").read_text())
    stored["recipe"]["evaluate"] = {"tasks": ["digits"], "on": ["sft"]}
    (run / "recipe.json").write_text(json.dumps(stored))
    assert main([str(run)]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith(f"ERROR {run}: its keys are from before the renames")
    assert printed.count("\n") == 1
