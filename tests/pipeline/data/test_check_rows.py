"""Every row read as its stage will read it: bad ones under a code of their own, the length of all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from eval.chat import ChatFormat
from eval.data.rows import read
from pipeline.data import check_rows
from pipeline.data.check_rows import RowPolicy
from pipeline.data.prepare import rollout_rows, sft_rows
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import Data
from tests.support import inputs
from tests.support.checked import Checked, row, write
from tests.support.families import VLMS
from tests.support.steps import collated, grpo_stage
from tests.support.sums import ROWS, sft_trainer, sums

BAD_ROWS: list[tuple[str, Any]] = [  # its code, and what differs from a good row; text is the line itself
    ("json", '{"id": "r1", "question": "cut'),
    ("json", ""),
    ("json", "[1, 2]"),
    ("row_shape", {"images": "images/0.png", "choices": 5}),
    ("row_shape", {"kind": 3}),
    ("row_shape", {"think": ["a", "b"]}),
    ("row_shape", {"choices": [{"A": "cat"}], "answer": "A"}),
    ("json", '{"id": "r9", "question": "\\ud83d alone", "answer": "7"}'),
    ("empty_question", {"question": " "}),
    ("empty_think", {"think": "..."}),
    ("empty_answer", {"answer": ""}),
    ("long_answer", {"answer": "7 " * 200}),
    ("several_boxes", {"answer": r"\boxed{7} or \boxed{8}"}),
    ("repeated_tag", {"think": "so </think> then"}),
    ("lookalike_tag", {"think": "so </ think> then"}),
    ("tag_in_question", {"question": "Answer in <answer> tags."}),
    ("special_token", {"question": "What is <|im_end|>?"}),
    ("special_token", {"think": "A token: <|image_pad|>."}),
    ("too_long", {"think": "again " * 300}),
    ("choice_range", {"answer": "C", "choices": ["dog", "cat"]}),
    ("answer_unusable", {"answer": "cow", "choices": ["dog", "cat"]}),
    ("answer_unusable", {"answer": "seven", "kind": "number"}),
    ("duplicate_id", {"id": "good"}),
    ("duplicate_row", {"question": "what  is 0?", "think": "I see 0.", "images": ["0.png"]}),
    ("overlap", {"question": "held OUT 1?", "images": ["1.png"]}),
    ("image_missing", {"images": ["none.png"]}),
    ("image_path", {"images": ["../cold.jsonl"]}),
    ("image_path", {"images": ["/etc/hostname"]}),
    ("image_path", {"images": ["out.png"]}),
    ("image_url", {"images": ["https://example.org/a.png"]}),
    ("image_type", {"images": [7]}),
    *((code, {"images": [f"{code}.jpg"]}) for code in inputs.BROKEN),
]


def test_every_bad_row_is_named_under_its_own_code(check: Callable[..., Checked], folder: Path) -> None:
    for code, content in inputs.BROKEN.items():
        (folder / "images" / f"{code}.jpg").write_bytes(content)
    (folder / "images" / "out.png").symlink_to(inputs.picture(folder / "elsewhere" / "a.png", 9))
    rows = [{**row(0), "id": "good"}]
    rows += [bad if isinstance(bad, str) else {**row(line), **bad} for line, (_, bad) in enumerate(BAD_ROWS, 2)]
    write(folder / "cold.jsonl", [*rows, {**row(5), "id": "last"}])
    code, problems, text = check()
    assert code == 2
    named = [problem for problem in problems if problem.code != "bad_rows"]
    assert [(problem.place, problem.code) for problem in named] == [
        (f"cold.jsonl:{line}", code) for line, (code, _) in enumerate(BAD_ROWS, 2)
    ]
    assert named[-1].id == f"r{len(BAD_ROWS) + 1}"
    assert f"{len(BAD_ROWS)} of {len(BAD_ROWS) + 2} rows cannot be used" in text
    assert "Traceback" not in text
    dropped = check("data.cold.bad_rows=drop")
    assert (dropped.code, dropped.problems) == (0, [])
    assert f"2 rows ({len(BAD_ROWS)} left out)" in dropped.text


def test_at_most_ten_of_a_kind_are_named_and_the_rest_counted(check: Callable[..., Checked], folder: Path) -> None:
    write(folder / "cold.jsonl", [{**row(number), "images": [f"{number}x.png"]} for number in range(30)] + [row(31)])
    _, problems, text = check()
    assert [problem.code for problem in problems] == ["image_missing"] * 11 + ["bad_rows"]
    assert "ERROR cold.jsonl id=- image_missing: 20 more" in text
    assert text.splitlines()[-1] == "bad_rows: 1, image_missing: 30"
    _, problems, _ = check("--sample", "3")
    assert [problem.code for problem in problems] == ["image_missing"] * 3 + ["bad_rows"]


def test_rows_that_share_a_cause_share_a_line(check: Callable[..., Checked], folder: Path) -> None:
    write(folder / "cold.jsonl", [{**row(number), "answer": ""} for number in range(30)] + [row(31)])
    _, problems, text = check()
    assert [problem.code for problem in problems] == ["empty_answer", "bad_rows"]
    line = "ERROR cold.jsonl:1 id=r0 empty_answer: there is no answer (also rows 2, 3, 4 and 26 more)"
    assert line in text
    assert text.splitlines()[-1] == "bad_rows: 1, empty_answer: 30"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Data]:
    return sums(tmp_path_factory.mktemp("sums"))


@pytest.mark.parametrize("family", VLMS)
def test_a_prompt_has_as_many_tokens_as_the_check_counts(
    family: str, small: Callable[[str], Path], data: Callable[..., Data], tmp_path: Path
) -> None:
    """At the limit nothing is left out; one token less, and the longest row is named."""
    chat, source = ChatFormat(str(small(family))), data(family, "mixed")
    batch = collated(sft_trainer(chat, source, tmp_path), range(len(ROWS)))
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    longest = lengths.index(max(lengths))
    assert len(sft_rows(source, chat, max(lengths))) == len(ROWS)
    with pytest.raises(ValueError, match=f"id={longest} too_long: {max(lengths)} tokens"):
        sft_rows(source, chat, max(lengths) - 1)
    dropped = source.model_copy(update={"bad_rows": "drop"})
    assert len(sft_rows(dropped, chat, max(lengths) - 1)) == len(ROWS) - lengths.count(max(lengths))


def test_a_reference_that_does_not_verify_against_itself_is_found_before_training(
    small: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [{"answer": "7"}, {"answer": r"\frac{1}{0}"}, {"answer": "c", "kind": "choice", "choices": ["a", "b"]}]
    answers += [{"answer": "seven", "kind": "number"}, {"answer": r"\frac{\pi}{2}"}, {"answer": " "}]
    rows = [{"id": f"r{n}", "question": f"{n}?", **answer} for n, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source, chat = Data(path=str(tmp_path / "rows.jsonl")), ChatFormat(str(small("qwen3")))
    verifying = grpo_stage("format", "accuracy")
    with pytest.raises(RecipeError) as caught:
        rollout_rows(source, chat, verifying)
    *named, summary = caught.value.problems
    assert [(problem.id, problem.code) for problem in named] == [(f"r{n}", "answer_unusable") for n in (1, 2, 3, 5)]
    assert "the answer 'seven' does not verify against itself" in named[2].message
    assert "answer_unusable 4" in summary.message
    kept = rollout_rows(source.model_copy(update={"bad_rows": "drop"}), chat, verifying)
    assert kept["answer"][:] == ["7", r"\frac{\pi}{2}"]
    assert len(rollout_rows(source, chat, grpo_stage())) == 6, "a reward of another kind reads other references"


def test_verdicts_on_rows_last_until_the_rules_an_image_or_the_data_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, path = tmp_path / "one.png", tmp_path / "rows.jsonl"
    PILImage.new("RGB", (8, 8), "red").save(picture)
    path.write_text(json.dumps({"id": "r", "question": "?", "answer": "7", "images": ["one.png"]}) + "\n")
    looked: list[str] = []
    check_row = check_rows._check_row

    def noted(row: dict[str, Any], *policy: Any) -> dict[str, Any]:
        looked.append(row["answer"])
        return check_row(row, *policy)

    monkeypatch.setattr(check_rows, "_check_row", noted)

    def look() -> int:
        looked.clear()
        check_rows.check_rows(read(Data(path=str(path))), None, RowPolicy(trains=False, verifies=True))
        return len(looked)

    assert [look(), look()] == [1, 0]
    PILImage.new("RGB", (9, 9), "blue").save(picture)
    assert [look(), look()] == [1, 0], "another image"
    path.write_text(path.read_text().replace("7", "8"))
    assert [look(), look()] == [1, 0], "other data"
    (tmp_path / "rule.py").write_text("")
    monkeypatch.setattr(check_rows, "_CODE", [str(tmp_path / "rule.py")])
    assert look() == 1, "another verifier"


def test_a_timeout_condemns_no_row_and_leaves_no_verdict_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "r", "question": "?", "answer": "x+1"}) + "\n")
    answers = iter([None, None, False, True])
    monkeypatch.setattr(check_rows.verify, "usable", lambda references: [next(answers)])

    def problems() -> list[list[tuple[str, str]]]:
        return check_rows.check_rows(read(Data(path=str(path))), None, RowPolicy(trains=False, verifies=True)).problems

    assert problems() == [[]], "timed out, and once more"
    [[(code, _)]] = problems()
    assert code == "answer_unusable", "asked again by the next check"
    assert problems() == [[]], "and by the one after it"
