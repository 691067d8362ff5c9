"""`python -m rewards score`: one line out for each line in, whatever the line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewards.__main__ import main
from rewards.response import render
from tests.support.inputs import jsonl, line
from tests.support.reports import RIGHT, WRONG, rollout, save_rollouts
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
        (["--reward", "format", "--argument", "budget"], "--argument 'budget': write NAME=VALUE"),
        (["--argument", "kind=math"], "--argument kind: a reward gets 'kind' with each line"),
        (["--argument", "truncated=true"], "--argument truncated: a reward gets 'truncated' with each line"),
        (["--argument", "log_metric=1"], "--argument log_metric: a reward gets 'log_metric' with each line"),
        (["--argument", "budget=1"], "takes no argument 'budget'"),
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
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("ERROR ")


# --- what is written --------------------------------------------------------------------------------------------------

ROW = {"id": 1, "completion": RIGHT, "answer": "4"}


def _main(source: str | Path, out: str | Path, *options: str) -> int:
    return main(["score", str(source), "--out", str(out), *options])


@pytest.mark.parametrize("name", ["in.jsonl", "./in.jsonl", "../{folder}/in.jsonl", "symbolic.jsonl", "hard.jsonl"])
def test_the_input_is_not_written_over_by_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "in.jsonl", [ROW])
    before = (tmp_path / "in.jsonl").read_bytes()
    Path("symbolic.jsonl").symlink_to("in.jsonl")
    Path("hard.jsonl").hardlink_to("in.jsonl")
    files = sorted(tmp_path.iterdir())
    assert _main(tmp_path / "in.jsonl", name.format(folder=tmp_path.name)) == 2
    assert capsys.readouterr().err.endswith("is the input itself; name another file\n")
    assert ((tmp_path / "in.jsonl").read_bytes(), sorted(tmp_path.iterdir())) == (before, files)


FAILS_AT_THE_SECOND_CHUNK = """
def late(completions, id, **columns):
    if 1 not in id:
        raise KeyError("late")
    return [1.0 for _ in completions]
