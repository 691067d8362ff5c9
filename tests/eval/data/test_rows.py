"""Rows in their canonical form: columns, files, folders, types, and the prompt made of them."""

import gzip
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from eval.chat import ChatFormat
from eval.data.rows import Source, prompt, read
from pipeline.data.prepare import check_data, sft_policy, sft_rows
from pipeline.recipe.schema import Data
from rewards.response import SYSTEM_PROMPT
from tests.support import inputs
from tests.support.families import save
from tests.support.inputs import jsonl


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "one.png"
    path.parent.mkdir()
    PILImage.new("RGB", (8, 4), "red").save(path)
    return path


def test_rows_keep_their_own_columns_and_get_an_id(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "2+2?", "think": "two and two", "answer": 4, "level": "easy"}])
    [row] = read(Source(path=path))
    assert row == {
        "id": "0",
        "question": "2+2?",
        "think": "two and two",
        "answer": "4",
        "level": "easy",
    }


def test_image_paths_are_relative_to_their_root(tmp_path: Path, picture: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "?", "answer": "a", "images": ["one.png"]}])
    [row] = read(Source(path=path, images=str(picture.parent)))
    assert [image.size for image in row["images"]] == [(8, 4)]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt_text": "2+2?", "gold": 4, "level": 1}])
    [row] = read(Source(path=path, columns={"question": "prompt_text", "answer": "gold"}))
    assert row == {"id": "0", "question": "2+2?", "answer": "4", "level": 1}
    with pytest.raises(ValueError, match="missing: godl; found: prompt_text, gold, level"):
        read(Source(path=path, columns={"question": "prompt_text", "answer": "godl"}))


def test_a_folder_of_shards_is_read_as_one(tmp_path: Path) -> None:
    for shard in range(3):
        rows = [{"question": f"{shard}.{n}?", "answer": n, "images": []} for n in range(2)]
        jsonl(tmp_path / f"train-0000{shard}-of-00003.jsonl", rows)
    jsonl(tmp_path / "test-00000-of-00001.jsonl", [{"question": "held out?", "answer": 1}])
    assert read(Source(path=str(tmp_path)))["question"][:] == ["0.0?", "0.1?", "1.0?", "1.1?", "2.0?", "2.1?"]
    assert read(Source(path=str(tmp_path), split="test"))["question"][:] == ["held out?"]


def test_one_file_of_a_folder_is_read_with_its_images_beside_it(tmp_path: Path) -> None:
    file = inputs.mulberry(tmp_path).rename(tmp_path / "images" / "cold.json")
    rows = read(Source(path=str(file.parent), file="cold.json", format="vision_r1"))
    assert (len(rows), rows[0]["images"][0].size) == (8, (56, 56))
    with pytest.raises(ValueError, match=r"no-one/has-this: no such folder, and no file none\.json on the hub"):
        read(Source(path="no-one/has-this", file="none.json"))


def test_types_may_differ_between_rows(tmp_path: Path) -> None:
    rows = [{"question": "?", "answer": n if n % 2 else str(n), "level": n if n % 2 else "easy"} for n in range(4)]
    found = read(Source(path=jsonl(tmp_path / "rows.jsonl", rows)))
    assert found["answer"][:] == ["0", "1", "2", "3"]
    assert found["level"][:] == ["easy", "1", "easy", "3"]


def test_the_first_rows_are_the_first_of_all(tmp_path: Path) -> None:
    for path, format in ((inputs.geometry3k(tmp_path, 5), "rows"), (inputs.mulberry(tmp_path), "vision_r1")):
        source = Source(path=str(path), format=format, images=str(tmp_path / "images"))  # type: ignore[arg-type]
        few, whole = read(source, 2), read(source)
        assert [few[n]["question"] for n in range(2)] == [whole[n]["question"] for n in range(2)]
        assert len(few) == 2


def test_every_prompt_asks_for_the_grammar() -> None:
    assert [message["role"] for message in prompt("Why?")] == ["system", "user"]
    assert prompt("Why?")[0]["content"] == SYSTEM_PROMPT


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl.gz", "a.json.gz", "a.ndjson"])
def test_other_files_of_rows_are_read(tmp_path: Path, name: str) -> None:
    path, lines = tmp_path / name, [{"question": f"{n}?", "answer": n} for n in (1, 2)]
    if path.suffix in {".csv", ".tsv"}:
        mark = "," if path.suffix == ".csv" else "\t"
        path.write_text("".join(f"{a}{mark}{b}\n" for a, b in [("question", "answer"), ("1?", 1), ("2?", 2)]))
    else:
        text = json.dumps(lines) if ".json." in name else "".join(json.dumps(line) + "\n" for line in lines)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    rows = read(Source(path=str(path)))
    assert (rows["question"][:], rows["answer"][:]) == (["1?", "2?"], ["1", "2"])


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a\.xlsx: files of this kind are not read; \.jsonl, .*\.csv"):
        read(Source(path=str(tmp_path / "a.xlsx")))


@pytest.mark.parametrize("column", ["image", "images"])
def test_images_in_parquet_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    """Reading, checking and preparing rows writes their images into the cache of `datasets` a single time."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(8):
        file = io.BytesIO()
        PILImage.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": None})
    held = sum(len(file["bytes"]) for file in files)
    values = [{column: [file] if column == "images" else file, "question": f"{n}?", "think": "a", "answer": "7"}
              for n, file in enumerate(files)]  # fmt: skip
    kind = Image() if column == "image" else List(Image())
    text = Value("string")
    features = Features({column: kind, "question": text, "think": text, "answer": text})
    Dataset.from_list(values, features=features).to_parquet(tmp_path / "a.parquet")
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    data = Data(path=str(tmp_path / "a.parquet"))
    chat = ChatFormat(str(save("qwen2_5_vl", tmp_path / "model")))
    checked = check_data(data, chat, sft_policy(None, chat))
    rows = sft_rows(data, chat)
    assert [image.size for row in rows for image in row["images"]] == [(128, 128)] * 8
    written = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert held < written < 1.3 * held
    assert checked.bad == {}
