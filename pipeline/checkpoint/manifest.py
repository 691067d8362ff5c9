"""Files that can be trusted: listed with their digests, by a manifest written last; and a disk with room for them."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.files import CARD, sha256, write_json
from pipeline.recipe.problem import Problem, RecipeError


def seal(path: Path, folder: Path, facts: dict[str, Any]) -> None:
    """Write a manifest to `path`: the facts, and the size and digest of each file in `folder`, on the disk by then.

    It carries a digest of itself, so that no bit of it can change unseen.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file not in (path, folder / CARD)]
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to other threads
        entries = list(pool.map(lambda file: _entry(file, folder), files))
    content = {**facts, "files": entries}
    write_json(path, {**content, "digest": _own_digest(content)})


def read_sealed(path: Path) -> dict[str, Any]:
    """A manifest.

    Raises:
        ValueError: it is missing, or not as it was written.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name}: it was not finished") from None
    except (ValueError, KeyError, AttributeError):
        raise ValueError(f"{path.name} is damaged") from None
    if digest != _own_digest(content):
        raise ValueError(f"{path.name} is damaged")
    return content


def verify_files(folder: Path, manifest: dict[str, Any]) -> None:
    """That every file of `folder` in the manifest is there, with the same content.

    Raises:
        ValueError: naming the first that is not.
    """
    for entry in manifest["files"]:
        file = folder / entry["path"]
        if not file.is_file():
            raise ValueError(f"{entry['path']} is missing")
        if file.stat().st_size != entry["size"] or sha256(file) != entry["sha256"]:
            raise ValueError(f"{entry['path']} is not what was written")


def _entry(file: Path, folder: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    return {"path": str(file.relative_to(folder)), "size": file.stat().st_size, "sha256": sha256(file)}


def _own_digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- the disk ---------------------------------------------------------------------------------------------------------


def is_full(error: BaseException) -> bool:
    """Whether the disk, or the user's part of it, had no room. safetensors has an error of its own for that."""
    return getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "os error 28" in str(error)


@contextmanager
def disk_room(folder: Path, need: int, what: str) -> Iterator[None]:
    """Around writing `need` bytes to `folder`: `what`, for the message.

    Raises:
        RecipeError: the disk has less, at the beginning or when writing failed (torch names no reason when it does).
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise disk_full(folder, f"{what} needs {format_bytes(need)}, and {format_bytes(free)} are free")
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(folder).free
        if is_full(error) or free < need:
            left = f"there was no room for all of it ({format_bytes(free)} are free now)"
            raise disk_full(folder, f"{what} needs {format_bytes(need)}, and {left}") from error
        raise


def disk_full(where: Path | str, message: str) -> RecipeError:
    """The one line about a full disk."""
    advice = "make room, and run the same command again to resume from the last checkpoint"
    return RecipeError([Problem(str(where), "disk_full", f"disk full: {message}; {advice}")])


def format_bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
