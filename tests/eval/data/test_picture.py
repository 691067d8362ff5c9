"""One picture: whatever kind of file a drawing is in, trainer, decoders and digests get the same pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value, load_from_disk
from PIL import Image as PILImage

from eval.chat import ChatFormat
from eval.data.images import pixels_digest, rgb
from eval.data.picture import Picture
from eval.data.rows import Source, read, undecoded
from eval.decode import VllmDecoder
from tests.support.inputs import drawings, jsonl

KINDS = ["rgb", "grey", "rgba", "la", "palette", "sixteen", "exif", "cmyk"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By kind, the canonical row that shows the drawing."""
    folder = tmp_path_factory.mktemp("drawn")
    files = drawings(folder)
    assert {*files} == {*KINDS}
    lines = [{"id": kind, "question": "?", "answer": "7", "images": [files[kind].name]} for kind in KINDS]
    return {row["id"]: row for row in read(Source(path=jsonl(folder / "rows.jsonl", lines)))}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_the_same_picture(kind: str, rows: dict[str, dict[str, Any]]) -> None:
    [found], [plain] = rows[kind]["images"], rows["rgb"]["images"]
    assert (found.mode, found.size) == ("RGB", plain.size)
    off = np.abs(np.asarray(found).astype(int) - np.asarray(plain)).max()
    assert off <= (3 if kind == "cmyk" else 0)
    assert {*np.unique(np.asarray(plain))} == {0, 68, 255}
    assert kind == "cmyk" or pixels_digest(found) == pixels_digest(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainers_processor_and_vllm_get_that_picture(
    kind: str, rows: dict[str, dict[str, Any]], small: Callable[[str], Path]
) -> None:
    chat = ChatFormat(str(small("qwen2_5_vl")))
    limit = 0.05 if kind == "cmyk" else 0.0
    seen = {
        name: chat.processor(text=[chat.prompt_text("?", row["images"])], images=[row["images"]], return_tensors="pt")
        for name, row in (("found", rows[kind]), ("plain", rows["rgb"]))
    }
    assert torch.allclose(seen["found"]["pixel_values"], seen["plain"]["pixel_values"], atol=limit, rtol=0)
    decoder = object.__new__(VllmDecoder)
    decoder.chat = chat
    [asked] = decoder._prompt(rows[kind])["multi_modal_data"]["image"]
    assert (asked.mode, asked.tobytes()) == ("RGB", rows[kind]["images"][0].tobytes())


def test_the_type_lasts_through_maps_selections_and_files(tmp_path: Path) -> None:
    drawn = drawings(tmp_path / "drawn")["rgba"]
    features = Features({"images": List(Picture()), "text": Value("string")})
    table = Dataset.from_list([{"images": [{"bytes": None, "path": str(drawn)}], "text": "a"}] * 3, features=features)
    table = table.map(lambda row: {"more": row["text"] * 2}).select([0, 2])
    assert [image.mode for image in table[1]["images"]] == ["RGB"]
    assert undecoded(table)[0]["images"] == [{"bytes": None, "path": str(drawn)}]
    table.save_to_disk(tmp_path / "saved")
    again = load_from_disk(tmp_path / "saved")
    assert again.features["images"] == List(Picture())
    assert np.asarray(again[0]["images"][0]).max() == 255


@pytest.mark.parametrize(("highest", "bits"), [(200, 8), (256, 12), (4095, 12), (4096, 16), (65535, 16)])
def test_grey_of_more_than_8_bits_is_scaled_by_the_bits_that_it_uses(highest: int, bits: int) -> None:
    values = np.array([[0, highest // 2, highest]], dtype=np.uint16)
    found = np.asarray(rgb(PILImage.fromarray(values)))[0, :, 0]
    assert found.tolist() == [round(value * 255 / (2**bits - 1)) for value in values[0].tolist()]


@pytest.mark.parametrize(
    "image", [PILImage.new("F", (4, 4)), PILImage.new("LAB", (4, 4)), PILImage.new("I", (4, 4), 2**20)]
)
def test_pixels_without_a_scale_are_refused(image: Any) -> None:
    with pytest.raises(ValueError, match="no known scale"):
        rgb(image)
