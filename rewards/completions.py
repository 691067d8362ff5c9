"""Completions in files: JSON lines, an evaluation's `completions.jsonl`, the rollouts that a GRPO stage wrote."""

import io
import json
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .response import completion_text

READ = "JSON lines with a completion and an answer, an evaluation's completions.jsonl, a stage's completions_*.parquet"
UNREADABLE, WITHOUT = "unreadable", "without a completion"
GREEDY, SAMPLED, IMAGE_REMOVED = PASSES = ("greedy", "sampled", "image removed")
_DECLARED = ("kind", "choices", "truncated")


class Line(NamedTuple):
    """A line as a reward gets it: `id`, `completion`, `answer`, `kind`, `choices`, `truncated` and what else it has.

    What is missing or of the wrong type is the value that scores as nothing; `kind` alone stays as it stands there.
    """

    row: dict[str, Any]
    part: str  # UNREADABLE, WITHOUT, one of PASSES, or ""


class Completions(NamedTuple):
    """What a file holds."""

    kind: str
    lacks: tuple[str, ...]  # the columns of kind, choices and truncated that a table does not have
    lines: Iterator[Line]  # one for each line of the file, in order


def read_completions(path: Path) -> Completions:
    """The completions in a file; a pipe is read whole first.

    Raises (also while the lines are read):
        ValueError: none of its lines is a row with a completion, or it is parquet that cannot be read.
        OSError: it cannot be opened.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder; name a file in it. Read here: {READ}")
    opened = _opener(path)
    with opened() as file:
        is_table = file.read(4) == b"PAR1"
    rows = partial(_table_rows, path, opened) if is_table else partial(_json_rows, opened)
    first = next((raw for raw in rows() if _line(raw).part not in {UNREADABLE, WITHOUT}), None)
    if first is None or (not is_table and _is_array(opened)):
        raise ValueError(f"{path}: {_look(rows, opened)}. Read here: {READ}")
    if not is_table:
        return Completions(
            "completions of an evaluation" if _line(first).part else "JSON lines", (), map(_line, rows())
        )
    lacks = tuple(name for name in _DECLARED if name not in first)
    kind = "rollouts of a GRPO stage" if first.keys() >= {"step", "advantage"} else "parquet"
    return Completions(kind, lacks, map(_line, rows()))


def _opener(path: Path) -> Callable[[], BinaryIO]:
    if path.is_file():
        return lambda: path.open("rb")
    content = path.read_bytes()  # of a pipe, which is read once
    return lambda: io.BytesIO(content)


def _json_rows(opened: Callable[[], BinaryIO]) -> Iterator[Any]:
    with opened() as file:
        yield from map(_parsed, file)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None


def _table_rows(path: Path, opened: Callable[[], BinaryIO]) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet as pq

    with opened() as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            message = " ".join(str(error).split())
            raise ValueError(f"{path}: parquet that cannot be read: {message:.200}. Read here: {READ}") from None


# --- a line -----------------------------------------------------------------------------------------------------------


def _line(raw: Any) -> Line:
    row, part = raw if isinstance(raw, dict) else {}, ""
    if "completion" not in row and {"text", "gold"} <= row.keys():
        row = {**row, "completion": row["text"], "answer": row["gold"]}
        part = IMAGE_REMOVED if row.get("image_removed") else SAMPLED if row.get("sample") else GREEDY
    text = _text(row.get("completion"))
    if text is None:
        part = WITHOUT if isinstance(raw, dict) else UNREADABLE
    answer, choices = row.get("answer"), row.get("choices")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    listed = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    columns = {
        "id": row.get("id"),
        "completion": text or "",
        "answer": answer if isinstance(answer, str) else "",
        "kind": row.get("kind") or None,
        "choices": choices if listed and choices else None,
        "truncated": row.get("truncated") is True,
    }
    asked = {} if "question" in row else {"question": _asked(row.get("prompt"))}
    return Line({**row, **{name: value for name, value in asked.items() if value}, **columns}, part)


def _text(completion: Any) -> str | None:
    """A completion as text: a string, or TRL's list of messages."""
    try:
        text = completion_text(completion)
    except (TypeError, KeyError, IndexError):
        return None
    return text if isinstance(text, str) else None


def _asked(prompt: Any) -> str:
    """What the user says in a prompt, which is a text or messages."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if isinstance(turn, dict)] if isinstance(prompt, list) else []
    said = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), "")
    parts = said if isinstance(said, list) else [{"text": said}]
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


# --- files of other kinds ---------------------------------------------------------------------------------------------

_UTF16 = "UTF-16 text; save it as UTF-8"
_MAGIC = {
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"PK\x03\x04": "compressed (zip); unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstd); unpack it first",
    b"BZh": "compressed (bzip2); unpack it first",
    b"\xfd7zXZ": "compressed (xz); unpack it first",
    b"PAR1": "parquet without rows",
}


def _is_array(opened: Callable[[], BinaryIO]) -> bool:
    """Whether the lines are parts of one JSON array, of which the last may look like a row."""
    with opened() as file:
        lines = filter(None, map(bytes.strip, file))
        first = next(lines, b"")
        is_begun = first.decode("utf-8-sig", "replace").startswith("[") and _parsed(first) is None
        return is_begun and any(last.endswith(b"]") for last in deque(lines, maxlen=1))


def _look(rows: Callable[[], Iterator[Any]], opened: Callable[[], BinaryIO]) -> str:
    """What a file without completions looks like, and what to do."""
    with opened() as file:
        head = file.read(4096)
    text = head.decode("utf-8-sig", "replace").strip()
    if text.startswith("["):
        return "a JSON array; write one object a line (jq -c '.[]')"
    if row := next((raw for raw in rows() if isinstance(raw, dict)), None):
        keys = [*map(str, row)]
        return f"rows without a completion (their keys: {', '.join([*keys[:6], *(['...'] if keys[6:] else [])]):.200})"
    if look := next((look for magic, look in _MAGIC.items() if head.startswith(magic)), None):
        return look
    if b"\0" in head:
        return _UTF16 if max(head[::2].count(0), head[1::2].count(0)) > len(head) / 4 else "binary data"
    if text.startswith("{"):
        return "JSON over several lines; write one object a line (jq -c .)"
    line = text.partition("\n")[0].strip()
    is_json = _parsed(line.encode()) is not None
    return f"{'JSON, but no objects' if is_json else 'no JSON'}: {line[:60]!r}" if text else "empty"
