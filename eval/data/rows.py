"""Rows: the one canonical form of a question, read from each supported data format, and the prompt made of it.

A canonical row has `id`, `question`, `answer`, and, where the data has them, `images` (a list), `think`, `kind` and
`choices`. Training, rewards and evaluation all see rows in this form and prompts built here.
"""

import csv
import difflib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from eval.data import formats, images, lines, options, turns
from eval.data.formats import ALIKE, EXPLICIT, NAMES, NUMBERED_COLUMN, REPLACED, REQUIRED, Format, Reading, canonical
from eval.data.images import BadRow, located
from eval.data.lines import LINES, PEEKED, check_types, column_types, line_files, line_rows
from eval.data.options import AnswerIs
from eval.data.turns import Tags
from eval.files import cache_key, sha256
from rewards import response
from rewards.response import SYSTEM_PROMPT

if TYPE_CHECKING:
    import datasets


class Source(BaseModel):
    """Where rows come from: the settings that training data (`pipeline.recipe.schema.Data`) and tasks share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: str  # a folder, a .jsonl, .json or .parquet file, or a hub id
    format: Format = "rows"
    split: str = "train"
    revision: str | None = None
    file: str | None = None  # one file of the folder or of the hub's repository
    images: str | None = None  # the folder that image paths in the rows are relative to
    columns: dict[str, str] = {}  # the format's name of a column: the data's own, or a part of one (`a.b`, `a.0`)
    tags: Tags | None = None  # of responses, where they are not the grammar's
    answer_is: AnswerIs | None = None  # of questions with options, where an answer may be read in two ways

    @property
    def configuration(self) -> str | None:
        """Of a hub data set that has several: a recipe's `name`, a task's `config` (its `name` is its own)."""
        return None

    @property
    def place(self) -> str:
        """Where the rows stand, for messages."""
        return f"{self.path}/{self.file}" if self.file else self.path

    def settings(self) -> dict[str, Any]:
        """All that decides which rows are read, and how."""
        return self.model_dump(include={*Source.model_fields}) | {"configuration": self.configuration}


def read(source: Source, first: int | None = None) -> "datasets.Dataset":
    """The rows of `source` in canonical form, or the `first` few; an image is decoded only when its row is used.

    A column is there only if a row has something in it. Rows that cannot be read keep their place: `code` and
    `problem` say what is wrong with them, and are None for the others.

    Raises:
        ValueError: a column that the format needs is missing, or there is no row.
    """
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowInvalid

    if source.images and not Path(source.images).is_dir():
        raise ValueError(f"{source.images}: no folder of images; it is relative to the recipe or task that names it")
    saved = Path(source.path).is_file() or (Path(source.path) / "state.json").exists()
    if source.configuration and (source.file or saved):
        raise ValueError(f"{source.place}: a file has no configuration {source.configuration!r}; leave it out")
    source = _with_file(source)
    files = line_files(Path(source.path), source.split, bool(source.configuration))
    try:
        rows = _from_json(source, files, first) if files else _from_table(source, first)
    except (DatasetsError, ArrowInvalid, OSError, EOFError, zlib.error, csv.Error) as error:
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
        if isinstance(cause, ValueError) and not isinstance(cause, ArrowInvalid):
            raise cause from error
        raise ValueError(f"{source.path}: cannot be read: {' '.join(str(cause).split())}") from error
    if len(rows) == 0:
        raise ValueError(f"{source.path}: no row")
    empty = [name for name in features() if name in rows.column_names and _is_empty(rows, name)]
    return rows.remove_columns(empty)


def good(rows: "datasets.Dataset") -> "datasets.Dataset":
    """The rows that could be read."""
    if "notes" in rows.column_names:
        rows = rows.remove_columns("notes")
    if "code" not in rows.column_names:
        return rows
    kept = [index for index, code in enumerate(rows["code"][:]) if code is None]
    return rows.select(kept).remove_columns(["code", "problem"])


def noted(rows: "datasets.Dataset") -> dict[str, int]:
    """How many rows lost something that is no fault of theirs, by what."""
    notes = rows["notes"][:] if "notes" in rows.column_names else []
    return dict(Counter(note for of_row in notes for note in of_row or []))


def prompt(question: str) -> list[dict[str, str]]:
    """The conversation that asks `question`, in the grammar of `rewards.response`."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def undecoded(table: "datasets.Dataset") -> "datasets.Dataset":
    """The same table with images as their bytes and paths, so that re-arranging columns decodes nothing.

    Images in a list change their type alone, as `cast_column` does it for one that is in none: for a list it writes the
    whole table again. Delete when a list is cast so too (`datasets/arrow_dataset.py:2480`).
    """
    from datasets import Dataset, Image, List

    for name, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            if not isinstance(table, Dataset):
                table = table.cast_column(name, List(Image(decode=False)))
                continue
            table = copy(table)
            table._info = deepcopy(table._info)
            table._info.features[name] = List(Image(decode=False))
            table._fingerprint = cache_key([table._fingerprint, name, "undecoded"], [])
    return table


