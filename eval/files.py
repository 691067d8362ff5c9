"""Files: small ones written whole or not at all, JSON lines, digests, and the names of cached results."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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


def text_digest(text: str) -> str:
    """The digest of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def weights_digest(folder: Path) -> str:
    """The digest of a checkpoint: of all its files but its card and what a trainer resumes from."""
    files = [
        file for file in sorted(folder.rglob("*")) if file.is_file() and not _is_left_out(file.relative_to(folder))
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing gives Python's lock back: a core a file
        listing = zip((file.relative_to(folder) for file in files), pool.map(sha256, files), strict=True)
        return text_digest("\n".join(f"{name} {digest}" for name, digest in listing))


_RESUMED = re.compile(r"(optimizer|scheduler|training_args|rng_state).*\.(pt|pth|bin)|trainer_state\.json")


def _is_left_out(file: Path) -> bool:
    """Whether `from_pretrained` never reads it: checkpoints of a training lie in folders of their own."""
    within = any(part.startswith("checkpoint-") for part in file.parts[:-1])
    return within or file.name == CARD or bool(_RESUMED.fullmatch(file.name))


def cache_key(parts: Iterable[Any], code: Iterable[str | None]) -> str:
    """The name of a cached result: of `parts`, which it was made from, and the source files `code`, which made it."""
    digests = [sha256(Path(file)) for file in code if file is not None]
    return hashlib.sha256(json.dumps([*parts, digests], default=str).encode()).hexdigest()[:32]


def write_json_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """`write_text` of JSON lines, as `json_lines` reads them."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a `completions.jsonl` or a `metrics.jsonl`.

    Raises:
        ValueError: one is no JSON.
    """
    with path.open("rb") as file:  # in it `\n` alone ends a line; a text's U+2028 or U+0085 may stand in JSON as it is
        return [_parsed(path, number, line) for number, line in enumerate(file, 1)]


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: line {number} is no JSON: {error}") from None
    return parsed
