"""A data set of several configurations: recipes name one by `name`, tasks by `config`; without it, both are listed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from eval.data.rows import read
from eval.task import Task
from pipeline.main import main
from pipeline.recipe.schema import Data

CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train.parquet}]
- config_name: socratic
  data_files: [{split: train, path: socratic/train.parquet}]
---
"""
SOLUTION = "Natalia sold {0}/2 = <<{0}/2={1}>>{1} clips in May.\n#### {1}"


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    """openai/gsm8k as the hub has it: two configurations of one split, told apart by the data set's card."""
    folder = tmp_path / "gsm8k"
    for number, name in enumerate(("main", "socratic")):
        (folder / name).mkdir(parents=True)
        numbers = [48 + 2 * index + 100 * number for index in range(8)]
        rows = [{"question": f"Half of {n} clips?", "answer": SOLUTION.format(n, n // 2)} for n in numbers]
        Dataset.from_list(rows).to_parquet(str(folder / name / "train.parquet"))
    (folder / "README.md").write_text(CARD)
    return folder


def test_a_recipe_and_a_task_name_the_same_configuration(gsm8k: Path) -> None:
    place = {"path": str(gsm8k), "format": "gsm8k"}
    task = Task(**place, name="t", config="socratic", split="train", max_new_tokens=8)
    for source in (Data(**place, name="socratic"), task):
        rows = read(source)
        assert rows["answer"][:2] == ["74", "75"]
        assert rows["think"][0] == "Natalia sold 148/2 = 74 clips in May."
        assert read(source, 1)["answer"][:] == ["74"]
    assert read(Data(**place, name="main"))["answer"][0] == "24", "no cached rows of the other configuration"


def test_a_missing_or_unknown_configuration_is_answered_with_those_that_there_are(gsm8k: Path) -> None:
    with pytest.raises(ValueError, match=r"gsm8k: Config name is missing\. .*'main', 'socratic'"):
        read(Data(path=str(gsm8k), format="gsm8k"))
    with pytest.raises(ValueError, match=r"gsm8k: BuilderConfig 'mian' not found\. Available: \['main', 'socratic'\]"):
        read(Data(path=str(gsm8k), format="gsm8k", name="mian"))


@pytest.mark.parametrize("file", [None, "main/train.parquet"])
def test_a_file_has_no_configuration(gsm8k: Path, file: str | None) -> None:
    path = gsm8k if file else gsm8k / "main" / "train.parquet"
    with pytest.raises(ValueError, match=r"train\.parquet: a file has no configuration 'main'; leave it out"):
        read(Data(path=str(path), format="gsm8k", name="main", file=file))


def test_a_saved_data_set_has_no_configuration(tmp_path: Path) -> None:
    Dataset.from_list([{"question": "1?", "answer": "1"}]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="a file has no configuration 'main'"):
        read(Data(path=str(tmp_path / "saved"), name="main"))


def test_json_lines_of_two_configurations_are_not_read_as_one(tmp_path: Path) -> None:
    card = "---\nconfigs:\n- {config_name: a, data_files: a.jsonl}\n- {config_name: b, data_files: b.jsonl}\n---\n"
    (tmp_path / "README.md").write_text(card)
    for number, name in enumerate("ab"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": f"{number}?", "answer": str(number)}) + "\n")
    assert read(Data(path=str(tmp_path), name="b"))["answer"][:] == ["1"]
    with pytest.raises(ValueError, match="Config name is missing"):
        read(Data(path=str(tmp_path)))


def test_a_folder_of_json_lines_does_not_ignore_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "1?", "answer": "1"}) + "\n")
    with pytest.raises(ValueError, match="BuilderConfig 'main' not found"):
        read(Data(path=str(tmp_path), name="main"))


def test_gsm8k_can_be_trained_on(
    gsm8k: Path, small: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = f"""name: words
model: {{path: {small("qwen3")}, dtype: float32}}
data:
  words: {{path: {gsm8k}, name: main, format: gsm8k}}
stages:
  - {{name: sft, kind: sft, data: words, loss: token_mean, trainer: {{max_steps: 1}}}}
"""
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert main([str(tmp_path / "recipe.yaml"), "--check"]) == 0
    assert "stage 1, sft (token_mean): 8 rows, 1 steps" in capsys.readouterr().out
