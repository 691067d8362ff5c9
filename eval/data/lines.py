"""Files that are read row by row, so that one bad line costs one row: JSON lines, JSON arrays, CSV; gzipped or not."""

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.data.images import BadRow

PEEKED = 1000  # rows from which the types of a JSON file's own columns are taken
LINES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".json", ".ndjson", ".csv", ".tsv") for packed in ("", ".gz"))


def line_files(path: Path, split: str, configured: bool) -> list[Path]:
    """The files of lines at `path`; of a folder's, those of its split where their names say one."""
    if path.name.endswith(LINES):
        if not path.is_file():
            raise ValueError(f"no file {path}; a path is relative to the recipe or the task that names it")
        return [path]
    if not path.is_dir() or (path / "state.json").exists() or configured:
        return []
    files, card = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")]), path / "README.md"
    if any(file.name.startswith("metadata.") for file in files) or any(path.rglob("*.parquet")):
        return []  # a folder of images, or of tables
    if card.exists() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace"):
        return []  # a hub data set's own, whose card says which file belongs to which configuration
    return _of_split(path, split, files)


SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval")
_SPLIT = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(SPLITS)})(?![A-Za-z])", re.IGNORECASE)


def _of_split(path: Path, split: str, files: list[Path]) -> list[Path]:
    """Those of the split, where their names say one.

    Raises:
        ValueError: they say others alone.
    """
    own = re.compile(rf"(?<![A-Za-z]){re.escape(split)}(?![A-Za-z])", re.IGNORECASE)
    if found := [file for file in files if own.search(file.name)]:
        return found
    if named := [file.name for file in files if _SPLIT.search(file.name)]:
        said = f"{path}: no file of split {split!r} among {', '.join(named)}"
        raise ValueError(f"{said}; say which with `split`, or name one with `file`")
    return files


def line_rows(files: list[Path]) -> Iterator[dict[str, Any] | BadRow]:
    for file in files:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            if file.name.removesuffix(".gz").endswith((".csv", ".tsv")):
                yield from _table_of_text(lines, "," if ".csv" in file.suffixes else "\t")
                continue
            start = lines.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n")
            lines.seek(0)
            yield from _array(lines, file) if start.startswith(b"[") else _lines(lines)


def _table_of_text(lines: Any, separator: str) -> Iterator[dict[str, Any] | BadRow]:
    """CSV by its first line, each value as the text that it is; an empty one is none."""
    csv.field_size_limit(sys.maxsize)  # an image as base64 is longer than its default
    table = csv.reader(io.TextIOWrapper(lines, encoding="utf-8-sig", newline=""), delimiter=separator)
    names = next(table, [])
    while names and not names[-1]:
        names.pop()
    for values in table:
        if not values:
            continue
        while len(values) > len(names) and not values[-1]:
            values.pop()
        if len(values) != len(names):
            yield BadRow(
                "csv", f"{len(values)} values under {len(names)} columns; quote what has a {separator!r} in it"
            )
            continue
        yield {name: value or None for name, value in zip(names, values, strict=True)}


def _lines(lines: Any) -> Iterator[dict[str, Any] | BadRow]:
    blank = 0
    for line in lines:
        if not line.strip():
            blank += 1  # reported if a row follows: rows are counted as an editor counts lines
            continue
        yield from (BadRow("json", "a blank line") for _ in range(blank))
        blank = 0
        try:
            row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            yield row if isinstance(row, dict) and b"\\u" not in line else _object(row)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError too
            yield BadRow("json", f"not valid JSON: {error}")


def _array(file: Any, path: Path) -> Iterator[dict[str, Any] | BadRow]:
    """The objects of an array, one after the other: Vision-R1's files are hundreds of megabytes.

    Raises:
        ValueError: it breaks off, or is broken: how many rows are lost with its rest, nothing says.
    """
    import ijson

    count = 0
    try:
        for row in ijson.items(file, "item", use_float=True):
            count += 1
            yield _object(row)
    except ijson.JSONError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: not valid JSON after row {count}: {said}; mend it, or write a row a line") from None


def _object(row: Any) -> dict[str, Any] | BadRow:
    if not isinstance(row, dict):
        return BadRow("json", f"not an object: {row!s:.80}")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return BadRow("json", "half of a surrogate pair stands alone in it, which is no text")
    return row


# --- the data's own columns ---


def check_types(path: str, own: dict[str, Any], types: dict[str, Any], index: int) -> None:
    """`types` are Arrow's, of the columns. Raises: ValueError: a value is of another, and would be changed to fit."""
    import pyarrow as pa

    for name, value in own.items():
        expected = types[name]
        if value is None or expected == pa.string():
            continue
        try:
            found = pa.array([value]).type
            fits = found == expected or pa.array([value], type=expected).cast(found, safe=True).to_pylist() == [value]
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError, ValueError):
            fits = False
        if not fits:
            said = f"column {name!r} has {value!r:.60} in row {index + 1}, and another type in the first {PEEKED}"
            raise ValueError(f"{path}: {said}; write one type throughout, or leave the column out")


def column_types(rows: list[dict[str, Any]], replaced: set[str]) -> dict[str, Any]:
    """The types of the data's own columns; text, as JSON, where the rows disagree."""
    import pyarrow as pa
    from datasets import Value
    from datasets.features.features import generate_from_arrow_type

    types: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row if name not in replaced):
        try:
            kind = pa.array([row.get(name) for row in rows]).type
            types[name] = Value("string") if pa.types.is_null(kind) else generate_from_arrow_type(kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            types[name] = Value("string")
    return types
