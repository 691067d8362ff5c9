"""Rows: the one canonical form of a question, read from each supported data format, and the prompt made of it.

A canonical row has `id`, `question`, `images` (a list, possibly empty), `answer`, and, where the data has them,
`think`, `kind` and `choices`. Training, rewards and evaluation all see rows in this form and prompts built here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

from rewards.response import SYSTEM_PROMPT, Response, parse

if TYPE_CHECKING:
    import datasets

Format = Literal["rows", "vision_r1", "scienceqa"]


@dataclass(frozen=True)
class Source:
    """Where rows come from: the same five settings for training data and evaluation tasks."""

    path: str  # a folder, a .jsonl, .json or .parquet file, or a hub id
    format: Format = "rows"
    split: str = "train"
    revision: str | None = None
    images: str | None = None  # the folder that image paths in the rows are relative to
    config: str | None = None  # the hub data set's configuration


def read(source: Source, first: int | None = None) -> "datasets.Dataset":
    """The rows of `source` in canonical form, or the `first` few; an image is decoded only when its row is used.

    Where a row holds a response that the grammar rejects (`vision_r1`), its column `malformed` has the reason.

    Raises:
        ValueError: a column that the format needs is missing, or no row is left.
    """
    from datasets import Value

    table = _load(source, first)
    if source.format == "rows" and "problem" in table.column_names:  # geometry3k and its like
        table = table.rename_column("problem", "question")
    if source.format == "rows" and "answer" in table.column_names:  # numbers too: an answer is text
        table = table.cast_column("answer", Value("string"))
    missing = _REQUIRED[source.format] - set(table.column_names)
    if missing:
        raise ValueError(
            f"{source.path}: format {source.format!r} needs the columns {sorted(_REQUIRED[source.format])}; "
            f"missing: {sorted(missing)}, found: {table.column_names}"
        )
    root = Path(source.images) if source.images else Path(source.path).parent
    rows = undecoded(table).map(
        _CANONICAL[source.format], with_indices=True, remove_columns=_replaced(table.column_names), desc="reading rows"
    )
    if len(rows) == 0:
        raise ValueError(f"{source.path}: no row")
    return _with_images(rows, root)


def prompt(question: str) -> list[dict[str, str]]:
    """The conversation that asks `question`, in the grammar of `rewards.response`."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


_REQUIRED = {
    "rows": {"question", "answer"},
    "vision_r1": {"conversations"},
    "scienceqa": {"question", "choices", "answer", "image"},
}

_REPLACED = {"id", "question", "image", "images", "answer", "choices", "hint", "conversations"}


def _load(source: Source, first: int | None) -> "datasets.Dataset":
    import datasets

    table = _table(source, streaming=first is not None)
    if first is not None and isinstance(table, datasets.IterableDataset):
        return datasets.Dataset.from_list(list(table.take(first)), features=table.features)
    return table if first is None else table.select(range(min(first, len(table))))


def _table(source: Source, streaming: bool) -> Any:
    """A data set; one that is read row by row, where `streaming` spares the whole of it."""
    import datasets

    path = Path(source.path)
    if path.suffix in {".jsonl", ".json", ".parquet"}:
        if not path.is_file():
            raise ValueError(f"no file {path}; a path is relative to the recipe or the task that names it")
        kind = {".jsonl": "json"}.get(path.suffix, path.suffix.removeprefix("."))
        return datasets.load_dataset(kind, data_files=str(path), split="train", streaming=streaming)
    if (path / "state.json").is_file():
        return datasets.load_from_disk(str(path))
    return datasets.load_dataset(
        source.path, source.config, split=source.split, revision=source.revision, streaming=streaming
    )


def undecoded(table: "datasets.Dataset") -> "datasets.Dataset":
    """The same table with images as their bytes and paths, so that re-arranging columns decodes nothing."""
    from datasets import Image, List

    for name, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            table = table.cast_column(name, List(Image(decode=False)))
    return table


def _replaced(columns: list[str]) -> list[str]:
    """Columns that the canonical form replaces; others stay, for rewards that read them."""
    return [name for name in columns if name in _REPLACED]


def _row(values: dict[str, Any], index: int) -> dict[str, Any]:
    """Format `rows`: the canonical form itself; `id`, `images`, `think`, `kind` and `choices` may be absent."""
    choices = values.get("choices") or None
    return {
        "id": str(values.get("id", index)),
        "question": _with_options(_without_markers(values["question"]), choices),
        "images": _image_list(values),
        "answer": str(values["answer"]),
        "choices": choices,
    }


def _vision_r1(values: dict[str, Any], index: int) -> dict[str, Any]:
    """Format `vision_r1` (Osilly/Vision-R1-cold): both of its files, with their different roles and image columns.

    The question's `<image>` marker and the answer's "Final Answer:" prefix are removed; a row that the grammar rejects
    gets `malformed`, the reason.
    """
    turns = {turn["from"]: turn["value"] for turn in values["conversations"]}
    question = turns.get("user", turns.get("human", ""))
    response = parse(turns.get("assistant", turns.get("gpt", "")))
    think, answer, malformed = "", "", None
    if isinstance(response, Response):
        think, answer = response.think, response.answer.removeprefix("Final Answer:").strip()
    else:
        malformed = str(response.reason)
    return {
        "id": str(values.get("id", index)),
        "question": _without_markers(question),
        "images": _image_list(values),
        "think": think,
        "answer": answer,
        "malformed": malformed,
    }


def _scienceqa(values: dict[str, Any], index: int) -> dict[str, Any]:
    """Format `scienceqa` (lmms-lab's): the hint as context, lettered options, the answer's index as its letter."""
    context = f"Context: {values['hint']}\n" if values.get("hint") else ""
    return {
        "id": str(values.get("id", index)),
        "question": context + _with_options(values["question"], values["choices"]),
        "images": _image_list(values),
        "answer": ascii_uppercase[values["answer"]],
        "kind": "choice",
        "choices": values["choices"],
    }


_CANONICAL: dict[Format, Callable[[dict[str, Any], int], dict[str, Any]]] = {
    "rows": _row,
    "vision_r1": _vision_r1,
    "scienceqa": _scienceqa,
}


def _image_list(values: dict[str, Any]) -> list[Any]:
    """The images of a row that has several under `images`, one under `image`, or none."""
    images = values.get("images") or values.get("image") or []
    return images if isinstance(images, list) else [images]


def _without_markers(question: str) -> str:
    """The question without `<image>`: a prompt's images stand before its text, put there by the chat template."""
    return question.replace("<image>", "").strip()


def _with_options(question: str, choices: list[str] | None) -> str:
    options = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices or [], strict=False)]
    return "\n".join([question, *options])


def _with_images(rows: "datasets.Dataset", root: Path) -> "datasets.Dataset":
    """Image paths made absolute, the column typed as images; no column at all where no row has an image."""
    from datasets import Image, List, Value

    if not any(rows["images"]):
        return rows.remove_columns("images")
    if rows.features["images"] == List(Value("string")):
        rows = rows.map(lambda paths: {"images": [str(root / path) for path in paths]}, input_columns="images")
    return rows.cast_column("images", List(Image()))
