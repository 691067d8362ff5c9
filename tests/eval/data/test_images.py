"""Images: found inside their folder only, decoded whole, refused by name."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image as PILImage

from eval.data.images import MAX_PIXELS, BadRow, image_size, located, verify_image
from tests.support.inputs import BROKEN, jpeg, picture, png


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_image_is_named(code: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(BROKEN[code])
    with pytest.raises(BadRow, match=r"a\.jpg: ") as caught:
        verify_image(located("a.jpg", [tmp_path]))
    assert caught.value.code == code
    with pytest.raises(BadRow, match=r"the image in the row: ") as caught:
        verify_image({"bytes": BROKEN[code], "path": None})
    assert caught.value.code == code


def test_every_cut_of_an_image_is_noticed() -> None:
    for content in (jpeg(), png(40, 30)):
        codes = set()
        for end in range(0, len(content) - 20, 7):  # the last bytes say only that the image ends
            with pytest.raises(BadRow) as caught:
                verify_image({"bytes": content[:end], "path": None})
            codes.add(caught.value.code)
        assert codes <= {"image_empty", "image_truncated", "image_type"}
        verify_image({"bytes": content, "path": None})


def test_what_just_fits_passes() -> None:
    verify_image({"bytes": png(5_000, MAX_PIXELS // 5_000), "path": None})
    verify_image({"bytes": png(1, 200), "path": None})


def test_an_orientation_tag_turns_the_size(tmp_path: Path) -> None:
    turned = PILImage.Exif()
    turned[0x0112] = 6
    PILImage.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=turned)
    assert image_size(located("a.jpg", [tmp_path])) == (8, 4)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRow, match="No such file") as caught:
        verify_image(located("none.png", [tmp_path]))
    assert caught.value.code == "image_missing"


def test_links_are_followed_inside_the_root_alone(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    picture(outside / "secret.png", 1)
    inside = picture(root / "in" / "a.png", 2)
    (root / "link.png").symlink_to(inside)
    (root / "out.png").symlink_to(outside / "secret.png")
    (tmp_path / "moved").symlink_to(root)
    for path in ("in/a.png", "link.png", "in/../link.png", str(inside)):
        assert located(path, [root])["path"] == str(inside)
    assert located("in/a.png", [tmp_path / "moved"])["path"] == str(inside), "the root may be a link"
    for path in ("../outside/secret.png", "out.png", str(outside / "secret.png"), "in/../../outside/secret.png"):
        with pytest.raises(BadRow) as caught:
            located(path, [root])
        assert caught.value.code == "image_path"
    assert located(str(outside / "secret.png"), [root, outside])["path"] == str(outside / "secret.png")


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ("https://example.org/a.png", "image_url"),
        ("file:///etc/passwd", "image_url"),
        ("s3://bucket/a.png", "image_url"),
        ("a\0.png", "image_type"),
        ("", "image_type"),
        (None, "image_type"),
        (7, "image_type"),
        ({"bytes": None, "path": None}, "image_type"),
        ({"bytes": None, "path": "/etc/passwd"}, "image_path"),
    ],
)
def test_what_names_no_file_of_the_root_is_refused(tmp_path: Path, item: object, code: str) -> None:
    with pytest.raises(BadRow) as caught:
        located(item, [tmp_path])
    assert caught.value.code == code


@pytest.mark.parametrize("content", [b"hf_SECRET\n", b"PK\x03\x04secret", b"id,answer\nsecret,2\n", b"\0" * 50])
def test_a_file_that_is_no_image_shows_none_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    """A row may name any file below its folder, and below the cache of the hub."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(BadRow) as caught:
        verify_image(located("token", [tmp_path]))
    assert str(caught.value) == f"{tmp_path / 'token'}: no JPEG, PNG, WEBP, GIF, BMP, TIFF"


@pytest.mark.parametrize("form", ["plain", "uri", "urlsafe", "lines", "bytes", "struct"])
def test_an_image_may_stand_in_its_row(form: str) -> None:
    content = jpeg()
    text = base64.b64encode(content).decode()
    held = {
        "plain": text,
        "uri": f"data:image/jpeg;base64,{text}",
        "urlsafe": base64.urlsafe_b64encode(content).decode(),
        "lines": "\n".join(text[place : place + 76] for place in range(0, len(text), 76)),
        "bytes": content,
        "struct": {"bytes": content, "path": "a.jpg"},
    }[form]
    assert located(held, [Path("/nowhere")]) == {"bytes": content, "path": None}


def test_broken_exif_turns_nothing_and_ends_nothing() -> None:
    file = io.BytesIO()
    PILImage.new("RGB", (8, 4)).save(file, "PNG", exif=b"Exif\0\0garbage")
    image = {"bytes": file.getvalue(), "path": None}
    verify_image(image)
    assert image_size(image) == (4, 8)


def test_a_value_that_is_no_image_is_cut_in_its_message() -> None:
    for item in ("data:image/png;base64," + "A" * 5001, {"path": None, "note": "x" * 5000}, ["x" * 5000]):
        with pytest.raises(BadRow) as caught:
            located(item, [Path("/nowhere")])
        assert len(str(caught.value)) < 200
    with pytest.raises(BadRow) as caught:
        verify_image(located("A" * 5000, [Path("/nowhere")]))
    assert len(str(caught.value)) < 200
