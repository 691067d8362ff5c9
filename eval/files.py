"""Files: small ones written whole or not at all, JSON lines, digests, and the names of cached results."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CARD = "README.md"  # of a model: what is written about it may change, so it is part of no digest


def local(path: str, folder: Path) -> str:
    """`path` taken from `folder`, where the recipe or task lies; as it is where nothing is there (a hub id, a name)."""
    return str((folder / path).resolve()) if (folder / path).exists() else path


def write_text(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either the old content or all of the new, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of `value` as JSON."""
    write_text(path, json.dumps(value, indent=1))


def sha256(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder: Path) -> str:
    """The digest of a checkpoint: of all its files but its card."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != CARD]
    listing = [f"{file.relative_to(folder)} {sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def cache_key(parts: Iterable[Any], code: Iterable[str | None]) -> str:
    """The name of a cached result: of `parts`, which it was made from, and the source files `code`, which made it."""
    digests = [sha256(Path(file)) for file in code if file is not None]
    return hashlib.sha256(json.dumps([*parts, digests], default=str).encode()).hexdigest()[:32]


def write_json_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """`write_text` of JSON lines, as `json_lines` reads them."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a `completions.jsonl` or a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
