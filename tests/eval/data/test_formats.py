"""Each data format, made small in exactly its own shape, becomes the canonical row."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.data.formats import Format
from eval.data.rows import Source, good, noted, read
from rewards.grading.verify import Outcome, verify
from tests.support import inputs
from tests.support.inputs import jsonl


def test_choices_are_lettered_in_the_question(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "Which?", "answer": "B", "choices": ["dog", "cat"]}])
    [row] = read(Source(path=path))
    assert row["question"] == "Which?\nA. dog\nB. cat"


def test_geometry3k_rows_are_read(tmp_path: Path) -> None:
    row, *_ = read(Source(path=str(inputs.geometry3k(tmp_path, 2))))
    assert (row["question"], row["answer"], row["images"][0].size) == ("Find x in 0.", "0", (56, 56))


def test_both_files_of_vision_r1_cold_are_read(tmp_path: Path) -> None:
    """Their columns, roles, image folders and forms of the answer differ."""
    images = str(tmp_path / "images")
    rows = read(Source(path=str(inputs.mulberry(tmp_path)), format="vision_r1", images=images))
    assert rows["answer"][:] == ["B. cat", "B", "B", "B", "7", "7", "B. cat", "B"]
    assert (rows[0]["id"], rows[0]["question"], rows[0]["think"]) == ("0", "Which one, 0?", "Look at picture 0.")
    assert rows[7]["images"][0].size == (56, 56)
    rows = read(Source(path=str(inputs.llava_cot(tmp_path)), format="vision_r1", images=images))
    assert (rows[3]["id"], rows[3]["question"], rows[3]["answer"]) == ("sqa/3", "How many, 3?", "3")
    assert rows[3]["images"][0].size == (56, 56)


def test_a_row_that_cannot_be_read_keeps_its_place_and_says_why(tmp_path: Path) -> None:
    def conversation(reply: str) -> dict[str, Any]:
        return {"conversations": [{"from": "user", "value": "Which one?"}, {"from": "assistant", "value": reply}]}

    bad = [conversation("<think>Look.</think>"), {"conversations": None}, conversation("")]
    rows = [conversation("<think>Look.</think><answer>Final Answer:B. cat</answer>"), *bad]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = read(Source(path=str(tmp_path / "rows.json"), format="vision_r1"))
    assert found["code"][:] == [None, "missing_tag", "turns", "missing_tag"]
    assert found["id"][:] == ["0", "1", "2", "3"]
    assert good(found)["answer"][:] == ["B. cat"]
    assert "code" not in good(found).column_names


def test_scienceqa_is_a_choice_with_its_hint_as_context(tmp_path: Path) -> None:
    _, row, *_ = read(Source(path=str(inputs.scienceqa(tmp_path)), format="scienceqa"))
    assert row["question"] == "Context: It purrs.\nWhich is 1?\nA. dog\nB. cat"
    assert (row["answer"], row["kind"], row["choices"]) == ("B", "choice", ["dog", "cat"])
    assert row["images"][0].size == (56, 56)


def test_iconqa_has_three_kinds_of_question(tmp_path: Path) -> None:
    blank, words, numbers, pictures = read(Source(path=str(inputs.iconqa(tmp_path)), format="iconqa"))
    assert (blank["question"], blank["answer"], blank["choices"], len(blank["images"])) == ("How many?", "4", None, 1)
    assert (words["question"], words["answer"]) == ("Which?\nA. square\nB. circle", "B")
    assert (numbers["choices"], numbers["answer"]) == (["1,000", "2,000"], "B")
    assert (pictures["question"], pictures["answer"]) == ("Which picture?\nA. image 2\nB. image 3", "B")
    assert len(pictures["images"]) == 3
    assert [row["kind"] for row in (blank, words, numbers, pictures)] == [None, "choice", "choice", "choice"]


@pytest.mark.parametrize("shape", ["messages", "thinking", "prompt-completion", "plain", "prompt-answer"])
def test_trls_conversations_are_read(tmp_path: Path, shape: str) -> None:
    rows = read(Source(path=str(inputs.conversations(tmp_path, shape)), format="messages"))
    assert (rows[2]["question"], rows[2]["answer"]) == ("What is 2 plus 1?", "3")
    assert rows[2].get("think") == (None if shape == "prompt-answer" else "Add one to 2.")


def test_only_one_question_and_one_response_are_read(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "?"}
    path = jsonl(tmp_path / "rows.jsonl", [{"messages": [turn, turn]}, {"messages": []}, {"messages": ["?"]}])
    assert read(Source(path=path, format="messages"))["code"][:] == ["turns"] * 3


@pytest.mark.parametrize("format", ["rows", "messages", "vision_r1", "scienceqa", "iconqa"])
def test_missing_columns_are_named_with_those_found(tmp_path: Path, format: Format) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"text": "hello"}])
    with pytest.raises(ValueError, match=r"needs the columns .* missing: .* found: text"):
        read(Source(path=path, format=format))


def test_the_format_that_would_read_the_columns_is_named(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "7"}]
    path = jsonl(tmp_path / "rows.jsonl", [{"conversations": turns}])
    with pytest.raises(ValueError, match=r"found: conversations\. `format: messages or vision_r1` reads these"):
        read(Source(path=path))


def test_gsm8k_has_its_answer_after_the_mark(tmp_path: Path) -> None:
    solution = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 1,072"
    rows = [{"question": "How many?", "answer": solution}, {"question": "How many?", "answer": "72"}]
    found = read(Source(path=jsonl(tmp_path / "rows.jsonl", rows), format="gsm8k"))
    assert (found[0]["answer"], found[0]["kind"]) == ("1,072", "number")
    assert found[0]["think"] == "Natalia sold 48/2 = 24 clips in May.\nIn all 48+24 = 72."
    assert found["code"][:] == [None, "no_final_answer"]
    assert verify("1072", found[0]["answer"], "number") is Outcome.CORRECT


def test_math_has_its_answer_in_the_last_box_or_in_a_column(tmp_path: Path) -> None:
    rows = [
        {
            "problem": "Half?",
            "level": "Level 1",
            "type": "Algebra",
            "solution": r"\boxed{2}, so $\boxed{\frac{1}{2}}$.",
        },
        {"problem": "Half?", "solution": r"So \boxed{2}.", "answer": r"\frac{1}{2}", "unique_id": "test/a.json"},
        {"problem": "Half?", "solution": r"So \boxed{\frac{1}{2}."},
    ]
    found = read(Source(path=jsonl(tmp_path / "rows.jsonl", rows), format="math"))
    assert found["answer"][:2] == [r"\frac{1}{2}"] * 2
    assert found["id"][:] == ["0", "test/a.json", "2"]
    assert found["code"][:] == [None, None, "no_final_answer"]
    assert (found[0]["question"], found[0]["solution"]) == ("Half?", rows[0]["solution"])


# --- images and their marks -------------------------------------------------------------------------------------------

A, B = "a.png", "b.png"


def _read(tmp_path: Path, row: dict[str, Any], **settings: Any) -> dict[str, Any]:
    for number, name in enumerate((A, B)):
        inputs.picture(tmp_path / name, number)
    path = jsonl(tmp_path / "rows.jsonl", [row])
    [found] = read(Source.model_validate({"path": path, **settings}))
    return found


@pytest.mark.parametrize(
    ("row", "question", "images"),
    [
        ({"question": "<image>?", "images": [A]}, "?", 1),
        ({"question": "<image>?", "image": A}, "?", 1),
        ({"question": "?", "image": A}, "?", 1),
        ({"question": "?", "images": A}, "?", 1),
        ({"question": "<image><image>?", "images": [A, B]}, "?", 2),
        (
            {"question": "<image 1> or <image 2>?", "image_1": A, "image_2": B, "image_3": None},
            "image 1 or image 2?",
            2,
        ),
        ({"question": "<image 1> What? <image 1>", "image_1": A}, "What?", 1),
        ({"question": "<img>a.png</img>?"}, "?", 1),
        ({"question": "<img>a.png</img>?", "images": [A]}, "?", 1),
        ({"question": "?"}, "?", 0),
        ({"question": "?", "images": []}, "?", 0),
        ({"question": "?", "image": ""}, "?", 0),
        ({"question": "?", "images": [None, {"bytes": None, "path": None}]}, "?", 0),
        ({"question": "?", "images": '["a.png", "b.png"]'}, "?", 2),
        ({"question": "?", "images": [A], "image": A}, "?", 1),
        ({"question": "<image><image>\nSame?", "images": [A, B]}, "Same?", 2),
        ({"question": "Compare <image> with <image>.", "images": [A, B]}, "Compare image 1 with image 2.", 2),
        ({"question": "Q", "choices": ["<image>", "<image>"], "images": [A, B]}, "Q\nA. image 1\nB. image 2", 2),
    ],
    ids=repr,
)
def test_a_rows_images_are_those_that_its_text_marks(
    tmp_path: Path, row: dict[str, Any], question: str, images: int
) -> None:
    found = _read(tmp_path, {**row, "answer": "A" if "choices" in row else "7"})
    assert (found["question"], len(found.get("images") or [])) == (question, images)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "<image>?"},
        {"question": "<image>?", "images": []},
        {"question": "<image>?", "images": None},
        {"question": "<image>?", "image": ""},
        {"question": "<image><image>?", "images": [A]},
        {"question": "<image>?", "images": [A, B]},
        {"question": "<image 1> and <image 2>?", "image_1": A},
        {"question": "<image>?", "photo": A},
        {"question": "<image> <image 1>", "images": [A]},
        {"question": "<image 1> and <image 3>?", "images": [A, B]},
        {"question": "?", "image": A, "images": [B]},
        {"question": "?", "image": A, "image_2": B},
        {"question": "<img>a.png</img><img>b.png</img>?", "images": [A]},
    ],
    ids=repr,
)
def test_marks_and_images_that_do_not_agree_are_a_problem_of_the_row(tmp_path: Path, row: dict[str, Any]) -> None:
    assert _read(tmp_path, {**row, "answer": "7"})["code"] == "image_marks"


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"question": "<video>?"}, {}),
        ({"question": "?", "videos": ["a.mp4"]}, {}),
        ({"question": ["?"]}, {}),
        ({"question": {"stem": "?"}}, {}),
        ({"question": "?", "r": ["<think>a</think>"]}, {"columns": {"response": "r"}}),
    ],
)
def test_what_is_no_text_or_image_is_refused(tmp_path: Path, row: dict[str, Any], settings: dict[str, Any]) -> None:
    assert _read(tmp_path, {**row, "answer": "7"}, **settings)["code"] == "row_shape"


def test_a_conversation_beside_another_is_refused_until_one_is_named(tmp_path: Path) -> None:
    row = {"prompt": "a?", "messages": [{"role": "user", "content": "b?"}], "answer": "7"}
    assert _read(tmp_path, row, format="messages")["code"] == "turns"
    assert _read(tmp_path, row, format="messages", columns={"messages": "messages"})["question"] == "b?"


def test_images_in_the_parts_of_a_message_reach_the_row(tmp_path: Path) -> None:
    def asked(*parts: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}], "answer": "7"}

    held, place = {"type": "image", "image": A}, {"type": "image"}
    for row, images in (
        (asked(held), 1),
        (asked(held, {"type": "image_url", "image_url": {"url": B}}), 2),
        ({**asked(place), "images": [A]}, 1),
        ({**asked(held), "images": [A]}, 1),
    ):
        found = _read(tmp_path, row, format="messages")
        assert (found["question"], len(found["images"])) == ("?", images)
    for row in (asked(place), {**asked(held), "images": [A, B]}):
        assert _read(tmp_path, row, format="messages")["code"] == "image_marks"


# --- what a recipe says of columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_columns_win_over_a_column_of_that_name_wherever_it_stands(tmp_path: Path, order: int) -> None:
    row = dict(
        [("question", "a?"), ("answer", "long"), ("final", "7"), ("problem", "b?"), ("image", B), ("pic", A)][::order]
    )
    columns = {"answer": "final", "question": "problem", "images": "pic"}
    found = _read(tmp_path, row, columns=columns)
    assert (found["question"], found["answer"]) == ("b?", "7")
    assert (
        found["images"][0].tobytes()
        == _read(tmp_path, {"question": "?", "answer": "7", "images": [A]})["images"][0].tobytes()
    )
    swapped = _read(tmp_path, {"question": "7", "answer": "b?"}, columns={"question": "answer", "answer": "question"})
    assert (swapped["question"], swapped["answer"]) == ("b?", "7")


@pytest.mark.parametrize(
    ("path", "answer"),
    [("m.truth", "7"), ("m.all.0", "7"), ("m.all.1", "8"), ("m.deep.er", "9"), ("list.0", "1"), ("dotted.name", "5")],
)
def test_a_part_of_a_column_is_named_with_dots(tmp_path: Path, path: str, answer: str) -> None:
    row = {
        "question": "?",
        "m": {"truth": "7", "all": ["7", "8"], "deep": {"er": 9}},
        "list": ["1"],
        "dotted.name": "5",
    }
    assert _read(tmp_path, row, columns={"answer": path})["answer"] == answer


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"columns": {"picture": "x"}},
            r"'picture' is no name of format 'rows'; It reads|'picture' is no name of format 'rows'",
        ),
        ({"columns": {"answers": "x", "thnk": "y"}}, "'answers' is no name of format 'rows'; did you mean 'answer'"),
        ({"columns": {"prompt": "x"}}, "'prompt' is no name of format 'rows'"),
        ({"columns": {"answer": "nowhere"}}, "missing: nowhere; found: question, answer"),
        ({"columns": {"answer": "nowhere.part"}}, "missing: nowhere.part"),
        ({"format": "gsm8k", "answer_is": "index"}, "format 'gsm8k' knows what its answers are"),
        ({"format": "gsm8k", "tags": {"think": ["A"], "answer": "B"}}, "format 'gsm8k' has no responses with tags"),
    ],
    ids=repr,
)
def test_settings_that_would_be_ignored_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _read(tmp_path, {"question": "?", "answer": "7"}, **settings)


def test_a_response_in_a_column_is_read_where_it_is_named_alone(tmp_path: Path) -> None:
    row = {"question": "?", "answer": "7", "response": "<think>a</think><answer>8</answer>"}
    found = _read(tmp_path, row)
    assert (found["answer"], found.get("think"), found["response"]) == ("7", None, row["response"])
    found = _read(tmp_path, row, columns={"response": "response"})
    assert (found["answer"], found["think"], found["notes"]) == ("7", "a", ["other_answer"])
    del row["answer"]
    found = _read(tmp_path, row, columns={"response": "response"})
    assert (found["answer"], found["think"]) == ("8", "a")


def test_what_is_left_out_of_a_row_is_noted(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "70 kg."}, {"role": "user", "content": "?"}]
    turns.append({"role": "assistant", "content": "<think>a</think>We find that \\boxed{7} holds."})
    path = jsonl(tmp_path / "rows.jsonl", [{"messages": turns}, {"messages": turns[1:]}])
    rows = read(Source(path=path, format="messages"))
    assert noted(rows) == {"system_prompt": 1, "text_beside_answer": 2}
    assert "notes" not in good(rows).column_names
