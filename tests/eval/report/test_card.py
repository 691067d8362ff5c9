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
    out = folder.root / "eval" / checkpoint / "sums"
    out.mkdir(parents=True)
    (out / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"path": "openai/gsm8k", "config": "main", "split": "test", "revision": "abc"}
    (out / "scores.json").write_text(json.dumps({**scores(lines), "made": {"task": task}}))
    (folder.root / "sums.yaml").write_text("name: sums\npath: openai/gsm8k\nmax_new_tokens: 9\n")
    stored = json.loads((folder.root / "recipe.json").read_text())
    stored["recipe"]["evaluate"] = {"tasks": [str(folder.root / "sums.yaml")], "checkpoints": [checkpoint]}
    (folder.root / "recipe.json").write_text(json.dumps(stored))


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
    assert str(tmp_path) not in path.read_text(), "a path of this machine says nothing elsewhere"
    folder.verify("sft")
    stored = json.loads((folder.root / "recipe.json").read_text())
    [data] = stored["recipe"]["data"]
    stored["recipe"]["data"][data] |= {"path": "openai/gsm8k", "name": "main", "split": "train[:100]"}
    (folder.root / "recipe.json").write_text(json.dumps(stored))
    write_cards(folder.root, write_results(folder.root))
    assert f"| {data} | openai/gsm8k | main | train[:100] |" in path.read_text(), "one hub id holds many data sets"
    for entry in json.loads((folder.stage("sft") / "COMPLETE").read_text())["files"]:
        assert entry["sha256"] in card.text


def _cards(run: Path) -> dict[str, str]:
    write_cards(run, write_results(run))
    return {path.parent.parent.name: path.read_text() for path in run.glob("*/model/README.md")}


def test_a_comparison_is_told_with_its_p_and_the_verdict_of_the_page(run: Path, evaluate: Callable[..., None]) -> None:
    outcomes = ["correct", "wrong"] * 20
    evaluate(sft=[*outcomes, *["wrong"] * 20], rl=[*outcomes, *["correct"] * 20])
    card = _cards(run)["rl"]
    [found] = json.loads((run / "results.json").read_text())["comparisons"]
    low, high = found["ci95"]
    assert (
        f"On task, against `sft` on the same 60 rows: +0.333 ({low:+.3f} to {high:+.3f}), p {found['p']:.2g}, "
        f"Holm-corrected {found['holm_p']:.2g}: rl is better." in card
    )
    evaluate(sft=outcomes, rl=outcomes)
    assert ": no difference shown (one of " in _cards(run)["rl"]


def test_what_is_not_known_is_empty_and_columns_are_those_that_there_are(
    run: Path, evaluate: Callable[..., None]
) -> None:
    evaluate(sft=["wrong"], rl=["wrong"])
    assert "too long" not in _cards(run)["rl"]
    (run / "eval/rl/task/scores.json").write_text(json.dumps({"accuracy": 0.5, "n": 4, "too_long": 0.25}))
    (run / "rl/model/config.json").unlink()
    card = _cards(run)["rl"]
    assert "| truncated | too long | well-formed only |" in card
    assert "| task | 4 | 0.500 |  |  |  | 25.0% |  |  |  |  |" in card
    assert "|---|---|---|---|---|---|---|---|---|---|---|" in card
    assert "pipeline_tag" not in card


def test_a_stage_that_is_damaged_or_without_its_model_has_no_card(run: Path) -> None:
    (run / "sft/COMPLETE").write_text('{"steps": ')
    (run / "rl/model/config.json").unlink()
    (run / "rl/model").rmdir()
    assert _cards(run) == {}
    assert not (run / "rl/model").exists()
