"""Conversations: their turns, by whatever names; the images in their parts; think trace and answer of a response."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eval.data.images import BadRow
from rewards.response import MAX_ANSWER_CHARS, TAGS, Malformed, Reason, Response, boxes, parse, without_final_eos

MARK = "<image>"  # where an image stands in a text
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}  # ShareGPT's and others'


class Tags(BaseModel):
    """The tags of a response whose trace is in others than the grammar's: LLaVA-CoT's `REASONING`, `CONCLUSION`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    think: list[str] = Field(min_length=1)  # in order; their texts make the trace
    answer: str


def turns(value: Any, role: str) -> list[dict[str, Any]]:
    """A conversation as messages with `role` and `content`; plain text is one turn of it.

    ShareGPT's `from` and `value` are read, and a conversation that is written as JSON.

    Raises:
        BadRow: it is none.
    """
    if isinstance(value, str):
        if not re.match(r"\s*(?:\[\s*)?\{\s*\"", value):
            return [{"role": role, "content": value}]
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRow("turns", f"the conversation is text, and no valid JSON: {error}") from None
    found = [_turn(turn) for turn in ([value] if isinstance(value, Mapping) else value or [])]
    return [turn for turn in found if turn["role"] != "system" or turn["content"]]


def _turn(turn: Any) -> dict[str, Any]:
    if isinstance(turn, Mapping):
        said = turn.get("content") if turn.get("content") is not None else turn.get("value")
        turn = {**turn, "role": turn.get("role") or turn.get("from"), "content": said}
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        raise BadRow("turns", f"a message has a role and a content (or from and value); this is {turn!r:.60}")
    role = turn["role"].lower()
    return {**turn, "role": ROLES.get(role, role)}


def one_exchange(conversation: list[dict[str, Any]]) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """The system prompt ("" for none), the user's turn and the assistant's, or None.

    Raises:
        BadRow: there are other turns: what they say would be lost.
    """
    roles = [turn["role"] for turn in conversation]
    bare = roles[1:] if roles[:1] == ["system"] else roles
    if bare not in (["user"], ["user", "assistant"]):
        said = ", ".join(roles) or "none"
        raise BadRow(
            "turns", f"the turns are {said:.100}; one user's and one assistant's are read, after a system prompt"
        )
    system, shown = content(conversation[0]) if len(bare) < len(roles) else ("", [])
    if shown or MARK in system:
        raise BadRow("turns", "the system prompt has an image; put it into the question")
    reply = conversation[-1] if bare[1:] else None
    return system.strip(), conversation[-len(bare)], reply


