"""Images of rows: found inside their folder only, decoded whole before anything trusts them, and made one picture.

Trainers, both decoders, vLLM's rollouts, thumbnails and lmms-eval get what `rgb` makes of a file, and nothing else:
each of their libraries does something of its own with transparency and with 16 bits.
"""

import base64
import binascii
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
    """An image as its row has it (a path, bytes, base64 text, or a struct of bytes and path), found under a root.

    A path is relative to the first root. Links are followed, and must not lead out of all roots; the roots themselves
    may be links. No address is ever fetched.

    Raises:
        BadRow: it is no image's name, or its path leaves the roots.
    """
    if hasattr(item, "save"):  # decoded already, within a message
        item = _encoded(item)
    content = item.get("bytes") if isinstance(item, dict) else item
    if isinstance(content, str) and isinstance(item, dict):
        content = _from_base64(content)
    if isinstance(content, bytes) and content:
        return {"bytes": content, "path": None}
    path = item.get("path") if isinstance(item, dict) else item
    if isinstance(item, dict) and not path:
        raise BadRow(
            "image_type", f"a struct of {_cut(', '.join(map(str, item)))} is no image: bytes and path are read"
        )
    if not isinstance(path, str) or not path or "\0" in path:
        raise BadRow("image_type", f"{_cut(repr(path))} is no image: a row names a file's path, or holds its bytes")
    if (content := _from_base64(path)) is not None:
        return {"bytes": content, "path": None}
    if re.match(r"[A-Za-z][\w+.-]+://", path):
        raise BadRow("image_url", f"{_cut(path)}: no address is fetched; download it, and name the file")
    whole = os.path.realpath(roots[0] / path)
    if not any(whole.startswith(os.path.join(os.path.realpath(root), "")) for root in roots):
        raise BadRow("image_path", f"{_cut(path)} leads out of {roots[0]}; set `images` to the folder that holds it")
    return {"bytes": None, "path": whole}


_SHOWN = 60  # characters of a value in a message
_DATA_URI = re.compile(r"data:[^,;]*(?:;[^,;]*)*;base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."


def _from_base64(text: str) -> bytes | None:
    """The bytes of an image written as text, with `data:image/...` before it or not; None for a path.

    Raises:
        BadRow: it says that it is one, and is not.
    """
    uri = _DATA_URI.match(text)
    body = "".join(text[uri.end() if uri else 0 :].split())
    if not uri and (len(body) < 60 or not _BASE64.fullmatch(body)):
        return None
    try:
        content = base64.b64decode(body.translate(_URL_SAFE), validate=True)
    except binascii.Error as error:
        if not uri:
            return None
        raise BadRow("image_type", f"{_cut(text)}: not valid base64: {error}") from None
    return content if uri or content.startswith(_MAGIC) else None


_URL_SAFE = str.maketrans("-_", "+/")


def _encoded(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def verify_image(image: Image) -> str:
    """Decode all of it; returns the digest of its file.

    Raises:
        BadRow: its file is missing, is no image, is cut short, or is larger than we would decode.
    """
    from PIL import Image as PILImage

    name = image["path"] or "the image in the row"
    name = name if len(name) < 300 else _cut(name)
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
    try:
        rgb(opened)
    except ValueError as error:
        raise BadRow("image_mode", f"{name}: {error}") from None
    return hashlib.sha256(content).hexdigest()


def rgb(opened: Any) -> Any:
    """The one picture that everything sees of an image file, a PIL image: RGB, upright, opaque on white, 8 bits.

    Its EXIF orientation is followed. Of an animation it is the first frame. Grey of more than 8 bits is scaled by 8,
    12 or 16 bits, the fewest that hold its largest value: scanners and X-rays write 12 bits into 16 (our choice).

    Raises:
        ValueError: its pixels have no known scale, such as floats.
    """
    from PIL import Image as PILImage
    from PIL import ImageOps

    opened.load()
    if _orientation(opened) != 1:
        opened = ImageOps.exif_transpose(opened)
    if opened.mode == "I" or opened.mode.startswith("I;16"):
        opened = _in_8_bits(opened)
    if opened.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in opened.info:
        opened = opened.convert("RGBA")
        white = PILImage.new("RGBA", opened.size, "white")
        opened = PILImage.alpha_composite(white, opened)
    if opened.mode not in _MODES:
        raise ValueError(f"pixels of mode {opened.mode} have no known scale; save it with 8 or 16 bits a channel")
    return opened.convert("RGB")


_MODES = {"1", "L", "P", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr"}


def _orientation(opened: Any) -> int:
    """From 1, upright, to 8; 1 where the file's EXIF cannot be read."""
    from PIL import ExifTags

    try:
        found = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's parser raises whatever broken bytes make it trip over
        return 1
    return found if found in range(1, 9) else 1


def _in_8_bits(opened: Any) -> Any:
    import numpy as np
    from PIL import Image as PILImage

    values = np.asarray(opened).astype(np.int64)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= 2**16:
        raise ValueError(f"values from {lowest} to {highest} have no known scale; save it with 8 or 16 bits a channel")
    bits = next(bits for bits in (8, 12, 16) if highest < 2**bits)
    scaled = np.round(values * (255 / (2**bits - 1)))
    if isinstance(clear := opened.info.get("transparency"), int):
        scaled[values == clear] = 255
    return PILImage.fromarray(scaled.astype(np.uint8))


def image_size(image: Image) -> tuple[int, int]:
    """Height and width of an undecoded image, as it will stand after its orientation tag is followed."""
    from PIL import Image as PILImage

    with PILImage.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"]) as opened:
        if opened.format == "TIFF":  # Pillow turns it when it is loaded
            width, height = rgb(opened).size
            return height, width
        turned = _orientation(opened) > 4
        return (opened.width, opened.height) if turned else (opened.height, opened.width)


def _not_an_image(name: str, content: bytes) -> tuple[str, str]:
    start = content[:200].lstrip().lower()
    if not content:
        return "image_empty", f"{name}: the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "image_lfs_pointer", f"{name}: a git-lfs pointer and not the image; run `git lfs pull`"
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "image_html", f"{name}: a web page and not an image; what was downloaded is an error page"
    if content.startswith(_MAGIC[:4]):
        return "image_truncated", f"{name}: cut off within its header, after {len(content)} bytes"
    kind = next((kind for start, kind in _OTHERS.items() if start in content[:32]), "")
    # None of its bytes is printed: a row may name any file below the folder.
    return "image_type", f"{name}: no {', '.join(FORMATS[:-1])}{f', but {kind}; convert it' if kind else ''}"


# What an image file begins with: JPEG, PNG, GIF, WEBP; BMP, TIFF of both byte orders.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_OTHERS = {b"ftypavif": "AVIF", b"ftyphei": "HEIC", b"ftypmif": "HEIF", b"jP  ": "JPEG 2000"}
_OTHERS |= {b"<svg": "SVG", b"%PDF": "PDF"}


def pixels_digest(image: Any) -> str:
    """Names a picture by its size and pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:16]
