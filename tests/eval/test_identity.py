"""A number belongs to what made it: each ingredient, changed alone, makes the evaluation anew and is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from eval import identity as module
from eval.checkpoint import Checkpoint
from eval.data.rows import Source, read
from eval.files import json_lines
from eval.identity import asked_digest, differences, identity, references_digest
from eval.task import Decoding
from tests.support.evaluations import GREEDY, ROWS, asked, change_weights, run, texts
from tests.support.inputs import jsonl, picture


def test_what_is_stored_is_used_again_while_all_is_as_it_was(
    checkpoint: Checkpoint, sums: Path, tmp_path: Path
) -> None:
    assert asked(checkpoint, sums, tmp_path / "out") == ""
    lines = (tmp_path / "out" / "sums" / "completions.jsonl").stat()
    assert asked(checkpoint, sums, tmp_path / "out") == ""
    assert asked(checkpoint, sums, tmp_path / "out", Decoding(batch_size=1, seed=9)) == "", "nothing is sampled"
    assert (tmp_path / "out" / "sums" / "completions.jsonl").stat().st_mtime_ns == lines.st_mtime_ns


def _sums(sums: Path, **settings: Any) -> None:
    sums.write_text(json.dumps({"name": "sums", "path": "rows.jsonl", "max_new_tokens": 6, **settings}))


def _rewrite(sums: Path, **changes: Any) -> None:
    jsonl(sums.parent / "rows.jsonl", [{**ROWS[0], **changes}, *ROWS[1:]])


CHANGES: dict[str, Callable[[Path, Path], Any]] = {
    "checkpoint (was": lambda model, sums: change_weights(model),
    "rows (was": lambda model, sums: _rewrite(sums, question="What is 9 plus 2?"),
    "max_new_tokens (was 6, is 7)": lambda model, sums: _sums(sums, max_new_tokens=7),
}


@pytest.mark.parametrize("named", CHANGES)
def test_a_change_on_disk_makes_the_evaluation_anew_and_is_named(
    named: str, checkpoint: Checkpoint, model: Path, sums: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked(checkpoint, sums, out)
    before = texts(out)
    CHANGES[named](model, sums)
    said = asked(checkpoint, sums, out)
    assert said.startswith(f"{out / 'sums'}: evaluated anew: {named}")
    assert said.count("\n") == 1
    asked(checkpoint, sums, tmp_path / "fresh")
    assert texts(out) == texts(tmp_path / "fresh") != before
    [kept] = (out / "sums").glob("earlier-*/completions.jsonl")
    assert [line["text"] for line in json_lines(kept)] == before, "hours of decoding are not lost"
    assert asked(checkpoint, sums, out) == ""


@pytest.mark.parametrize(
    ("changes", "decoding", "named"),
    [
        ({"dtype": "bfloat16"}, {}, "dtype (was float32, is bfloat16)"),
        ({"revision": "abc"}, {}, "revision (was None, is abc)"),
        ({"backend": "vllm"}, {}, "backend (was transformers, is vllm)"),
        ({}, {"samples": 2}, "samples (was 0, is 2), temperature (was None, is 1.0), seed (was None, is 0)"),
        ({}, {"limit": 2}, "rows (was"),
    ],
)
def test_a_change_of_the_settings_is_named(
    changes: dict[str, Any], decoding: dict[str, Any], named: str, checkpoint: Checkpoint, sums: Path
) -> None:
    rows = read(Source(path=str(sums.parent / "rows.jsonl")))
    before = identity(checkpoint, rows, 6, GREEDY)
    rows = rows.select(range(decoding.pop("limit", len(rows))))
    now = identity(replace(checkpoint, **changes), rows, 6, GREEDY.model_copy(update=decoding))
    assert ", ".join(differences(before, now).values()).startswith(named)
    assert not differences(now, now)


def test_sampling_settings_count_where_something_is_sampled(checkpoint: Checkpoint, sums: Path) -> None:
    rows = read(Source(path=str(sums.parent / "rows.jsonl")))
    sampled = GREEDY.model_copy(update={"samples": 2})
    before = identity(checkpoint, rows, 6, sampled)
    for change in ({"seed": 5}, {"temperature": 0.5}, {"samples": 3}):
        assert [*differences(before, identity(checkpoint, rows, 6, sampled.model_copy(update=change)))] == [*change]


def test_another_chat_template_is_another_prompt(checkpoint: Checkpoint, model: Path, sums: Path) -> None:
    """Beside being another file of the checkpoint."""
    rows = read(Source(path=str(sums.parent / "rows.jsonl")))
    before = identity(checkpoint, rows, 6, GREEDY)
    checkpoint.chat.processor.chat_template = "Well. " + checkpoint.chat.processor.chat_template
    assert [*differences(before, identity(checkpoint, rows, 6, GREEDY))] == ["prompt"]


def test_mended_references_and_another_grader_grade_what_is_stored_anew(
    checkpoint: Checkpoint, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked(checkpoint, sums, out)
    before = texts(out)
    _rewrite(sums, answer="3")
    monkeypatch.setattr("eval.respond.respond", None)  # nothing is asked
    assert asked(checkpoint, sums, out).startswith(f"{out / 'sums'}: graded anew: references (was ")
    assert [line["gold"] for line in json_lines(out / "sums" / "completions.jsonl")] == ["3", "3", "4"]
    assert texts(out) == before
    assert asked(checkpoint, sums, out) == ""
    monkeypatch.setattr(module, "grader", lambda: "f" * 64)
    assert asked(checkpoint, sums, out).startswith(f"{out / 'sums'}: graded anew: grader (was ")
    assert not [*out.rglob("earlier-*")]


def test_the_grader_is_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed rule of the verifier is another grader; so is another version of math-verify."""
    before = module.grader()
    root = tmp_path / "rewards"
    shutil.copytree(Path(module.rewards.__file__).parent, root)
    monkeypatch.setattr(module.rewards, "__file__", str(root / "__init__.py"))
    assert module.grader() == before
    (root / "grading" / "units.txt").write_text("parsec\n")
    changed = module.grader()
    assert changed != before
    monkeypatch.setattr(module, "_version", lambda name: "9.9")
    assert module.grader() not in (before, changed)


