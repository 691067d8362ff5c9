"""Responses in parts: what an unfinished evaluation left, and prompts that are beyond the context."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval import identity as module
from eval.checkpoint import Checkpoint
from eval.data.rows import Source, read
from eval.files import json_lines
from eval.identity import identity
from tests.support.evaluations import GREEDY, ROWS, asked, run, texts
from tests.support.inputs import jsonl


def test_an_unfinished_evaluation_is_not_gone_on_with_in_other_settings(
    checkpoint: Checkpoint, sums: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked(checkpoint, sums, out)
    responses = {
        line["id"]: {**line, "text": "of another dtype"} for line in json_lines(out / "sums/completions.jsonl")
    }
    rows = read(Source(path=str(sums.parent / "rows.jsonl")))
    for dtype, told in {
        "float32": "",
        "bfloat16": ", stays and is not gone on with: dtype (was bf",
    }.items():
        shutil.rmtree(out)
        other = identity(replace(checkpoint, dtype=dtype), rows, 6, GREEDY)
        parts = out / "sums" / f"parts-{module.key({**other, 'batch_size': 4})}"
        parts.mkdir(parents=True)
        (parts / "identity.json").write_text(json.dumps(other))
        jsonl(parts / "000000.jsonl", [*responses.values()])
        assert told in asked(checkpoint, sums, out)
        assert ("of another dtype" in texts(out)) is (dtype == "float32")
        assert bool([*out.glob("sums/parts-*")]) is (dtype == "bfloat16"), "another evaluation may be gone on with"


def test_a_prompt_beyond_the_context_is_scored_as_too_long_and_the_others_areasked(
    model: Path, sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**row, "question": row["question"] + " Think again." * (200 if n == 1 else 0)} for n, row in enumerate(ROWS)
    ]
    jsonl(sums.parent / "rows.jsonl", rows)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 128}))
    printed = run(model, "--task", sums, "--samples", 1, "--out", tmp_path / "out")
    lines = json_lines(tmp_path / "out" / "sums" / "completions.jsonl")
    assert {line["id"] for line in lines if line["outcome"] == "too_long"} == {"q1"}
    assert [line["text"] for line in lines if line["id"] == "q1"] == ["", ""]
    assert all(line["text"] for line in lines if line["id"] != "q1")
    found = json.loads((tmp_path / "out" / "sums" / "scores.json").read_text())
    assert (found["n"], found["too_long"], found["truncated"]) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert "WARNING task sums: too_long: row id q1: the prompt leaves no room in 128 tokens" in capsys.readouterr().err
    assert "33.3%" in printed
