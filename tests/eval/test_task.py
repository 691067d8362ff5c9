"""Tasks: what their files say."""

from pathlib import Path

import pytest

from eval.task import SHIPPED, load_task


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_a_shipped_task_is_found_by_its_name(name: str) -> None:
    assert load_task(name).name == name


def test_the_paths_of_a_task_are_taken_from_where_its_file_lies(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "mine.yaml").write_text("{name: mine, path: rows.jsonl, images: on/the-hub, max_new_tokens: 9}\n")
    task = load_task(str(tmp_path / "mine.yaml"))
    assert (task.path, task.images) == (str(tmp_path / "rows.jsonl"), "on/the-hub")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: mine, path: rows.jsonl}", "max_new_tokens: Field required"),
        ("{name: mine, path: rows.jsonl, max_new_tokens: 9, splt: test}", "splt: Extra inputs are not permitted"),
        ("{name: mine", "not valid YAML"),
    ],
)
def test_a_task_that_is_wrong_is_named_by_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        load_task(str(path))
