"""The card of a checkpoint."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard

from eval.grade import graded
from eval.report.card import write_cards
from eval.report.results import write_results
from eval.scores import scores
from pipeline.checkpoint.run_folder import RunFolder


def _evaluate(folder: RunFolder, checkpoint: str) -> None:
    """Files as an evaluation leaves them, of four responses, one malformed."""
    texts = ["<think>Add.</think><answer>1</answer>"] * 3 + ["1"]
    lines = graded(
        [
            {
                **{"id": str(n), "sample": 0, "image_removed": False, "image": None, "prompt": "p", "question": "?"},
                **{"gold": "1", "kind": None, "choices": None, "text": text, "truncated": False},
                **{"think_tokens": 3, "answer_tokens": 2},
            }
            for n, text in enumerate(texts)
        ]
    )
    out = folder.scores(checkpoint, "sums")
    out.mkdir(parents=True)
    (out / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"path": "openai/gsm8k", "config": "main", "split": "test", "revision": "abc"}
    (out / "scores.json").write_text(json.dumps({**scores(lines), "made": {"task": task}}))


def test_a_checkpoint_has_a_card_with_its_data_and_what_was_measured(
    trained: Callable[..., RunFolder], tmp_path: Path
) -> None:
    folder = trained("sft")
    path = folder.model("sft") / "README.md"
    before = path.read_text()
    assert "Nothing yet." in before
    _evaluate(folder, "sft")
    write_cards(folder.root, write_results(folder.root))
    card = ModelCard.load(path)
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["trl", "sft"]
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_revision) == ("accuracy", 0.75, "abc")
    assert "| sums | 4 | 0.750 (0.301 to 0.954) |  | 25.0% | 0.0% | 1.000 | 1.000 |" in card.text
    assert hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest() in card.text
    assert str(tmp_path) not in card.text.partition("<details>")[0], "a path of this machine says nothing elsewhere"
    folder.verify("sft")
    stored = json.loads((folder.root / "recipe.json").read_text())
    [data] = stored["recipe"]["data"]
    stored["recipe"]["data"][data] |= {"path": "openai/gsm8k", "name": "main", "split": "train[:100]"}
    (folder.root / "recipe.json").write_text(json.dumps(stored))
    write_cards(folder.root, write_results(folder.root))
    assert f"| {data} | openai/gsm8k | main | train[:100] |" in path.read_text(), "one hub id holds many data sets"
    for entry in json.loads((folder.stage("sft") / "COMPLETE").read_text())["files"]:
        assert entry["sha256"] in card.text
