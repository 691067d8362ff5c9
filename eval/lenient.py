"""The answer that a forgiving reader finds in a response of any form. No reward uses it, the scores of `lenient` do."""

import re
from collections import deque

from rewards.response import EOS, MAX_ANSWER_CHARS, SPECIAL_TOKEN, Response, boxes, parse, without_final_eos


def lenient_answer(text: str) -> str:
    r"""What a forgiving reader takes for the answer of any text, "" for nothing (our choice).

    The answer of a well-formed response. Else, of what stands behind `</think>` and before the next question: the last
    `<answer>`, the last box, `#### 72`, the last "the answer is 72" or "B is correct", the option in the first line,
    the last line. Markdown, `$`, a reason behind the answer and a final stop are taken off.
    Never raises; linear in `len(text)`.

    Rewards never use it. A model that is much better under it than under `parse` has learned the answers and not the
    form, or says more than one.
    """
    if isinstance(response := parse(text), Response):
        return response.answer
    solution = _first_solution(text)
    unexplained = _EXPLANATION.split(solution, maxsplit=1)[0]
    readings = (_in_tags, _in_a_box, _behind_hashes, _said, _in_the_first_line)
    named = (answer for part in dict.fromkeys((unexplained, solution)) for read in readings if (answer := read(part)))
    return (next(named, "") or _in_the_last_line(unexplained))[:MAX_ANSWER_CHARS].strip()


_THOUGHT = re.compile(r"</\s?think\s?>", re.IGNORECASE)
_ASKED = "Question|QUESTION|Problem|Exercise|Instruction|Q|User|Human"
_NEXT = re.compile(
    rf"\n[^\w\n]{{0,8}}(?:{_ASKED})(?: ?\d{{1,3}})?[*_ ]{{0,3}}[:.]|(?!\A)(?:{'|'.join(map(re.escape, EOS))})"
)
_HASHES = re.compile(
    r"#### {0,4}([-+$]{0,3}\d[\d.,/]{0,40}(?: ?[a-z%°]\S{0,20}){0,2}|\(?[A-Z]\)?)[ .*]{0,4}$", re.MULTILINE
)


def _first_solution(text: str) -> str:
    """What follows the thoughts, up to the next question, which base models ask themselves."""
    text = _THOUGHT.split(without_final_eos(text), maxsplit=1)[-1].lstrip()
    following = _NEXT.search(text)
    solution = _THOUGHT.split(text[: following.start()] if following else text)[-1]
    if last := _HASHES.search(solution):  # GSM8K's last line; what follows solves another question
        solution = solution[: last.end()]
    solution = SPECIAL_TOKEN.sub(" ", solution).strip()
    has_examples = following or solution.startswith("Q:")
    return re.split("^A:", solution, maxsplit=1, flags=re.MULTILINE)[-1] if has_examples else solution


_EXPLANATION = re.compile(r"\n[^\w\n]{0,8}(?:Explanation|Rationale|Justification)\b")
_TAG_BEGINS = re.compile(r"<\s?answer\b[^<>]{0,40}>", re.IGNORECASE)
_TAG_ENDS = re.compile(r"<\s?/\s?answer\b", re.IGNORECASE)


def _in_tags(text: str) -> str:
    contents = (_TAG_ENDS.split(content, maxsplit=1)[0] for content in reversed(_TAG_BEGINS.split(text)[1:]))
    content = next((content for content in contents if content.strip()), "")
    return _in_a_box(content) or _said(content) or _in_the_first_line(content) or _bare(_plain(content))


def _in_a_box(text: str) -> str:
    return next((box for box in reversed(boxes(text)) if box), "")


def _behind_hashes(text: str) -> str:
    found = _HASHES.search(text)
    return _bare(found[1]) if found else ""