def _with_file(source: Source) -> Source:
    """A source of one file of a folder, or of a hub's repository, as that file: here now, if it was not."""
    if source.file is None:
        return source
    path = Path(source.path) / source.file
    if not Path(source.path).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source.path, source.file, repo_type="dataset", revision=source.revision))
        except OSError as error:
            why = str(error).splitlines()[0]
            raise ValueError(f"{source.path}: no such folder, and no file {source.file} on the hub: {why}") from None
    return source.model_copy(update={"path": str(path), "file": None, "images": source.images or str(path.parent)})


def features() -> dict[str, Any]:
    """The columns of a canonical row, and those that say why one could not be read."""
    from datasets import List, Value

    from eval.data.picture import Picture

    text = Value("string")
    canonical = dict.fromkeys(("id", "question", "answer", "think", "kind", "code", "problem"), text)
    return canonical | {"choices": List(text), "notes": List(text), "images": List(Picture())}


def _is_empty(rows: "datasets.Dataset", name: str) -> bool:
    import pyarrow.compute as pc

    if name in {"id", "question", "answer"}:
        return False
    chunks = rows.with_format("arrow").select_columns(name).iter(batch_size=10_000)
    sizes = pc.list_value_length if name in {"choices", "images", "notes"} else pc.is_valid
    return not any(pc.any(pc.cast(sizes(chunk[name]), "bool")).as_py() for chunk in chunks)


def canonical_row(source: Source, values: Any, index: int, roots: list[Path]) -> dict[str, Any]:
    """A row in canonical form; if it cannot be, the reason, and a place holder for the rest."""
    row: dict[str, Any] = dict.fromkeys(("think", "kind", "choices", "notes", "code", "problem"))
    row |= {"id": str(index), "question": "", "answer": "", "images": []}
    try:
        if isinstance(values, BadRow):
            raise values
        values = _renamed(source, values)
        row["id"] = str(values.get("id", index))
        row |= canonical(Reading(source.format, source.tags, source.answer_is), values, index)
        row["images"] = [located(item, roots) for item in row["images"]]
    except BadRow as problem:
        row |= {"images": [], "code": problem.code, "problem": str(problem)}
    except (KeyError, TypeError, AttributeError) as error:  # a value of another shape than the format's
        shape = f"not a row of format {source.format!r}: {type(error).__name__} {error!s:.200}"
        row |= {"images": [], "code": "row_shape", "problem": shape}
    return row


def _renamed(source: Source, values: dict[str, Any]) -> dict[str, Any]:
    """A column that `columns` names wins over the data's own of that name, wherever the two stand."""
    taken, used = {ours: _part(values, theirs) for ours, theirs in source.columns.items()}, _used(source)
    return {name: value for name, value in values.items() if name not in used} | taken


def _used(source: Source) -> set[str]:
    """The data's columns that are read under another name, or not by their own, which a name of `columns` may be."""
    others = {name for alike in ALIKE if alike & source.columns.keys() for name in alike}
    return EXPLICIT | others | {*source.columns.values()}


