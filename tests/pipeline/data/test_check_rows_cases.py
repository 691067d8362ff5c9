"""Inputs that once passed `--check` and trained on something else: each is read, refused, or said."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.data.rows import read
from eval.task import load_task
from pipeline.main import main
from pipeline.recipe.file import load

CASES = Path(__file__).resolve().parents[2] / "cases"
REFUSED = {
    "A_lost_images_grpo": (
        "image_marks",
        "its text has 1 mark of an image, and the row has no image; name their column",
    ),
    "D_reference_list": ("answer_type", "the answer is a list of 1; name one: columns: {answer: <column>.0}"),
    "D_reference_solution": ("answer_type", "a solution that ends in `#### ...`; `format: gsm8k` reads these"),
    "D_reference_struct": ("answer_type", "the answer is a struct of style, ground_truth; name its part"),
    "H_vision_r1_turns": ("turns", "the turns are user, assistant, user, assistant"),
    "K_columns_typo": ("data", "columns: 'picture' is no name of format 'rows'"),
}
READ: dict[str, dict[str, Any]] = {  # of the first row
    "B_images_in_parts": {"question": "What is x in 0?", "answer": "0", "images": 1},
    "C_choices_struct": {
        "question": "Which gas do plants take in (0)?\nA. oxygen\nB. carbon dioxide\nC. helium\nD. argon",
        "answer": "B",
    },
    "C_choices_text": {"choices": ["Baroque", "Gothic", "Modern", "Rococo"], "answer": "B"},
    "D_reference_tagged": {"answer": "0"},
    "E_index_numeric": {"answer": "1"},
    "G_columns_collision": {"answer": "0"},
    "I_transparent": {"answer": "5", "images": 1},
    "J_base64": {"question": "What is the value of mark 0?", "answer": "0", "images": 1},
    "L_system_prompt": {"answer": "0 mg"},
    "M_r1_style": {"think": "Add: 0.", "answer": "0"},
}
SAID = {
    "L_system_prompt": "8 rows: a system prompt of their own is replaced by the grammar's",
    "M_r1_style": "8 rows: text around the final answer is left out of the response",
    "D_reference_tagged": "no row has an image, and the model sees images",
}


@pytest.fixture
def case(
    tmp_path: Path, small: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, Path]]:
    """Runs `--check` of a case; its exit code and folder."""

    def check(name: str, *overrides: str) -> tuple[int, Path]:
        folder = tmp_path / "data" / name
        shutil.copytree(CASES / "data" / name, folder)
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "pics").symlink_to(CASES / "images")
        if name == "J_base64":
            content = base64.b64encode((CASES / "images" / "rgb.png").read_bytes()).decode()
            rows = [
                {
                    "image": content,
                    "conversations": [
                        {"from": "human", "value": f"<image>\nWhat is the value of mark {n}?"},
                        {
                            "from": "assistant",
                            "value": f"<think>It is {n}.</think>\n\n**Final Answer:** \\boxed{{{n}}}",
                        },
                    ],
                }
                for n in range(8)
            ]
            (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.chdir(folder)
        [recipe] = folder.glob("*.yaml")
        return main([recipe.name, "--check", f"model.path={small('qwen2_5_vl')}", *overrides]), folder

    return check


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_rightly_is_refused(
    name: str, case: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = case(name)
    said = capsys.readouterr().out
    assert code == 2
    assert re.search(rf"^ERROR .* {REFUSED[name][0]}: .*{re.escape(REFUSED[name][1])}", said, re.M), said
    assert said.count("ERROR") <= 3, "rows that share a cause share a line"


@pytest.mark.parametrize("name", READ)
def test_what_is_in_the_file_reaches_the_model(
    name: str, case: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, folder = case(name)
    both = capsys.readouterr()
    assert code == 0, both.out + both.err
    [recipe] = folder.glob("*.yaml")
    row = read(load(recipe, []).data["d"])[0]
    found = {key: len(row["images"]) if key == "images" else row[key] for key in READ[name]}
    assert found == READ[name]
    pictured = READ[name].get("images", 0) and 8
    assert f"images: {pictured} rows have one or more, {8 - pictured} none" in both.out
    assert SAID.get(name, "") in both.err


def test_a_task_reads_rows_as_training_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("C_choices_struct", "D_reference_struct"):
        data = load(CASES / "data" / name / "grpo.yaml", []).data["d"]
        task = {"name": "t", "max_new_tokens": 9, "path": data.path, "format": data.format, "columns": data.columns}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(task))
        rows, taught = read(load_task(str(tmp_path / f"{name}.yaml"))), read(data)
        assert rows[:] == taught[:]
