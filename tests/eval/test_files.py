"""Files: whole or not there, and digests that change with what they stand for."""

from pathlib import Path

import pytest

from eval.files import CARD, cache_key, json_lines, local, weights_digest, write_json_lines, write_text


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "a" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["text"]


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    lines = [{"id": "é\u2028", "n": 1.5}, {"id": None, "list": [True]}]
    write_json_lines(tmp_path / "lines.jsonl", lines)
    assert json_lines(tmp_path / "lines.jsonl") == lines


def test_the_digest_of_a_checkpoint_changes_with_every_file_but_its_card(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    (tmp_path / CARD).write_text("card")
    before = weights_digest(tmp_path)
    (tmp_path / CARD).write_text("another")
    assert weights_digest(tmp_path) == before
    (tmp_path / "weights").rename(tmp_path / "other")
    renamed = weights_digest(tmp_path)
    (tmp_path / "other").write_bytes(b"2")
    assert len({before, renamed, weights_digest(tmp_path)}) == 3


def test_a_cached_result_is_of_its_parts_and_of_the_code_that_made_it(tmp_path: Path) -> None:
    code = tmp_path / "rule.py"
    code.write_text("one")
    before = cache_key(["a", Path("b")], [str(code), None])
    assert cache_key(["a", Path("b")], [str(code)]) == before
    assert cache_key(["a", Path("c")], [str(code)]) != before
    code.write_text("two")
    assert cache_key(["a", Path("b")], [str(code)]) != before


def test_a_name_is_taken_from_the_folder_only_where_something_is_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert local("rows.jsonl", tmp_path) == str(tmp_path / "rows.jsonl")
    assert local("some/hub-id", tmp_path) == "some/hub-id"