def _part(values: Any, path: str) -> Any:
    """A column, or a part of one; None where a row lacks it."""
    if path in values:
        return values[path]
    value = values
    for step in path.split("."):
        if isinstance(value, list) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _check_columns(source: Source, columns: list[str], resolves: Callable[[str], bool]) -> None:
    """`resolves` tells whether a part of a column is there.

    Raises:
        ValueError: the format needs others, or has not the names that `columns` gives.
    """
    known = NAMES[source.format]
    if strange := [ours for ours in source.columns if ours not in known]:
        close = difflib.get_close_matches(strange[0], known, 1, 0.5)
        said = f"{source.path}: columns: {strange[0]!r} is no name of format {source.format!r}"
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{said}; {hint}It reads: {', '.join(sorted(known))}")
    if source.answer_is and source.format not in {"rows", "messages"}:
        raise ValueError(f"{source.path}: format {source.format!r} knows what its answers are; leave out `answer_is`")
    if source.tags and not known & {"response", "messages"}:
        raise ValueError(f"{source.path}: format {source.format!r} has no responses with tags; leave out `tags`")
    names = ({*columns} - EXPLICIT) | source.columns.keys()
    missing = [name for name in REQUIRED[source.format] if not {*name.split("|")} & names]
    unknown = [theirs for theirs in source.columns.values() if theirs not in columns and not resolves(theirs)]
    if missing or unknown:
        advice = _advice(columns) if missing else _RENAME
        needed = " and ".join(name.replace("|", " or ") for name in REQUIRED[source.format])
        raise ValueError(
            f"{source.path}: format {source.format!r} needs the columns {needed}; "
            f"missing: {', '.join([*missing, *unknown])}; found: {', '.join(columns)}. {advice}"
        )


def _advice(columns: list[str]) -> str:
    """Which formats have all that they need in such columns."""
    fit = [name for name, needed in REQUIRED.items() if all({*each.split("|")} & {*columns} for each in needed)]
    return f"`format: {' or '.join(fit)}` reads these" if fit else _RENAME


_RENAME = "Name yours with `columns`"


# What decides about a canonical row.
_CODE = [__file__, *(str(module.__file__) for module in (formats, images, lines, options, turns, response))]


# --- tables: hub data sets, parquet, saved data sets, folders of images -----------------------------------------------


def _from_table(source: Source, first: int | None) -> "datasets.Dataset":
    import datasets

    files = _parquet_files(source) if first is None else []
    table = undecoded(_table(source, streaming=True) if files else _head(source, first))
    _check_columns(source, table.column_names, lambda path: _is_typed(table.features, path))
    replaced = _replaced(source)
    extras = {n: kind for n, kind in table.features.items() if n not in replaced and not NUMBERED_COLUMN.fullmatch(n)}
    labels = {name: kind for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}
    roots = [*_roots(source), Path(datasets.config.HF_CACHE_HOME), Path(datasets.config.HF_DATASETS_CACHE)]
    if files:  # row by row, so that the images in them are stored once: in the canonical rows
        stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return datasets.Dataset.from_generator(
            lambda: (
                {name: values[name] for name in extras} | canonical_row(source, _named(values, labels), index, roots)
                for index, values in enumerate(table)
            ),
            features=datasets.Features(features() | extras),
            fingerprint=cache_key([stamps, source.settings(), roots], _CODE),
        )
    return table.map(
        lambda values, index: canonical_row(source, _named(values, labels), index, roots),
        with_indices=True,
        remove_columns=[name for name in table.column_names if name not in extras],
        features=datasets.Features(features() | extras),
        new_fingerprint=cache_key([table._fingerprint, source.settings()], _CODE),
        desc="reading rows",
    )


def _named(values: Any, labels: dict[str, Any]) -> dict[str, Any]:
    """A row with the names of its classes, where a table keeps their numbers."""
    return {**values, **{name: kind.int2str(values[name]) for name, kind in labels.items() if values[name] is not None}}


