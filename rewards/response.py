"""The one grammar of a response: the system prompt asking for it, the renderer writing it, the parser reading it.

    <think>REASONING</think><answer>ANSWER</answer>

Loss segments, rewards, evaluation and data checks all use this module, so training and scoring cannot disagree.
The rules are strict (our choice): reinforcement learning finds every lenient one.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

SYSTEM_PROMPT = "Reason inside <think> </think>, then give only the final answer inside <answer> </answer>."

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
MAX_ANSWER_CHARS = 256  # a longer "answer" is a second reasoning trace

_CLOSE = TAGS[1]
_TAG = re.compile("|".join(TAGS))
SPECIAL_TOKEN = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?s>|<eos>|<bos>|<pad>|<end_of_turn>|<start_of_turn>|<unk>|\[/?INST\]"
)
_LOOKALIKE = re.compile(r"<\s*+/?+\s*+(?:think|answer)\b", re.IGNORECASE)  # what a tag might be taken for
_BOX = re.compile(r"\\boxed\b")
EOS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<eos>", "<end_of_turn>")


class Reason(StrEnum):
    """Why a response is malformed; the value is what logs and reports print."""

    MISSING_TAG = "missing_tag"
    REPEATED_TAG = "repeated_tag"
    TAG_ORDER = "tag_order"
    TEXT_OUTSIDE = "text_outside"
    EMPTY_THINK = "empty_think"
    EMPTY_ANSWER = "empty_answer"
    LONG_ANSWER = "long_answer"
    SPECIAL_TOKEN = "special_token"
    LOOKALIKE_TAG = "lookalike_tag"
    SEVERAL_BOXES = "several_boxes"


@dataclass(frozen=True)
class Response:
    """A well-formed response; both parts are stripped of surrounding blanks."""

    think: str
    answer: str


@dataclass(frozen=True)
class Malformed:
    """A text that the grammar rejects."""

    reason: Reason


def render(think: str, answer: str) -> str:
    """Write a response; `parse` reads it back when both parts are non-empty and free of tags."""
    return f"<think>{think}</think><answer>{answer}</answer>"


def parse(text: str) -> Response | Malformed:
    """Read `text`, a completion without its prompt. Never raises; linear in `len(text)`; total on any `str`."""
    text = without_final_eos(text)
    if SPECIAL_TOKEN.search(text):
        return Malformed(Reason.SPECIAL_TOKEN)
    tags = [match.group() for match in _TAG.finditer(text)]
    if len(_LOOKALIKE.findall(text)) > len(tags):
        return Malformed(Reason.LOOKALIKE_TAG)
    if len(tags) != len(set(tags)):
        return Malformed(Reason.REPEATED_TAG)
    if len(tags) != len(TAGS):
        return Malformed(Reason.MISSING_TAG)
    if tuple(tags) != TAGS:
        return Malformed(Reason.TAG_ORDER)
    before, think, between, answer, after = _TAG.split(text)
    if before.strip() or between.strip() or after.strip():
        return Malformed(Reason.TEXT_OUTSIDE)
    think, answer = think.strip(), answer.strip()
    if not any(map(str.isalnum, think)):
        return Malformed(Reason.EMPTY_THINK)
    if not answer:
        return Malformed(Reason.EMPTY_ANSWER)
    if len(answer) > MAX_ANSWER_CHARS:
        return Malformed(Reason.LONG_ANSWER)
    if len(_BOX.findall(answer)) > 1:
        return Malformed(Reason.SEVERAL_BOXES)
    return Response(think, answer)


def without_final_eos(text: str) -> str:
    """The text without the end-of-turn token that stands at its end."""
    text = text.rstrip()
    return next((text.removesuffix(eos) for eos in EOS if text.endswith(eos)), text)


def answer_start(ids: Sequence[int], decode: Callable[[Sequence[int]], str], opened: bool = False) -> int:
    """Where the answer segment begins in a tokenised response: the index of the first token after `</think>`.

    Works on decoded text, since tokenizers merge across tags (`</think><answer>` can hold a token `><`); a token that
    straddles the border belongs to think, where it starts. An unclosed `<think>` makes all tokens think
    (`len(ids)`), a text without either tag makes all of them answer (0).

    Args:
        ids: the response's token ids, T of them.
        decode: token ids to text, special tokens kept.
        opened: the prompt ends with `<think>`, so an unclosed response is thinking even without that tag.
    """
    text = decode(ids)
    if _CLOSE not in text:
        return len(ids) if opened or TAGS[0] in text else 0
    begin = 0
    if text.count(_CLOSE) == 1:  # answers are short: look from the end, in windows, at a few tokens instead of all
        size = 64
        while _CLOSE not in decode(ids[-size:]):
            size *= 2
        begin = max(len(ids) - size, 0)
    lengths = range(len(ids) - begin + 1)
    return begin + bisect_left(lengths, True, key=lambda length: _CLOSE in decode(ids[begin : begin + length]))


def completion_text(completion: str | list[dict[str, str]]) -> str:
    """The text of a completion as TRL hands it to rewards: a string, or a list with one assistant message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


# --- answers in other forms -------------------------------------------------------------------------------------------


def boxes(text: str) -> list[str | None]:
    r"""What stands in each `\boxed{...}` and `\fbox{...}`, to the brace that closes it; None for one that none closes.

    A box in a box counts instead of the outer one; `\boxed 5` is a box too. Linear in `len(text)`.
    """
    found: list[str | None] = []
    begin, depth = -1, 0  # of the box that is open
    for mark in _BOX_MARK.finditer(text):
        if mark["bare"]:
            found.append(mark["bare"].rstrip(".,;"))
        elif mark["box"]:
            begin, depth = mark.end(), 1
        elif mark["brace"] and begin >= 0 and len(mark["escape"]) % 2 == 0:
            depth += 1 if mark["brace"] == "{" else -1
            if depth == 0:
                found.append(text[begin : mark.start()].strip())
                begin = -1
    return [*found, None] if begin >= 0 else found


_BOX_MARK = re.compile(
    r"(?P<box>\\++(?:boxed|fbox)(?![A-Za-z])\s*+"
    r"(?:\{|(?P<bare>[-+]?\d[\d.,/]*+%?|[A-Zb-z](?![A-Za-z])|\\[A-Za-z]++[^\s$]*+)))"
    r"|(?P<escape>\\*+)(?P<brace>[{}])|\\++"
)