def content(turn: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The text of a message with a mark for each image in its parts, and those images that its parts hold.

    Raises:
        BadRow: a part is neither text nor image.
    """
    body = turn.get("content")
    if body is None or isinstance(body, str | int | float):
        return ("" if body is None else str(body)), []
    texts, images, places = [], list[Any](), []
    for part in [body] if isinstance(body, Mapping) else body:
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(part, Mapping) or (part.get("type") or "text") not in _PARTS:
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise BadRow("turns", f"a part of a message is of type {kind!r:.60}; text and images are read")
        held = _held(part)
        if held is not None or part.get("type", "text") in _PARTS - {"text", None}:
            texts.append(MARK)
            images += [] if held is None else [held]
            places.append(part.get("index"))
        texts.append(str(part.get("text") or ""))
    if any(isinstance(place, int) for place in places) and places != [*range(len(places))]:
        raise BadRow("turns", f"its images are placed out of their order: {places}")
    return "".join(texts), images


_PARTS = {"text", "image", "image_url", "input_image"}


def _held(part: Mapping[str, Any]) -> Any:
    """The image that a part holds, by whichever key; None for a mere place."""
    for key in ("image", "image_url", "url", "path", "bytes", "data", "base64"):
        held = part.get(key)
        if isinstance(held, Mapping) and held.get("url"):
            held = held["url"]
        if held:
            return held
    return None


# --- a response -------------------------------------------------------------------------------------------------------


def response(text: str, tags: Tags | None = None) -> dict[str, Any]:
    """`think` and `answer` of a response, and under `notes` what was left out of it.

    Read are the grammar's tags; `<think>...</think>` and then text whose last box, or whose last line, is the answer;
    the pairs that `tags` names; and text without any tag, which is an answer alone.

    Raises:
        BadRow: it is none of these.
    """
    text = without_final_eos(text)
    if tags is not None:
        return _by_tags(text, tags)
    parsed = parse(text)
    if isinstance(parsed, Response):
        return {"think": parsed.think, "answer": parsed.answer}
    if parsed.reason is Reason.MISSING_TAG:
        present = [tag for tag in TAGS if tag in text]
        if present == [*TAGS[:2]] and text.index(TAGS[0]) < text.index(TAGS[1]) and not text.split(TAGS[0])[0].strip():
            return _after_the_trace(text)
        if not present and text.strip():
            return {"think": None, "answer": final_answer(text.strip())}
    raise BadRow(parsed.reason, explain(parsed, text))


def explain(malformed: Malformed, text: str) -> str:
    """Why a response cannot be read, and what to do."""
    if malformed.reason is Reason.MISSING_TAG:
        missing = " and ".join(tag for tag in TAGS if tag not in text)
        return f"the response has no {missing}; write {''.join(TAGS)}, or name the tags that it has with `tags`"
    return (
        f"the response is malformed: {malformed.reason}; one {TAGS[0]} trace and one {TAGS[2]} in this order are read"
    )


def _after_the_trace(text: str) -> dict[str, Any]:
    """R1's form."""
    think, _, rest = text.partition(TAGS[0])[2].partition(TAGS[1])
    answer = last_box(rest)
    if answer is None:
        answer = _last_said(rest)
    elif len({*boxes(rest.strip().rpartition("\n")[2])}) > 1:
        raise BadRow(Reason.SEVERAL_BOXES, f"the last line has several boxes: {rest.strip()[-60:]!r}")
    if not answer:
        raise BadRow(Reason.MISSING_TAG, f"nothing follows {TAGS[1]}; an answer is due there")
    if len(answer) > MAX_ANSWER_CHARS:
        message = f"after {TAGS[1]} there is no box, and the last line has {len(answer)} characters, no answer"
        raise BadRow(Reason.MISSING_TAG, f"{message}; write {TAGS[2]}...{TAGS[3]} around it")
    spare = re.sub(r"\W|boxed|fbox|final|answer", "", rest, flags=re.IGNORECASE)
    is_more = len(spare) > len(re.sub(r"\W", "", answer))
    return {"think": think.strip(), "answer": answer, "notes": ["text_beside_answer"] if is_more else []}


def _last_said(text: str) -> str:
    """What follows the last "answer is" or "answer:", or else the last line that has a word and asks nothing."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line) and not line.strip().endswith("?")]
    for line in reversed(lines):
        if said := re.search(r"\banswer(?:\*\*)?(?: is\b|:)[\s:*]*(.+)", line, re.IGNORECASE):
            return final_answer(said[1].strip().removesuffix(".").strip("* "))
    return final_answer(lines[-1]) if lines else ""


def _by_tags(text: str, tags: Tags) -> dict[str, Any]:
    names = [*tags.think, tags.answer]
    pattern = r"\s*".join(rf"<{re.escape(name)}>(.*?)</{re.escape(name)}>" for name in names)
    found = re.fullmatch(rf"\s*{pattern}\s*", text, re.DOTALL)
    if not found or any(len(re.findall(rf"<{re.escape(name)}>", text)) != 1 for name in names):
        raise BadRow(
            Reason.MISSING_TAG, f"the response is not <{'>, <'.join(names)}>, each once and nothing beside them"
        )
    *think, answer = (part.strip() for part in found.groups())
    return {"think": "\n\n".join(part for part in think if part), "answer": final_answer(answer)}


def last_box(text: str) -> str | None:
    """What stands in the last `\\boxed{}`; None where there is none, or where the last is not closed."""
    found = boxes(text)
    return found[-1] if found else None


_FINAL = re.compile(r"[\s*]*(?:the )?final answer(?: is)?[\s*]*[:.]?[\s*]*", re.IGNORECASE)
_OPTION = re.compile(r"(?:the )?(?:correct )?option\s*\(?([A-Z])\)?\.?", re.IGNORECASE)
_REPEATED = re.compile(r".+\n\s*answer\s*:\s*(.+)", re.IGNORECASE | re.DOTALL)


def final_answer(answer: str) -> str:
    """What `Final Answer:A. cat`, `Final Answer: option A`, or `A.` with `Answer:A` below it, give as the answer."""
    answer = _FINAL.sub("", answer, count=1) if _FINAL.match(answer) else answer
    if repeated := _REPEATED.fullmatch(answer.strip()):
        answer = repeated[1]
    option = _OPTION.fullmatch(answer.strip())
    return option[1].upper() if option else answer.strip()
