"""Files with completions, and files without any: what is read of which, and what the others are told to be."""

import gzip
import json
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import pandas
import pytest

from rewards.completions import read_completions
from rewards.response import completion_text
from tests.support.inputs import line
from tests.support.reports import RIGHT, WRONG, rollout, save_rollouts

ROW = {"id": 1, "completion": RIGHT, "answer": "4"}


def _lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_lines_are_rows_as_they_are(tmp_path: Path) -> None:
    rows = [ROW, {"id": [2], "completion": [{"role": "assistant", "content": WRONG}], "answer": 4, "unit": "cm"}]
    read = read_completions(_lines(tmp_path / "a.jsonl", rows))
    first, second = read.lines
    assert read.kind == "JSON lines"
    assert first.row == {**ROW, "kind": None, "choices": None, "truncated": False}
    assert second.row == {**first.row, "id": [2], "completion": WRONG, "unit": "cm"}
    assert {first.part, second.part} == {""}


def test_an_evaluations_lines_keep_their_order_and_say_their_pass(tmp_path: Path) -> None:
    text = {"text": RIGHT, "kind": "choice", "choices": ["4", "5"], "truncated": True}
    rows = [line("a", "", **text), line("a", "", sample=2, **text), line("a", "", image_removed=True, **text)]
    read = read_completions(_lines(tmp_path / "completions.jsonl", rows))
    found = list(read.lines)
    assert read.kind == "completions of an evaluation"
    assert [each.part for each in found] == ["greedy", "sampled", "image removed"]
    assert [each.row["id"] for each in found] == ["a", "a", "a"]
    expected = {
        "completion": RIGHT,
        "answer": "4",
        "truncated": True,
        **{key: text[key] for key in ("kind", "choices")},
    }
    assert {key: found[0].row[key] for key in expected} == expected


def test_rollouts_are_read_with_their_question_and_say_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "rl").mkdir()
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "5+5?"}]
    others = rollout("b", WRONG, None, prompt=[{"role": "user", "content": parts}])
    save_rollouts(tmp_path, 7, [rollout("a", RIGHT, 1.0, prompt=[{"role": "user", "content": parts}]), others])
    [path] = tmp_path.rglob("*.parquet")
    read = read_completions(path)
    found = [each.row for each in read.lines]
    assert read.kind == "rollouts of a GRPO stage"
    assert read.lacks == ("kind", "choices", "truncated")
    assert [(row["id"], row["completion"], row["answer"], row["question"]) for row in found] == [
        ("a", RIGHT, "4", "5+5?"),
        ("b", WRONG, "4", "5+5?"),
    ]


def test_parquet_of_any_rows_with_completions_is_read(tmp_path: Path) -> None:
    rows = [{**ROW, "completion": None}, {**ROW, "kind": "number", "choices": None, "truncated": True}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    read = read_completions(tmp_path / "a.parquet")
    first, second = read.lines
    assert (read.kind, read.lacks) == ("parquet", ())
    assert first.part == "without a completion"
    assert second.row["truncated"] is True


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "unreadable"),
        (b"[1]", "unreadable"),
        (b'{"id": 1', "unreadable"),
        (b'{"id": 1, "answer": "4"}', "without a completion"),
        (b'{"id": 1, "completion": null}', "without a completion"),
        (b'{"id": 1, "completion": []}', "without a completion"),
        (b'{"id": 1, "text": 4, "gold": "4"}', "without a completion"),
        (b'{"id": 1, "completion": ""}', ""),
        (b'{"id": 1, "completion": "", "text": "4", "gold": "4"}', ""),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_odd_line_among_others_keeps_its_place(tmp_path: Path, content: bytes, part: str, first: bool) -> None:
    good = json.dumps(ROW).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([content, good] if first else [good, content, b""]))
    found = list(read_completions(tmp_path / "a.jsonl").lines)
    odd = found[0 if first else 1]
    assert len(found) == 2
    assert odd.part == part
    assert isinstance(completion_text(odd.row["completion"]), str)


def test_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW), encoding="utf-8-sig")
    assert [each.part for each in read_completions(tmp_path / "a.jsonl").lines] == [""]


def test_a_pipe_is_read_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=[json.dumps(ROW)])
    writer.start()
    assert [each.row["id"] for each in read_completions(tmp_path / "pipe").lines] == [1]
    writer.join()


TRAINING = [{"question": "2+2?", "answer": "4", "think": "Add."}] * 2
TEXT = json.dumps(ROW) + "\n"
PRETTY = json.dumps(ROW, indent=1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "UTF-16 text; save it as UTF-8"),
        (TEXT.encode("utf-16-be"), "UTF-16 text; save it as UTF-8"),
        (TEXT.encode("utf-32"), "UTF-16 text; save it as UTF-8"),
        (gzip.compress(TEXT.encode()), "compressed (gzip); unpack it first"),
        (b"\x28\xb5\x2f\xfd" + b"\1\2", "compressed (zstd); unpack it first"),
        (b"BZh9" + b"\1\2", "compressed (bzip2); unpack it first"),
        (b"\xfd7zXZ\0" + b"\1\2", "compressed (xz); unpack it first"),
        (bytes(range(256)), "binary data"),
        (json.dumps([ROW, ROW]).encode(), "a JSON array; write one object a line (jq -c '.[]')"),
        (f"[\n{TEXT},\n{TEXT}]".encode(), "a JSON array; write one object a line (jq -c '.[]')"),
        (json.dumps([ROW], indent=2).encode(), "a JSON array; write one object a line (jq -c '.[]')"),
        (PRETTY.encode(), "JSON over several lines; write one object a line (jq -c .)"),
        (f"{PRETTY}\n{PRETTY}\n".encode(), "JSON over several lines; write one object a line (jq -c .)"),
        (json.dumps(TRAINING[0]).encode(), "rows without a completion (their keys: question, answer, think)"),
        (b'{"completion": 5, "answer": "4"}', "rows without a completion (their keys: completion, answer)"),
        (b"id,completion,answer\n1,<think>a</think><answer>4</answer>,4\n", "no JSON: 'id,completion,answer'"),
        (b"1\n2\n", "JSON, but no objects: '1'"),
        (b"", "empty"),
        (b"\n \n\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"PAR1 cut off", "parquet that cannot be read:"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_a_file_of_another_kind_is_refused_by_its_look(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        list(read_completions(tmp_path / "in").lines)
    assert str(caught.value).startswith(f"{tmp_path / 'in'}: {said}")
    assert "completions.jsonl" in str(caught.value)


def test_a_folder_an_archive_and_a_table_without_completions_are_refused(tmp_path: Path) -> None:
    pandas.DataFrame(TRAINING).to_parquet(tmp_path / "rows.parquet")
    pandas.DataFrame([{**ROW, "completion": None}]).to_parquet(tmp_path / "none.parquet")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jsonl", TEXT)
    for name, said in {
        "": "a folder; name a file in it",
        "a.zip": "compressed (zip); unpack it first",
        "rows.parquet": "rows without a completion (their keys: question, answer, think)",
        "none.parquet": "rows without a completion (their keys: id, completion, answer)",
    }.items():
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            read_completions(tmp_path / name)
        assert f": {said}" in str(caught.value)


def test_a_parquet_file_that_breaks_off_within_is_one_line(tmp_path: Path) -> None:
    pandas.DataFrame([ROW] * 5000).to_parquet(tmp_path / "a.parquet", row_group_size=1000, compression="gzip")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"parquet that cannot be read: [^\n]+$"):
        list(read_completions(tmp_path / "a.parquet").lines)
