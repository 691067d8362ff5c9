"""Images of rows: found inside their folder only, and decoded whole, within limits, before anything trusts them."""

import hashlib
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

# Our choice: no photograph of the data sets that we read is larger, and an image of these pixels is 75 MB in memory.
MAX_PIXELS = 25_000_000
MAX_ASPECT = 200  # of the longer side over the shorter; Qwen-VL's processor refuses more
MAX_BYTES = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")  # what Pillow decodes by itself, without Ghostscript

Image = dict[str, Any]  # {"bytes": its file's content or None, "path": its file's path or None}


class BadRow(ValueError):
    """Why a row cannot be used: a stable code and a line for its owner."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def located(item: Any, roots: list[Path]) -> Image:
    """An image as its row names it (a path, or a struct of bytes and path), its file found under one of `roots`.

    A path is relative to the first root. Links are followed, and must not lead out of all roots; the roots themselves
    may be links. No address is ever fetched.

    Raises:
        BadRow: it is no image's name, or its path leaves the roots.
    """
    if isinstance(item, dict) and item.get("bytes"):
        return {"bytes": item["bytes"], "path": None}
    path = item.get("path") if isinstance(item, dict) else item
    if not isinstance(path, str) or not path or "\0" in path:
        raise BadRow("image_type", f"{path!r:.80} is no image: a row names the path of a file, or holds its bytes")
    if re.match(r"[A-Za-z][\w+.-]+://", path):
        raise BadRow("image_url", f"{path:.200}: no address is fetched; download it, and name the file")
    whole = os.path.realpath(roots[0] / path)
    if not any(whole.startswith(os.path.join(os.path.realpath(root), "")) for root in roots):
        raise BadRow("image_path", f"{path:.200} leads out of {roots[0]}; set `images` to the folder that holds it")
    return {"bytes": None, "path": whole}


def verify_image(image: Image) -> str:
    """Decode all of it; returns the digest of its file.

    Raises:
        BadRow: its file is missing, is no image, is cut short, or is larger than we would decode.
    """
    from PIL import Image as PILImage

    name = image["path"] or "the image in the row"
    content = image["bytes"]
    if content is None:
        try:
            if os.path.getsize(name) > MAX_BYTES:
                raise BadRow("image_too_large", f"{name}: {os.path.getsize(name):,} bytes; at most {MAX_BYTES:,}")
            content = Path(name).read_bytes()
        except OSError as error:
            raise BadRow("image_missing", f"{name}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise BadRow("image_too_large", f"{name}: {len(content):,} bytes; at most {MAX_BYTES:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a bomb: the size is checked below, before anything is decoded
            opened = PILImage.open(io.BytesIO(content), formats=FORMATS)
    except PILImage.DecompressionBombError as error:
        raise BadRow("image_too_large", f"{name}: {error}") from None
    except Exception:  # Pillow's parsers raise whatever a broken header makes them trip over
        raise BadRow(*_not_an_image(name, content)) from None
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise BadRow("image_too_large", f"{name}: {width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadRow("image_aspect", f"{name}: {width} x {height} pixels; at most {MAX_ASPECT} times longer than wide")
    try:
        opened.load()
    except Exception as error:  # as above; `verify()` and `open()` pass what is cut short
        raise BadRow("image_truncated", f"{name}: {error or type(error).__name__}") from None
    return hashlib.sha256(content).hexdigest()


def image_size(image: Image) -> tuple[int, int]:
    """Height and width of an undecoded image, as it will stand after its orientation tag is followed."""
    from PIL import ExifTags
    from PIL import Image as PILImage

    with PILImage.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"]) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation, 1) > 4
        return (opened.width, opened.height) if turned else (opened.height, opened.width)


def _not_an_image(name: str, content: bytes) -> tuple[str, str]:
    start = content[:200].lstrip().lower()
    if not content:
        return "image_empty", f"{name}: the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "image_lfs_pointer", f"{name}: a git-lfs pointer and not the image; run `git lfs pull`"
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "image_html", f"{name}: a web page and not an image; what was downloaded is an error page"
    if content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")):
        return "image_truncated", f"{name}: cut off within its header, after {len(content)} bytes"
    return "image_type", f"{name}: no {', '.join(FORMATS[:-1])}; it begins with {content[:12]!r}"


def pixels_digest(image: Any) -> str:
    """Names a decoded image by its size and pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.convert("RGB").tobytes()).hexdigest()[:16]
