"""`python -m rewards score`: one line out for each line in, whatever the line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewards.__main__ import main
from rewards.response import render
from tests.support.tables import table

ROOT = Path(__file__).resolve().parents[2]
ODD = [
    b"",
    b"null",
    b"[]",
    b'{"id": 1',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"id": {"a": 1}, "completion": 5, "answer": "7"}',
]


def _score(folder: Path, lines: list[bytes], *options: str) -> list[dict[str, Any]]:
    (folder / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert main(["score", str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl"), *options]) == 0
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_the_table_of_pairs_is_scored_as_bare_answers(tmp_path: Path) -> None:
    pairs = table("pairs")
    lines = [
        json.dumps(
            {"id": number, "completion": row["answer"], "answer": row["gold"]}
            | {k: row[k] for k in ("kind", "choices") if k in row}
        )
        for number, row in enumerate(pairs)
    ]
    scores = _score(tmp_path, [line.encode() for line in lines], "--bare")
    assert [score["id"] for score in scores] == list(range(len(pairs)))
    assert [score["reward"] == 1.0 for score in scores] == [score["outcome"] == "correct" for score in scores]
    assert not [row for row, score in zip(pairs, scores, strict=True) if score["reward"] == 1.0 and not row["right"]]
    assert {score["outcome"] for score in scores if score["reward"] is None} == {"answer_unusable"}


def test_a_line_that_is_no_row_has_a_line_of_its_own(tmp_path: Path) -> None:
    good = [
        json.dumps({"id": id, "completion": render("a", answer), "answer": 7}).encode()
        for id, answer in [("x", "7"), ("y", "8")]
    ]
    cut = json.dumps({"id": "z", "completion": render("a", "7"), "answer": "7", "truncated": True}).encode()
    surrogate = rb'{"id": "s", "completion": "<think>\ud800</think><answer>\ud800</answer>", "answer": "7"}'
    scores = _score(tmp_path, [good[0], *ODD, surrogate, cut, good[1]])
    assert len(scores) == len(ODD) + 4
    assert scores[0] == {"id": "x", "reward": 1.0, "outcome": "correct"}
    assert scores[-2] == {"id": "z", "reward": 0.0, "outcome": "truncated"}
    assert scores[-1] == {"id": "y", "reward": 0.0, "outcome": "wrong"}
    assert {score["outcome"] for score in scores[1:-2]} <= {"answer_unusable", "malformed"}
    assert all(score["reward"] in {None, 0.0} for score in scores[1:-2])


def test_a_reward_of_ones_own_is_tried_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def short(completions, unit, **k):\n    return [len(c[0]['content']) / unit for c in completions]\n"
    )
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 1, "completion": render("a", "7"), "answer": "7"}) + "\n")
    command = [
        sys.executable,
        "-m",
        "rewards",
        "score",
        str(tmp_path / "in.jsonl"),
        "--out",
        str(tmp_path / "out.jsonl"),
    ]
    run = subprocess.run(
        [*command, "--reward", f"{tmp_path}/mine.py:short", "--argument", "unit=10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    length = len(render("a", "7"))
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"id": 1, "reward": length / 10, "outcome": "correct"}
    assert "over 1 lines (correct 1)" in run.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reward", "acuracy"], "Did you mean 'accuracy'"),
        (["--reward", "brevity"], "missing 1 required positional argument: 'budget'"),
        (["--reward", "none.py:f"], "no file"),
    ],
)
def test_a_reward_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 1, "completion": "a", "answer": "7"}) + "\n")
    assert main(["score", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("ERROR ")