def _is_typed(kind: Any, path: str) -> bool:
    """Whether a table's types have this part of a column."""
    step, _, rest = path.partition(".")
    if isinstance(kind, dict):
        return step in kind and (not rest or _is_typed(kind[step], rest))
    if step.isdecimal() and hasattr(kind, "feature"):
        return not rest or _is_typed(kind.feature, rest)
    return hasattr(kind, "pa_type") and step in {"bytes", "path"} and not rest


def _parquet_files(source: Source) -> list[Path]:
    """The parquet files that are here, at the source's path or below it."""
    path = Path(source.path)
    if path.suffix == ".parquet" and path.is_file():
        return [path]
    return sorted(path.rglob("*.parquet")) if path.is_dir() and not (path / "state.json").exists() else []


def _replaced(source: Source) -> set[str]:
    """The data's names of the columns that the canonical row replaces."""
    return REPLACED | features().keys() | {*source.columns.values()}


def _roots(source: Source) -> list[Path]:
    path = Path(source.path)
    return [Path(source.images) if source.images else path if path.is_dir() else path.parent]


def _head(source: Source, first: int | None) -> "datasets.Dataset":
    import datasets

    table = _table(source, streaming=first is not None)
    if first is not None and isinstance(table, datasets.IterableDataset):
        return datasets.Dataset.from_list(list(undecoded(table).take(first)), features=undecoded(table).features)
    return table if first is None else table.select(range(min(first, len(table))))


_READERS = {".parquet": "parquet", ".arrow": "arrow"}


def _table(source: Source, streaming: bool) -> Any:
    """A data set; one that is read row by row, where `streaming` spares the whole of it."""
    import datasets

    path = Path(source.path)
    if reader := _READERS.get(path.suffix):
        if not path.is_file():
            raise ValueError(f"no file {path}; a path is relative to the recipe or the task that names it")
        return datasets.load_dataset(reader, data_files=str(path), split="train", streaming=streaming)
    if path.is_file():
        raise ValueError(f"{path}: files of this kind are not read; {', '.join([*LINES, *_READERS])} are")
    if (path / "state.json").is_file():
        return datasets.load_from_disk(str(path))
    asked: dict[str, Any] = {"split": source.split, "revision": source.revision, "streaming": streaming}
    try:
        return datasets.load_dataset(source.path, source.configuration, **asked)
    except ValueError as error:  # its lines say what is wrong, then which configurations or splits there are
        raise ValueError(f"{source.path}: {' '.join(str(error).split())}") from error


# --- files of lines ---------------------------------------------------------------------------------------------------


def _from_json(source: Source, files: list[Path], first: int | None) -> "datasets.Dataset":
    from datasets import Dataset, Features

    peeked = list(islice(line_rows(files), PEEKED))
    rows = [row for row in peeked if isinstance(row, dict)]
    if not peeked:
        raise ValueError(f"{source.path}: no row")
    if not rows:
        raise ValueError(f"{files[0]}: neither JSON lines nor an array of objects: {peeked[0]}")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    _check_columns(source, columns, lambda path: any(_part(row, path) is not None for row in rows))
    extras = column_types(rows, _replaced(source))
    made, roots = Features(features() | extras), _roots(source)
    if first is not None:
        return Dataset.from_list(list(_json_canonical(source, peeked[:first], extras, roots)), features=made)
    return Dataset.from_generator(
        lambda: _json_canonical(source, line_rows(files), extras, roots),
        features=made,
        fingerprint=cache_key([[sha256(file) for file in files], source.settings(), roots, extras], _CODE),
    )


def _json_canonical(source: Source, rows: Any, extras: dict[str, Any], roots: list[Path]) -> Iterator[dict[str, Any]]:
    from datasets import Features, Value

    types = {field.name: field.type for field in Features(extras).arrow_schema}
    for index, values in enumerate(rows):
        own = {name: values.get(name) if isinstance(values, dict) else None for name in extras}
        if index >= PEEKED:
            check_types(source.path, own, types, index)
        for name, value in own.items():
            if extras[name] == Value("string") and value is not None and not isinstance(value, str):
                own[name] = json.dumps(value)
        yield own | canonical_row(source, values, index, roots)
