"""lmms-eval's tasks in our terms: our canonical rows, our conversation, our verdicts; lmms-eval asks and adds up."""

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = str(Path(__file__).resolve().parents[2])
sys.path[:] = [ROOT, *(path for path in sys.path if path != ROOT)]  # lmms-eval loads this file by its path alone

from eval.data.formats import Format  # noqa: E402
from eval.data.rows import Source, canonical_row, features, good, prompt, undecoded  # noqa: E402
from rewards.accuracy import verdicts  # noqa: E402
from rewards.grading.verify import Outcome  # noqa: E402
from rewards.response import TAGS  # noqa: E402

if TYPE_CHECKING:
    import datasets


def scienceqa(docs: "datasets.Dataset") -> "datasets.Dataset":
    return _rows(docs, "scienceqa")


def iconqa(docs: "datasets.Dataset") -> "datasets.Dataset":
    return _rows(docs, "iconqa")


def doc_to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of `eval.chat.ChatFormat`: the system prompt, then the images, then the question."""
    turns: list[dict[str, Any]] = []
    for turn in prompt(doc["question"]):
        turns.append({"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]})
    turns[-1]["content"][:0] = [{"type": "image", "url": image} for image in doc["images"]]
    return turns


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """Only lmms-eval's simple models ask for it."""
    raise ValueError("this model would drop the system prompt; take a chat model: --model vllm, without --force_simple")


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval does not say whether a response was cut off: ours is then `truncated`, here as a rule `malformed`."""
    text = results[0]
    [(outcome, _)] = verdicts([text], [doc["answer"]], [doc["kind"]], [doc["choices"]])
    exact_match = float(outcome is Outcome.CORRECT)
    return {
        "exact_match": exact_match,
        "malformed": float(outcome is Outcome.MALFORMED),
        "think_chars": len(text.partition(TAGS[1])[0]),
        # The rest is in the samples alone: to join them with ours; and --baseline reads `score` of an earlier run's.
        "id": doc["id"],
        "outcome": outcome.value,
        "score": exact_match,
    }


def _rows(docs: "datasets.Dataset", format: Format) -> "datasets.Dataset":
    """The rows that our evaluation asks. lmms-eval scores rows without their images, but their options stay."""
    from datasets import Features

    rows = undecoded(docs).map(
        partial(canonical_row, Source(path="", format=format), roots=[Path("/")]),  # `datasets` has fetched them
        with_indices=True,
        remove_columns=docs.column_names,
        features=Features(features()),
        load_from_cache_file=False,  # its key knows nothing of the modules above
    )
    kept = good(rows)
    if len(kept) < len(rows):
        warnings.warn(f"{len(rows) - len(kept)} of {len(rows)} rows cannot be read and are not asked", stacklevel=2)
    return kept
