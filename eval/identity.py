"""What does a number belong to? All that decided about stored responses and scores, and whether it is still so."""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rewards
from eval import grade, lenient
from eval.data.rows import undecoded
from eval.files import sha256, text_digest
from eval.task import NEUTRAL, Decoding

if TYPE_CHECKING:
    import datasets

    from eval.checkpoint import Checkpoint

GRADING = ("references", "grader")  # what decides about scores alone: stored responses can be graded anew
_PARSERS = ("math-verify", "latex2sympy2-extended", "sympy")  # of the grader's


def identity(
    checkpoint: "Checkpoint", rows: "datasets.Dataset", max_new_tokens: int, decoding: Decoding, greedy: bool = True
) -> dict[str, Any]:
    """What decides about the responses of `checkpoint` to `rows`, and about their grades, by ingredient.

    The batch size is none of them, nor are versions: both move numbers by rounding alone.

    Args:
        greedy: there is a greedy response to each row, and where images can be removed, one without them.
    """
    removed = greedy and decoding.image_removed and "images" in rows.column_names and checkpoint.chat.is_vlm
    drawn = {"temperature": decoding.temperature, "seed": decoding.seed} if decoding.samples else {}
    return {
        "checkpoint": checkpoint.digest,
        "revision": checkpoint.revision,
        "backend": checkpoint.backend,
        "dtype": checkpoint.dtype,
        "rows": asked_digest(rows),
        "prompt": _prompt(checkpoint),
        "decoding": {
            "max_new_tokens": max_new_tokens,
            "greedy": greedy,
            "samples": decoding.samples,
            **drawn,
            "image_removed": removed,
            **NEUTRAL,
        },
        "references": references_digest(rows),
        "grader": grader(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What is not as it was, by ingredient, in words."""
    old, new = ({**each, **_nested(each.get("decoding"))} for each in (before, now))
    names = [name for name in dict.fromkeys([*new, *old]) if name != "decoding" and old.get(name) != new.get(name)]
    return {name: f"{name} (was {_short(old.get(name))}, is {_short(new.get(name))})" for name in names}


def key(ingredients: Mapping[str, Any]) -> str:
    """A name for all of them."""
    return text_digest(json.dumps(ingredients, sort_keys=True))[:16]


def grader() -> str:
    """The digest of the code that grades: the grammar, the verifier, the forgiving reader, and what they parse with."""
    root = Path(str(rewards.__file__)).parent
    files = [root / "response.py", root / "accuracy.py", *(root / "grading").glob("*.*")]
    files += [Path(str(module.__file__)) for module in (grade, lenient)]
    versions = [f"{name} {_version(name)}" for name in _PARSERS]
    return text_digest("\n".join([*sorted(f"{file.name} {sha256(file)}" for file in files), *versions]))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _prompt(checkpoint: "Checkpoint") -> str:
    """The digest of what stands around a question, with an image and without."""
    chat = checkpoint.chat
    images = [None] if chat.is_vlm else []
    return text_digest("\n".join([chat.prompt_text("?"), chat.prompt_text("?", images), *map(str, sorted(chat.ends))]))


def asked_digest(rows: "datasets.Dataset") -> str:
    """Of all that is asked, in order: ids, questions, and images by their files' content."""
    digest = hashlib.sha256()
    for row in undecoded(_columns(rows, "id", "question", "images")):
        images = [_image_digest(image) for image in row.get("images") or []]
        digest.update(repr((row["id"], row["question"], images)).encode(errors="surrogatepass"))
    return digest.hexdigest()


def references_digest(rows: "datasets.Dataset") -> str:
    """Of all that decides which answer is right."""
    digest = hashlib.sha256()
    for row in _columns(rows, "id", "answer", "kind", "choices"):
        right = (row["id"], row["answer"], row.get("kind"), row.get("choices"))
        digest.update(repr(right).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _columns(rows: "datasets.Dataset", *names: str) -> "datasets.Dataset":
    return rows.select_columns([name for name in names if name in rows.column_names])


def _image_digest(image: Mapping[str, Any]) -> str:
    """Of the file, by its content."""
    if image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    return sha256(Path(image["path"]))


def _nested(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _short(value: Any) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text
