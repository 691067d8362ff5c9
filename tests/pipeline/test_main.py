"""The command line: mistakes before torch is imported, as lines or as JSON."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support import inputs
from tests.support.checked import Checked, Found, row, write


def test_recipe_errors_come_without_torch_in_a_second(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(
        text.replace("max_steps: 3", "temperature: 0").replace("data: cold", "data: cool")
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.main import main;"
        "code = main(['recipe.yaml', '--check']); assert not {'torch', 'datasets'} & {*sys.modules}; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(inputs.ROOT)], cwd=folder, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.splitlines()[-1] == "bad_value: 1, unknown_data: 1"


def test_json_says_the_same(check: Callable[..., Checked], folder: Path) -> None:
    write(folder / "rl.jsonl", [{**row(number), "answer": "1/0"} for number in range(6)])
    told = check()
    lines = [json.loads(line) for line in check("--json").text.splitlines()]
    assert [Found(line["where"], line["code"], line["id"] or "-") for line in lines] == told.problems
    assert {line["code"] for line in lines} == {"answer_unusable", "bad_rows"}
