"""Each data format, made small in exactly its own shape, becomes the canonical row."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Sequence, Value
from PIL import Image as PILImage

from eval.rows import Format, Source, prompt, read
from rewards.response import SYSTEM_PROMPT


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "one.png"
    path.parent.mkdir()
    PILImage.new("RGB", (8, 4), "red").save(path)
    return path


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_keep_their_own_columns_and_get_an_id(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "rows.jsonl", [{"question": "2+2?", "think": "two and two", "answer": 4, "level": "easy"}])
    [row] = read(Source(path))
    assert row == {
        "id": "0",
        "question": "2+2?",
        "think": "two and two",
        "answer": "4",
        "level": "easy",
        "choices": None,
    }


def test_image_paths_are_relative_to_their_root(tmp_path: Path, picture: Path) -> None:
    path = _jsonl(tmp_path / "rows.jsonl", [{"question": "?", "answer": "a", "images": ["one.png"]}])
    [row] = read(Source(path, images=str(picture.parent)))
    assert [image.size for image in row["images"]] == [(8, 4)]


def test_choices_are_lettered_in_the_question(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "rows.jsonl", [{"question": "Which?", "answer": "B", "choices": ["dog", "cat"]}])
    [row] = read(Source(path))
    assert row["question"] == "Which?\nA. dog\nB. cat"


def test_geometry3k_rows_are_read(tmp_path: Path, picture: Path) -> None:
    features = Features(images=Sequence(Image()), problem=Value("string"), answer=Value("string"))
    table = Dataset.from_list(
        [{"images": [str(picture)], "problem": "<image>Find x.", "answer": "3"}], features=features
    )
    table.to_parquet(tmp_path / "rows.parquet")
    [row] = read(Source(str(tmp_path / "rows.parquet")))
    assert (row["question"], row["answer"], row["images"][0].size) == ("Find x.", "3", (8, 4))


@pytest.mark.parametrize(("roles", "column"), [(("user", "assistant"), "images"), (("human", "gpt"), "image")])
def test_both_files_of_vision_r1_cold_are_read(
    tmp_path: Path, picture: Path, roles: tuple[str, str], column: str
) -> None:
    def conversation(reply: str) -> dict[str, Any]:
        turns = [{"from": roles[0], "value": "<image>\nWhich one?"}, {"from": roles[1], "value": reply}]
        return {column: ["one.png"] if column == "images" else "one.png", "conversations": turns}

    rows = [
        conversation("<think>\nLook.\n</think>\n\n<answer>Final Answer:B. cat</answer>"),
        conversation("<think>Look.</think>B"),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    row, malformed = read(Source(str(tmp_path / "rows.json"), format="vision_r1", images=str(picture.parent)))
    assert (row["question"], row["think"], row["answer"]) == ("Which one?", "Look.", "B. cat")
    assert row["images"][0].size == (8, 4)
    assert (row["malformed"], malformed["malformed"]) == (None, "missing_tag")


def test_scienceqa_is_a_choice_with_its_hint_as_context(tmp_path: Path, picture: Path) -> None:
    columns = {"image": Image(), "question": Value("string"), "choices": List(Value("string")), "answer": Value("int8")}
    features = Features({**columns, "hint": Value("string"), "grade": Value("string")})
    example = {
        "image": str(picture),
        "question": "Which?",
        "choices": ["dog", "cat"],
        "answer": 1,
        "hint": "It purrs.",
        "grade": "2",
    }
    Dataset.from_list([example], features=features).save_to_disk(tmp_path / "scienceqa")
    [row] = read(Source(str(tmp_path / "scienceqa"), format="scienceqa"))
    assert row["question"] == "Context: It purrs.\nWhich?\nA. dog\nB. cat"
    assert (row["answer"], row["kind"], row["choices"]) == ("B", "choice", ["dog", "cat"])
    assert row["images"][0].size == (8, 4)


@pytest.mark.parametrize("format", ["rows", "vision_r1", "scienceqa"])
def test_missing_columns_are_named_with_those_found(tmp_path: Path, format: Format) -> None:
    path = _jsonl(tmp_path / "rows.jsonl", [{"text": "hello"}])
    with pytest.raises(ValueError, match=r"needs the columns .* missing: .* found: \['text'\]"):
        read(Source(path, format=format))


def test_every_prompt_asks_for_the_grammar() -> None:
    assert [message["role"] for message in prompt("Why?")] == ["system", "user"]
    assert prompt("Why?")[0]["content"] == SYSTEM_PROMPT
