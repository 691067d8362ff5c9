"""Files of lines: CSV as the text that it is, the split that a name says, breaks and types that are told."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from eval.data.rows import Source, read
from tests.support.inputs import jsonl

ROW = {"question": "?", "answer": "1"}


def test_csv_is_read_as_text_and_a_row_that_does_not_fit_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'question,answer\nIs it red, or blue?,blue\n"red, or blue?",007\nB?,1,\nC?,\nD?,None\n'
    )
    rows = read(Source(path=str(tmp_path / "a.csv")))
    assert rows["code"][:] == ["csv", None, None, None, None]
    assert rows["problem"][0] == "3 values under 2 columns; quote what has a ',' in it"
    assert rows["question"][1:] == ["red, or blue?", "B?", "C?", "D?"]
    assert rows["answer"][1:] == ["007", "1", "", "None"]


def test_a_value_of_csv_may_be_longer_than_its_readers_default(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"question,answer\n{'long ' * 40_000}?,7\n")
    assert len(read(Source(path=str(tmp_path / "a.csv")))["question"][0]) == 200_001


@pytest.mark.parametrize(
    ("files", "split", "read_from"),
    [
        (["geo_train.jsonl", "geo_test.jsonl"], "test", ["geo_test.jsonl"]),
        (["train0.jsonl", "train1.jsonl", "test0.jsonl"], "train", ["train0.jsonl", "train1.jsonl"]),
        (["train-00000.jsonl.gz", "test-00000.jsonl.gz"], "test", ["test-00000.jsonl.gz"]),
        (["a.jsonl", "b.jsonl"], "test", ["a.jsonl", "b.jsonl"]),
        (["contest.jsonl", "restrained.jsonl"], "val", ["contest.jsonl", "restrained.jsonl"]),
    ],
)
def test_a_split_is_the_files_whose_names_say_it(
    tmp_path: Path, files: list[str], split: str, read_from: list[str]
) -> None:
    for name in files:
        content = (json.dumps({**ROW, "question": name}) + "\n").encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read(Source(path=str(tmp_path), split=split))["question"][:] == read_from


@pytest.mark.parametrize(("files", "split"), [(["train.jsonl"], "test"), (["train.jsonl", "validation.jsonl"], "val")])
def test_another_split_is_never_read_for_one_that_is_not_there(tmp_path: Path, files: list[str], split: str) -> None:
    for name in files:
        jsonl(tmp_path / name, [ROW])
    with pytest.raises(ValueError, match=f"no file of split '{split}' among train.jsonl"):
        read(Source(path=str(tmp_path), split=split))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.json",
            b'[{"question": "?", "answer": "1"}, {"question": "?", "answer": NaN}]',
            "not valid JSON after row 1",
        ),
        ("a.json", b'[{"question": "?", "answer": "1"}, {"question": "?"', "not valid JSON after row 1"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"question": "?", "answer": "1"}\n' * 99, mtime=0)[:50],
            "cannot be read: Compressed file",
        ),
        ("a.jsonl.gz", b'{"question": "?", "answer": "1"}\n', "cannot be read: Not a gzipped file"),
        ("a.jsonl", b"", "no row"),
        ("a.csv", b"", "no row"),
    ],
)
def test_a_broken_file_is_refused_in_a_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read(Source(path=str(tmp_path / name)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("first", "then"), [(1, 1.5), (1, "hard"), ({"a": 1}, {"b": "x"}), (True, 2), ([1], ["x"])])
def test_a_column_of_ones_own_keeps_its_type_or_says_where_it_does_not(tmp_path: Path, first: Any, then: Any) -> None:
    rows = [{**ROW, "id": str(number), "level": first} for number in range(1001)]
    path = jsonl(tmp_path / "a.jsonl", [*rows, {**ROW, "level": then}])
    with pytest.raises(ValueError, match=r"column 'level' has .* in row 1002, and another type in the first 1000"):
        read(Source(path=path))
    path = jsonl(tmp_path / "b.jsonl", [*rows, {**ROW, "level": first}, {**ROW, "level": None}])
    assert read(Source(path=path))["level"][-2:] == [first, None]


def test_a_class_is_read_by_its_name(tmp_path: Path) -> None:
    features = Features({"question": Value("string"), "answer": ClassLabel(names=["cat", "dog"])})
    Dataset.from_dict({"question": ["a?", "b?"], "answer": [1, 0]}, features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    assert read(Source(path=str(tmp_path / "a.parquet")))["answer"][:] == ["dog", "cat"]