_IS = r"(?:is|are|was|equals|becomes|(?:would|should|must|will|could|might) be)"
_SAID = re.compile(
    r"(?<!this )(?<!that )(?<!your )(?<!to )\b(?:answers?|ans)\b(?:"
    rf"[^.,:=?\n]{{0,40}}?\b{_IS}\b"  # the answer to 3 + 4 is 7
    r"|[ *_'\"`]{0,4}(?:\([^()\n]{0,40}\))?[ *_]{0,4}[:=：]"  # Answer (in cm): 7
    r"|(?= \(?(?-i:[A-Z])\)?(?:[.,*\s]|$)))"  # Answer B
    r"|\b(?:correct|right|best) (?:option|choice) ?(?:is\b|:)"
    r"|^[^\w\n]{0,8}(?:final )?answer[^\w\n]{0,8}$",  # a heading
    re.IGNORECASE | re.MULTILINE,
)
_NAMED = re.compile(
    r"(?<![\w.,])\(?((?-i:[A-H])|[-$]{0,2}\d[\d.,/]{0,20}%?)\)?(?:[.:)] [^.\n]{1,60}?)? is "
    r"(?:correct|the answer|(?:the |our )?(?:final |correct |right |best )(?:answer|option|choice|one))"
    r"(?=[.,;:!\n]|$| because| since)",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(r"(?:correct|incorrect|wrong|helpful|clear|reasonable)\b|[^.!]{0,80}\?", re.IGNORECASE)
_LATEST = 8  # so many of the places that name an answer are looked at, from the end (our choice)


def _said(text: str) -> str:
    for mark in reversed(deque(_SAID.finditer(text), maxlen=_LATEST)):
        said = text[mark.end() : mark.end() + 4 * MAX_ANSWER_CHARS]
        line = next((line for line in said.split("\n") if _bare(_without_lead(line))), "")
        if (answer := _short(line)) and not _NO_ANSWER.match(line.lstrip(" :")):
            return answer
    named = deque(_NAMED.finditer(text), maxlen=1)
    return named[0][1] if named else ""


_OPTION_LINE = re.compile(r"[\s*]*\(?(?:[A-Z](?:[.)]|\W*$)|[B-Z]:)")  # `A:` begins a reply


def _in_the_first_line(text: str) -> str:
    """An option with an explanation below it; options in several lines are the question's."""
    lines = [line for line in text.split("\n") if _bare(line)]
    options = [line for line in lines if _OPTION_LINE.match(line)]
    return _short(lines[0]) if options == lines[:1] and len(lines) > 1 else ""


_ENDS_IN_IT = re.compile(
    r"\b(?:is|are|equals|be) (?:option |choice )?([$\\(]{0,3}[A-H]\)?\$?|[-+$\\(]{0,3}\d[^\s:]*(?: [a-z%°]\S*)?)$"
)


def _in_the_last_line(text: str) -> str:
    lines = [line for line in text.split("\n") if _bare(line)]
    told = [line for line in lines if not line.rstrip().endswith("?")] or lines or [_plain(text)]
    line = _without_lead(told[-1][: 4 * MAX_ANSWER_CHARS])
    if re.match(r"\(?[A-Z][.:)]|[-+$]{0,2}\d", line) and not (len(lines) > 1 and re.match(r"\d+[.)]\s", line)):
        return _short(line)
    line = _bare(_result(line)) or line
    ends = _ENDS_IN_IT.search(line[-MAX_ANSWER_CHARS:])
    return ends[1] if ends else line


# What a line says beside its answer

_MARKDOWN = re.compile(
    r"(?<!\w)(?:\*\*|__)(?=\S)|(?<=\S)(?:\*\*|__)(?!\w)|`|</?\s?(?:answer|think)\b[^<>]{0,40}>?"
    r"|\\(?:boxed|fbox)\s?\{(?:\s?\})?",  # one that is not closed, or empty
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"[\s:=：•∴]*+(?:(?:therefore|thus|then|hence|so|simply|just|exactly|clearly|probably|equal to|given by|as follows"
    r"|the following|option|choice|(?:about|around|roughly|approximately)(?=[\s$\\(]*+[-\d]))\b[\s:,=]*+)*",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"not (?:option )?[($\\]{0,3}(?:[-\d]|[A-Z]\b)(?:.{0,80}?\b(?:it is|it's|but|rather|instead)\b[ ,:]*(.+))?"
)
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)[.:]?|(?<=[A-Z])[.:](?=\s))\s*(.*)")
_EXPLAINED = re.compile(r"[.!?;:,]|\b(?:because|since|as|which|is|are|was|so|I|we|it|this|that|therefore)\b")
_SENTENCE_ENDS = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Dr|Mr|Ms|St|Mt))(?<!\bMrs)[.!?](?=\s+\W{0,3}[A-Z])|(?<=[\d)}$])\.(?=[A-Z])|。"
)
_REASON = re.compile(
    r"(?<=\S)[ ,;(]+(?:because|since|as (?:it|the|we|this|there)|which|so that|due to|where|(?<=, )not)\b"
)
_DELIMITED = re.compile(
    r"\$\$?([^$]+)\$\$?|\\\(((?:(?!\\\)).)+)\\\)|\\\[((?:(?!\\\]).)+)\\\]|\"([^\"]+)\"[\s}]*", re.DOTALL
)


def _plain(text: str) -> str:
    return _MARKDOWN.sub("", text).strip()


def _without_lead(line: str) -> str:
    return _LEAD.sub("", _plain(line), count=1)


def _short(line: str) -> str:
    """The answer that a line begins with, without what is said about it."""
    said = _without_lead(line)
    if denied := _DENIED.match(said):  # not 5, it is 7
        said = denied[1] or ""
    if option := _LETTER.match(said):
        return option[1] if _EXPLAINED.search(option[2].removesuffix(".")) else _bare(said)
    said = _SENTENCE_ENDS.split(said, maxsplit=1)[0]
    reason = _REASON.search(said)
    if reason and re.search(r"\d|^\S+$", said[: reason.start()]):  # but not `the one which floats`
        said = said[: reason.start()]
    return _bare(_result(said))


def _result(line: str) -> str:
    """7, of `3 + 4 = 7`."""
    left, _, right = line.rpartition("=")
    is_sum = re.search(r"(?:^|[\s(])[\d$(][\d\s.,+*/×÷·()$%^-]*$", left[-MAX_ANSWER_CHARS:])
    return right if is_sum and re.match(r"\s*[-$]?\d", right) else line


def _bare(text: str) -> str:
    """`text` without a final stop and without delimiters of mathematics; "" where no sign is left."""
    text = text.strip(" \t\r\n*_:,")
    text = text if text.endswith("..") else text.removesuffix(".")
    if delimited := _DELIMITED.fullmatch(text):
        text = next(filter(None, delimited.groups())).strip().removesuffix(".")
    return text.strip() if re.search(r"[^\s$*_`.:\\\[(]", text) else ""