"""


def test_a_failure_leaves_an_earlier_file_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(FAILS_AT_THE_SECOND_CHUNK)
    jsonl(tmp_path / "in.jsonl", [{**ROW, "id": number} for number in range(1100)])
    (tmp_path / "out.jsonl").write_text("earlier")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert _main(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--reward", f"{tmp_path}/mine.py:late") == 2
    assert "KeyError: 'late'" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "earlier"
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {*files}


def test_a_link_keeps_pointing_to_the_file_that_is_written(tmp_path: Path) -> None:
    jsonl(tmp_path / "in.jsonl", [ROW])
    (tmp_path / "out.jsonl").symlink_to("target.jsonl")
    assert _main(tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").is_symlink()
    assert json.loads((tmp_path / "target.jsonl").read_text())["reward"] == 1.0


def test_scores_are_written_to_a_pipe_and_behind_what_stdout_has(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rewards", "score", "/dev/stdin", "--out", "/dev/stdout"]
    run = subprocess.run(command, cwd=ROOT, input=json.dumps(ROW), capture_output=True, text=True)
    assert json.loads(run.stdout) == {"id": 1, "reward": 1.0, "outcome": "correct"}, run.stderr
    (tmp_path / "all.txt").write_text("first\n")
    with (tmp_path / "all.txt").open("a") as stdout:
        subprocess.run(command, cwd=ROOT, input=json.dumps(ROW), stdout=stdout, text=True, check=True)
    assert (tmp_path / "all.txt").read_text() == f"first\n{run.stdout}"


@pytest.mark.parametrize(("out", "said"), [("none/out.jsonl", "there is no folder"), ("", "is a folder; name a file")])
def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    jsonl(tmp_path / "in.jsonl", [ROW])
    assert _main(tmp_path / "in.jsonl", tmp_path / out) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


# --- what is read -----------------------------------------------------------------------------------------------------


def test_an_evaluations_completions_are_scored_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passes = [(RIGHT, {}), (WRONG, {}), (RIGHT, {"sample": 1}), ("4", {"image_removed": True})]
    rows = [line("a", "", text=text, kind=None, choices=None, truncated=False, **more) for text, more in passes]
    source = jsonl(tmp_path / "completions.jsonl", rows)
    assert _main(source, tmp_path / "out.jsonl") == 0
    scores = [json.loads(score) for score in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(score["id"], score["reward"]) for score in scores] == [("a", 1.0), ("a", 0.0), ("a", 1.0), ("a", 0.0)]
    assert capsys.readouterr().err.splitlines() == [
        "completions.jsonl: completions of an evaluation, 4 lines (2 greedy, 1 sampled, 1 image removed)",
        "accuracy: mean 0.5000 over 4 lines (correct 2, wrong 1, malformed 1)",
        "accuracy, greedy: mean 0.5000 over 2 lines (correct 1, wrong 1)",
        "accuracy, sampled: mean 1.0000 over 1 lines (correct 1)",
        "accuracy, image removed: mean 0.0000 over 1 lines (malformed 1)",
    ]


def test_the_rollouts_of_a_stage_are_scored_as_the_trainer_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rl").mkdir()
    rows = [rollout("a", RIGHT, 1.0), rollout("a", WRONG, 0.0), rollout("b", "4", None)]
    save_rollouts(tmp_path, 7, rows)
    assert _main(tmp_path / "rl" / "completions" / "completions_00007.parquet", tmp_path / "out.jsonl") == 0
    scores = [json.loads(score) for score in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(score["id"], score["reward"]) for score in scores] == [("a", 1.0), ("a", 0.0), ("b", 0.0)]
    assert capsys.readouterr().err.splitlines() == [
        "completions_00007.parquet: rollouts of a GRPO stage, 3 lines",
        "it has no column kind, choices: worked out from the answers",
        "it has no column truncated: no line counts as cut off",
        "accuracy: mean 0.3333 over 3 lines (correct 1, wrong 1, malformed 1)",
    ]


def test_lines_without_a_completion_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _score(tmp_path, [json.dumps(ROW).encode(), b"", b"{", b'{"id": 2, "answer": "4"}'])
    first, second = capsys.readouterr().err.splitlines()
    assert first == "in.jsonl: JSON lines, 4 lines (2 unreadable, 1 without a completion)"
    assert second == "accuracy: mean 0.2500 over 4 lines (malformed 3, correct 1)"


def test_a_file_of_another_kind_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [{"question": "2+2?", "answer": "4"}])
    (tmp_path / "out.jsonl").write_text("earlier")
    assert _main(source, tmp_path / "out.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ERROR {source}: rows without a completion (their keys: question, answer). Read here: ")
    assert error.count("\n") == 1
    assert (tmp_path / "out.jsonl").read_text() == "earlier"
    assert len([*tmp_path.iterdir()]) == 2


# --- what a line is worth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--bare"], ["--reward", "format"]], ids=" ".join)
def test_an_unknown_kind_is_never_paid(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    kinds = [None, "", "number", "multiple_choice", ["text"], 1]
    completion = "4" if "--bare" in options else RIGHT
    source = jsonl(
        tmp_path / "in.jsonl", [{**ROW, "id": n, "completion": completion, "kind": k} for n, k in enumerate(kinds)]
    )
    assert _main(source, tmp_path / "out.jsonl", *options) == 2
    scores = [json.loads(score) for score in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [score["id"] for score in scores] == [0, 1, 2, 3, 4, 5]
    assert {score["outcome"] for score in scores[:3]} == {"correct"}
    assert all(score["reward"] is None and score["outcome"] == "answer_unusable" for score in scores[3:])
    *_, said = capsys.readouterr().err.splitlines()
    assert said == (
        f"ERROR {source}: 3 lines have an unknown kind and get no reward; the first is line 4: 'multiple_choice'. "
        "Known: choice, text, number, math"
    )


def test_the_mean_is_over_the_lines_that_have_a_reward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unusable = {**ROW, "answer": ""}
    _score(tmp_path, [json.dumps(row).encode() for row in (ROW, unusable, {**ROW, "completion": WRONG})])
    assert "accuracy: mean 0.5000 over 2 lines (correct 1, answer_unusable 1, wrong 1); 1 without a reward" in (
        capsys.readouterr().err
    )
    _score(tmp_path, [json.dumps(unusable).encode()])
    assert "accuracy: no mean, none of 1 lines has a reward (answer_unusable 1)" in capsys.readouterr().err


def test_an_argument_and_a_column_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trainer hands both to the function, where the column would take the argument's place."""
    (tmp_path / "mine.py").write_text("def f(completions, unit, **columns):\n    return [unit] * len(completions)\n")
    source = jsonl(tmp_path / "in.jsonl", [ROW, {**ROW, "unit": 1}])
    use = ["--reward", f"{tmp_path}/mine.py:f", "--argument", "unit=10"]
    assert _main(source, tmp_path / "out.jsonl", *use) == 2
    assert capsys.readouterr().err.startswith("ERROR --argument unit: a reward gets 'unit' with each line")
    assert _main(jsonl(tmp_path / "in.jsonl", [ROW]), tmp_path / "out.jsonl", *use) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["reward"] == 10


def test_a_bare_answer_that_was_cut_off_is_not_paid(tmp_path: Path) -> None:
    row = {**ROW, "completion": "4", "truncated": True}
    assert _score(tmp_path, [json.dumps(row).encode()], "--bare") == [{"id": 1, "reward": 0.0, "outcome": "truncated"}]


def test_the_command_starts_without_heavy_libraries() -> None:
    heavy = ["torch", "transformers", "datasets", "pyarrow", "pandas", "numpy", "trl", "sympy"]
    program = f"import sys, rewards.__main__; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