@pytest.mark.parametrize("damage", ["{", "{}", '{"made": {}}', "[]"])
def test_damaged_scores_are_not_believed(damage: str, checkpoint: Checkpoint, sums: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked(checkpoint, sums, out)
    whole = (out / "sums" / "scores.json").read_text()
    (out / "sums" / "scores.json").write_text(damage)
    said = asked(checkpoint, sums, out)
    assert "evaluated anew: " in said
    assert (out / "sums" / "scores.json").read_text() == whole


def test_responses_that_are_not_those_that_were_scored_are_not_believed(
    checkpoint: Checkpoint, sums: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked(checkpoint, sums, out)
    lines = out / "sums" / "completions.jsonl"
    whole = lines.read_bytes()
    for damaged in (whole[:-9], b"", None):
        lines.unlink() if damaged is None else lines.write_bytes(damaged)
        assert "evaluated anew: " in asked(checkpoint, sums, out)
        assert lines.read_bytes() == whole


def test_images_count_by_their_content_and_references_apart(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{n}.png", n + 1) for n in range(2)]
    rows = [{"id": str(n), "question": "Which?", "answer": "A", "images": [str(paths[n])]} for n in range(2)]
    jsonl(tmp_path / "rows.jsonl", rows)
    table = read(Source(path=str(tmp_path / "rows.jsonl")))
    before = asked_digest(table), references_digest(table)
    Image.effect_noise((8, 8), 50).convert("RGB").save(paths[1])
    assert asked_digest(table) != before[0], "another picture under the same name"
    assert references_digest(table) == before[1]
    moved = Dataset.from_list([{"id": "a", "question": "q", "answer": "1", "choices": ["1", "2"]}])
    other = Dataset.from_list([{"id": "a", "question": "q", "answer": "1", "choices": ["2", "1"]}])
    assert asked_digest(moved) == asked_digest(other)
    assert references_digest(moved) != references_digest(other)


# --- the command ------------------------------------------------------------------------------------------------------


def test_another_checkpoint_never_has_the_scores_of_the_first(
    small: Callable[[str], Path], model: Path, sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The same folder, another folder under the same --out, and two that are called alike from where one stands."""
    shutil.copytree(model, tmp_path / "below" / "model")
    change_weights(tmp_path / "below" / "model")
    run(model, "--task", sums, "--out", tmp_path / "out")
    first = texts(tmp_path / "out")
    run(tmp_path / "below" / "model", "--task", sums, "--out", tmp_path / "out")
    assert "evaluated anew: checkpoint (was " in capsys.readouterr().err
    assert texts(tmp_path / "out") != first
    monkeypatch.chdir(tmp_path / "below")
    for place in ("model", "./model", "../model", str(model)):
        run(place, "--task", sums)
    folders = sorted((tmp_path / "below" / "evals").iterdir())
    assert [folder.name.split("-")[0] for folder in folders] == ["model", "model"]
    assert {tuple(texts(folder)) for folder in folders} == {tuple(first), tuple(texts(tmp_path / "out"))}


def test_a_task_of_an_earlier_checkpoint_is_not_shown_as_this_ones(
    model: Path, sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("name: other\npath: rows.jsonl\nmax_new_tokens: 5\n")
    run(model, "--task", other, "--out", tmp_path / "out")
    assert "other" in run(model, "--task", sums, "--out", tmp_path / "out"), "asked of the same before"
    change_weights(model)
    printed = run(model, "--task", sums, "--out", tmp_path / "out")
    assert "other" not in printed
    assert "other: left out, since it is of another checkpoint" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [*results["checkpoints"]["out"]] == ["sums"]


def test_a_rescoring_takes_the_references_as_they_are_now_and_says_where_it_cannot(
    model: Path, sums: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(model, "--task", sums, "--out", out)
    lines = json_lines(out / "sums" / "completions.jsonl")
    said = [{**line, "text": "<think>So.</think><answer>3</answer>", "truncated": False} for line in lines]
    jsonl(out / "sums" / "completions.jsonl", said)
    assert "3 of 3 outcomes differ, the scores do\n" in run(out, "--rescore"), "they were truncated; 1 plus 2 is 3"
    _rewrite(sums, answer="3")
    assert "1 of 3 outcomes differ, the scores do\n" in run(out, "--rescore")
    assert json.loads((out / "sums" / "scores.json").read_text())["accuracy"] == pytest.approx(2 / 3)
    _rewrite(sums, question="Something else?", answer="7")
    assert "graded by the references that were stored: the task asks something else by now" in run(out, "--rescore")
    (sums.parent / "rows.jsonl").unlink()
    assert "0 of 3 outcomes differ, the scores do not; graded by the references that were stored" in run(
        out, "--rescore"
    )
    (out / "sums" / "completions.jsonl").write_text("")
    assert run(out, "--rescore", code=2).endswith("completions.jsonl: no line; there is nothing to grade\n")


@pytest.mark.parametrize(
    "options", [("--limit", "0"), ("--limit", "-3"), ("--samples", "-1"), ("--batch-size", "0"), ("--temperature", "0")]
)
def test_a_setting_that_cannot_be_is_refused(
    options: tuple[str, str], sums: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("anything", "--task", sums, *options)
    assert stopped.value.code == 2
    assert f"argument {options[0]}: '{options[1]}' is no " in capsys.readouterr().err


def test_an_evaluation_that_kept_less_is_graded_anew_and_a_damaged_one_is_named(
    model: Path, sums: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(model, "--task", sums, "--out", out)
    scores = out / "sums" / "scores.json"
    held = json.loads(scores.read_text())
    for kept in (json.dumps({**held, "made": {"task": held["made"]["task"]}}), json.dumps({"n": 3}), None):
        scores.unlink() if kept is None else scores.write_text(kept)
        assert "0 of 3 outcomes differ" in run(out, "--rescore")
        assert json.loads(scores.read_text())["accuracy"] == held["accuracy"]
    scores.write_text("{")
    assert run(out, "--rescore", code=2).startswith(f"ERROR {scores}: damaged, ")
    (out / "sums" / "completions.jsonl").write_text("{\n")
    assert run(out, "--rescore", code=2).startswith(f"ERROR {out / 'sums' / 'completions.jsonl'}: line 1 is no JSON: ")


def test_an_evaluation_that_was_set_aside_is_taken_back_and_none_replaces_another(
    checkpoint: Checkpoint, sums: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked(checkpoint, sums, out)
    whole = (out / "sums" / "completions.jsonl").read_bytes()
    _sums(sums, limit=2)
    assert "evaluated anew: rows (was " in asked(checkpoint, sums, out)
    _sums(sums)
    assert "taken back from earlier-" in asked(checkpoint, sums, out)
    assert (out / "sums" / "completions.jsonl").read_bytes() == whole
    assert asked(checkpoint, sums, out) == ""
    for number in (1, 2):  # damaged alike, and both are kept
        (out / "sums" / "scores.json").write_text("{")
        assert "it is damaged" in asked(checkpoint, sums, out)
        assert len([*(out / "sums").glob("earlier-*")]) == number + 1


def test_completions_without_their_scores_are_set_aside_and_edited_scores_are_not_believed(
    checkpoint: Checkpoint, sums: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked(checkpoint, sums, out)
    scores = out / "sums" / "scores.json"
    held = json.loads(scores.read_text())
    scores.write_text(json.dumps({**held, "accuracy": 0.99}))
    assert "scores.json is not what was written" in asked(checkpoint, sums, out)
    assert json.loads(scores.read_text()) == held
    scores.unlink()
    assert "scores.json is not there" in asked(checkpoint, sums, out)
    assert json.loads(scores.read_text()) == held
    assert len([*out.glob("sums/earlier-*/completions.jsonl")]) == 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda model, out: out.write_text(""), "Not a directory"),
        (lambda model, out: (model / "config.json").write_text("{"), "its config.json cannot be read"),
        (
            lambda model, out: (model / "generation_config.json").write_text("{"),
            "generation_config.json cannot be read",
        ),
        (
            lambda model, out: (model / "generation_config.json").write_text('{"eos_token_id": "x"}'),
            "no number of a token",
        ),
        (lambda model, out: (model / "model.safetensors").write_text("no"), "its weights are damaged"),
        (lambda model, out: (model / "model.safetensors").unlink(), "model.safetensors"),
        (lambda model, out: (model / "adapter_config.json").write_text("[]"), "names no base model"),
    ],
)
def test_what_is_broken_is_one_line(
    broken: Callable[[Path, Path], Any], said: str, model: Path, sums: Path, tmp_path: Path
) -> None:
    broken(model, tmp_path / "out")
    printed = run(model, "--task", sums, "--out", tmp_path / "out", code=2)
    assert printed.startswith("ERROR ")
    assert said in printed
    assert printed.count("\n") == 1


def test_an_evaluation_does_not_change_the_checkpoint_that_it_is_of(model: Path, sums: Path) -> None:
    printed = run(model, "--task", sums, "--out", model / "evals", code=2)
    assert (
        printed
        == f"ERROR --out {model / 'evals'}: lies in the checkpoint's own folder, and would change it; name another\n"
    )
    assert not (model / "evals").exists()
