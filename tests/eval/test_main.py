"""The command `python -m eval`: what it says of a mistake, and completions scored anew."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.evaluations import files, run

pytestmark = pytest.mark.slow


def test_a_line_holds_what_scoring_needs_and_rescoring_changes_nothing(
    small: Callable[[str], Path], task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(small("qwen2_5_vl"), "--task", task, "--samples", 2, "--out", out)
    before = files(out)
    lines = before["lines"]
    assert len(lines) == 6 * (1 + 2 + 1)
    greedy, removed = lines[0], lines[-6]
    assert (greedy["id"], greedy["gold"], greedy["kind"], greedy["choices"]) == ("0", "A", "choice", ["dog", "cat"])
    assert (greedy["image_removed"], removed["image_removed"], removed["id"]) == (False, True, "0")
    assert greedy["prompt"] != removed["prompt"]
    assert len({line["prompt"] for line in lines}) == 12, "the same prompt for the greedy and the sampled"
    assert len({line["image"] for line in lines if not line["image_removed"]}) == 6
    assert {"text", "truncated", "parse", "outcome", "lenient", "think_tokens", "answer_tokens"} <= greedy.keys()
    printed = run(out, "--rescore")
    assert "0 of 24 outcomes differ, the scores do not" in printed
    assert files(out) == before
    tampered = [{**line, "outcome": "correct"} for line in lines]
    (out / "held" / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tampered))
    assert "24 of 24 outcomes differ" in run(out, "--rescore")
    assert files(out) == before


def test_a_mistake_is_one_line_before_any_weights(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    weights = small("qwen2_5_vl") / "model.safetensors"
    assert weights.exists()
    printed = run(small("qwen2_5_vl"), "--task", "sciencqa", code=2)
    assert printed.startswith("ERROR no task 'sciencqa'. Shipped: gsm8k, iconqa, math500, scienceqa, scienceqa_img;")
    rows = [{"id": "a", "question": "1?", "answer": "1"}, {"id": "a", "question": "2?", "answer": "2"}]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "twice.yaml").write_text("name: twice\npath: twice.jsonl\nmax_new_tokens: 9\n")
    printed = run(tmp_path, "--task", tmp_path / "twice.yaml", code=2)
    assert "two rows of" in printed
    assert "have the id 'a'" in printed
    printed = run(tmp_path / "none", "--task", task, code=2)
    assert printed.startswith("ERROR model ")
    assert printed.count("\n") == 1
