"""Conversations keep their turns or are refused; responses of several forms are trace and answer."""

from typing import Any

import pytest

from eval.data.images import BadRow
from eval.data.turns import Tags, content, one_exchange, response, turns

ASKED, REPLIED = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}


@pytest.mark.parametrize(
    "value",
    [
        [ASKED, REPLIED],
        [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}],
        [{"from": "user", "value": "?", "role": None}, {"from": "assistant", "value": "!"}],
        [{"role": "User", "content": "?"}, {"role": "model", "content": "!"}],
        [{"from": "human", "content": "?"}, {"role": "assistant", "value": "!"}],
        '[\n {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]',
        '[{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]',
        [{"role": "system", "content": ""}, ASKED, REPLIED],
    ],
    ids=repr,
)
def test_an_exchange_is_read_by_whatever_names(value: Any) -> None:
    system, asked, reply = one_exchange(turns(value, "user"))
    assert (system, asked["content"], (reply or {})["content"]) == ("", "?", "!")


@pytest.mark.parametrize(
    "value",
    [
        [ASKED, REPLIED, ASKED, REPLIED],
        [ASKED, {"role": "tool", "content": "42"}, REPLIED],
        [ASKED, {"from": "observation", "value": "42"}, REPLIED],
        [REPLIED],
        [REPLIED, ASKED],
        [ASKED, ASKED],
        [ASKED, REPLIED, {"role": "system", "content": "Be brief."}],
        [],
        ["?"],
        [{"content": "?"}],
        '[{"role": broken',
    ],
    ids=repr,
)
def test_other_turns_are_refused(value: Any) -> None:
    with pytest.raises(BadRow) as caught:
        one_exchange(turns(value, "user"))
    assert caught.value.code == "turns"


def test_a_system_prompt_is_told_apart() -> None:
    system, asked, reply = one_exchange(turns([{"role": "system", "content": "70 kg."}, ASKED], "user"))
    assert (system, asked["content"], reply) == ("70 kg.", "?", None)


@pytest.mark.parametrize(
    ("parts", "text", "images"),
    [
        ([{"type": "image"}, {"type": "text", "text": "?"}], "<image>?", []),
        ([{"text": "", "image": "a.png"}, {"text": "?"}], "<image>?", ["a.png"]),
        ([{"type": "text", "text": "?", "image": "a.png"}], "<image>?", ["a.png"]),
        ({"type": "text", "text": "?"}, "?", []),
        ([{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}], "<image>?", ["a.png"]),
        ([{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "?"}], "<image>?", ["a.png"]),
        ([{"type": "image_url", "image_url": "a.png"}], "<image>", ["a.png"]),
        ([{"type": "image", "path": "a.png"}, {"text": "?"}], "<image>?", ["a.png"]),
        ([{"type": "text", "text": "?", "image": None}], "?", []),
        (
            [{"type": "text", "text": "a", "image": None}, {"type": "image", "text": None, "image": "b"}],
            "a<image>",
            ["b"],
        ),
        ([{"type": "image", "image": {"bytes": b"x", "path": None}}], "<image>", [{"bytes": b"x", "path": None}]),
        (["?", {"type": "image", "base64": "aaaa"}], "?<image>", ["aaaa"]),
    ],
    ids=repr,
)
def test_parts_are_text_with_marks_and_the_images_that_they_hold(parts: Any, text: str, images: list[Any]) -> None:
    assert content({"content": parts}) == (text, images)


def test_a_part_of_another_type_is_refused() -> None:
    with pytest.raises(BadRow, match="of type 'video'"):
        content({"content": [{"type": "video", "video": "a.mp4"}]})


@pytest.mark.parametrize(
    ("text", "think", "answer", "notes"),
    [
        ("<think>a</think><answer>7</answer>", "a", "7", []),
        ("<think>\na\n</think>\n\n\\boxed{7}", "a", "7", []),
        ("<think>a</think>\n**Final Answer:**  \n\\(\\boxed{\\frac{1}{2}}\\)", "a", r"\frac{1}{2}", []),
        ("<think>a</think>\nFirst \\boxed{1}, so\nit is \\boxed{2}.", "a", "2", ["text_beside_answer"]),
        ("<think>a</think>\nTo find it we add.\n\nFinal answer: 7", "a", "7", ["text_beside_answer"]),
        ("<think>a</think>\nB", "a", "B", []),
        ("<think>a</think>\n$$\nx=7\n$$", "a", "x=7", []),
        ("<think>a</think>\nThe answer is 7.\n\nLet me know!", "a", "7", ["text_beside_answer"]),
        ("<think>a</think>\nSo 7.\nDoes that help?", "a", "So 7.", ["text_beside_answer"]),
        ("<think>a</think>\n\\boxed{\\left\\{ x \\right.}", "a", "\\left\\{ x \\right.", []),
        ("<think>a</think>\n\\fbox{7}", "a", "7", []),
        ("<think>a</think>\nIt is \\boxed 7.", "a", "7", ["text_beside_answer"]),
        ("<think>a</think>\n\\boxed{\\boxed{7}}", "a", "7", []),
        (
            "<think>a</think>\n\\boxed{\\frac{1}{2}}, so \\boxed{\\frac{1}{2}}",
            "a",
            "\\frac{1}{2}",
            ["text_beside_answer"],
        ),
        ("<think>a</think>7<|im_end|>", "a", "7", []),
        ("7", None, "7", []),
        ("Final Answer: option C", None, "C", []),
    ],
)
def test_a_response_is_trace_and_answer(text: str, think: str | None, answer: str, notes: list[str]) -> None:
    found = response(text)
    assert (found["think"], found["answer"], found.get("notes", [])) == (think, answer, notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>a", "the response has no </think> and <answer> and </answer>; write"),
        ("a</think>\\boxed{7}", "the response has no <think> and <answer> and </answer>"),
        ("<think>a</think><answer>7", "the response has no </answer>; write"),
        ("<think>a</think>", "nothing follows </think>; an answer is due there"),
        ("Hm. <think>a</think> 7", "the response has no <answer> and </answer>"),
        ("<think>a</think>" + "word " * 80, "the last line has 399 characters, no answer"),
        ("", "the response has no <think> and </think> and"),
    ],
)
def test_a_response_that_cannot_be_read_says_which_tag_is_missing(text: str, said: str) -> None:
    with pytest.raises(BadRow) as caught:
        response(text)
    assert caught.value.code == "missing_tag"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "boxes", [r"\boxed{1} or \boxed{2}", r"\boxed{\frac{1}{2}} or \boxed{\frac{1}{3}}", r"\boxed{1}, \fbox{2}"]
)
def test_a_last_line_with_several_boxes_is_refused(boxes: str) -> None:
    with pytest.raises(BadRow, match="the last line has several boxes"):
        response(f"<think>a</think>\nSo {boxes}.")


def test_other_tags_are_read_where_they_are_named() -> None:
    tags = Tags(think=["REASONING"], answer="CONCLUSION")
    assert response("<REASONING> r </REASONING>\n<CONCLUSION> 7 </CONCLUSION>", tags) == {"think": "r", "answer": "7"}
    for text in (
        "<REASONING>r</REASONING>",
        "<think>a</think><answer>7</answer>",
        "x <REASONING>r</REASONING><CONCLUSION>7</CONCLUSION>",
    ):
        with pytest.raises(BadRow, match="the response is not <REASONING>, <CONCLUSION>"):
            response(text, tags)
    with pytest.raises(BadRow):
        response("<REASONING>r <REASONING>s</REASONING><CONCLUSION>7</CONCLUSION>", tags)
