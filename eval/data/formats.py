"""The formats that data comes in: one function each, from a row of the data to the canonical row (`eval.data.rows`)."""

import re
from collections.abc import Callable, Mapping
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

from eval.data.images import BadRow
from rewards.response import Response, parse

Values = Mapping[str, Any]
Row = dict[str, Any]
Reader = Callable[[Values], Row]

READERS: dict[str, Reader] = {}  # by the name of the format, which is the function's
REQUIRED: dict[str, tuple[str, ...]] = {}  # the columns that each format needs, of every `|` one
# Columns that the canonical row replaces; others stay beside it, for rewards that read them.
REPLACED = {"id", "question", "problem", "image", "images", "answer", "answers", "think", "kind", "choices"}


def reads(*needed: str, also: str = "") -> Callable[[Reader], Reader]:
    """Make the function below a format.

    Args:
        needed: columns that a data set must have; of `a|b`, one.
        also: further columns that it reads, which rewards need not see.
    """

    def register(reader: Reader) -> Reader:
        READERS[reader.__name__], REQUIRED[reader.__name__] = reader, needed
        REPLACED.update(also.split())
        return reader

    return register


def canonical(format: str, values: Values, index: int) -> Row:
    """One row: `id`, `question`, `images` (as named in the data), `answer`, `think`, `kind`, `choices`.

    Raises:
        BadRow: it lacks something, or says what its format cannot.
    """
    row: Row = {
        "id": str(_first(values, "id", "question_id", "unique_id", otherwise=index)),
        "images": _image_list(values),
    }
    row |= {"think": None, "kind": None, "choices": None} | READERS[format](values)
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise BadRow("empty_question", "the question is empty")
    for name in ("think", "kind"):
        if not isinstance(row[name], str | None):
            raise BadRow("row_shape", f"{name} is {row[name]!r:.80}, not text")
    if not all(isinstance(choice, str | int | float) for choice in row["choices"] or []):
        raise BadRow("row_shape", f"choices are {row['choices']!r:.80}, not texts")
    row["choices"] = [str(choice) for choice in row["choices"]] if row["choices"] else None
    return row


@reads("question|problem", "answer")
def rows(values: Values) -> Row:
    """The canonical form itself; all but `question` and `answer` may be absent. geometry3k says `problem`."""
    choices, answer = values.get("choices") or None, _text(values.get("answer"))
    if choices and re.fullmatch(r"[A-Z]", answer) and answer not in choices:
        _letter(ord(answer) - ord("A"), choices)
    return {
        "question": _with_options(_first(values, "question", "problem", otherwise=""), choices),
        "think": values.get("think"),
        "answer": answer,
        "kind": values.get("kind"),
        "choices": choices,
    }


@reads("messages|prompt", also="messages prompt completion")
def messages(values: Values) -> Row:
    """TRL's conversational rows: `messages`, or `prompt` and `completion`; for RL a `prompt` beside an `answer`.

    One question and one response; a system message makes room for the grammar's own.
    """
    turns = [*_turns(values.get("prompt"), "user"), *_turns(values.get("completion"), "assistant")]
    turns = turns or _turns(values.get("messages"), "user")
    roles = [turn["role"] for turn in turns if turn["role"] != "system"]
    if roles not in (["user"], ["user", "assistant"]):
        raise BadRow("turns", f"the turns are {', '.join(roles) or 'none'}; one user's and one assistant's are read")
    by_role = {turn["role"]: turn for turn in turns}
    row: Row = {"question": _without_markers(_content(by_role["user"])), "answer": _text(values.get("answer"))}
    if reply := by_role.get("assistant"):
        thought = reply.get("thinking") or reply.get("reasoning_content")
        if thought:
            return row | {"think": thought, "answer": _content(reply).strip()}
        row |= _response(_content(reply))
    return row


@reads("conversations", also="conversations")
def vision_r1(values: Values) -> Row:
    """Osilly/Vision-R1-cold: both of its files, with their different roles and image columns.

    The question's `<image>` marker and the answer's "Final Answer:" forms are removed.
    """
    turns = {turn["from"]: turn["value"] for turn in values["conversations"]}
    row = _response(_text(_first(turns, "assistant", "gpt", otherwise="")))
    row["answer"] = _final_answer(row["answer"])
    return row | {"question": _without_markers(_text(_first(turns, "user", "human", otherwise="")))}


@reads("question", "choices", "answer", also="hint")
def scienceqa(values: Values) -> Row:
    """lmms-lab's ScienceQA: the hint as context, lettered options, the answer's index as its letter."""
    context = f"Context: {values['hint']}\n" if values.get("hint") else ""
    choices = values["choices"]
    return {
        "question": context + _with_options(values["question"], choices),
        "answer": _letter(values["answer"], choices),
        "kind": "choice",
        "choices": choices,
    }


_CHOICE_IMAGES = [f"choice_image_{number}" for number in range(26)]


@reads("question", "ques_type", "answer|answers", also=f"question_id ques_type query_image {' '.join(_CHOICE_IMAGES)}")
def iconqa(values: Values) -> Row:
    """lmms-lab's IconQA: options in words (`choose_txt`) or images (`choose_img`), or none (`fill_in_blank`)."""
    answer = _text(_first(values, "answer", "answers", otherwise=""))
    images = [values["query_image"]] if values.get("query_image") else []
    match values["ques_type"]:
        case "fill_in_blank":
            return {"question": values["question"], "images": images, "answer": answer}
        case "choose_txt":
            choices = _options(values.get("choices"), answer)
        case "choose_img":
            pictures = [values.get(name) for name in _CHOICE_IMAGES]
            shown = [picture for picture in pictures if picture]
            choices = [f"image {len(images) + number + 1}" for number in range(len(shown))]
            images = [*images, *shown]
            answer = re.sub(r"^choice_(\d+)\.\w+$", r"\1", answer)
        case other:
            raise BadRow("question_type", f"ques_type {other!r:.80}; known: choose_txt, choose_img, fill_in_blank")
    index = choices.index(answer) if answer in choices else int(answer) if answer.isdecimal() else -1
    return {
        "question": _with_options(values["question"], choices),
        "images": images,
        "answer": _letter(index, choices),
        "kind": "choice",
        "choices": choices,
    }


@reads("question", "answer")
def gsm8k(values: Values) -> Row:
    """openai/gsm8k: a solution with `<<48/2=24>>` for a calculator, and the answer after `####`."""
    solution, mark, answer = _text(values["answer"]).rpartition("####")
    if not mark:
        raise BadRow("no_final_answer", "the answer has no line `#### <number>`")
    thought = re.sub(r"<<[^<>]*>>", "", solution).strip()
    return {"question": values["question"], "think": thought, "answer": answer.strip(), "kind": "number"}


@reads("problem", "solution")
def math(values: Values) -> Row:
    """MATH and MATH-500: a solution whose last `\\boxed{}` is the answer; MATH-500 has it in a column too."""
    solution = _text(values["solution"])
    answer = _text(values.get("answer")) or _last_box(solution)
    return {"question": values["problem"], "think": solution, "answer": answer}


if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[tuple(READERS)]


# --- parts of a row ---------------------------------------------------------------------------------------------------


def _first(values: Values, *names: str, otherwise: Any) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), otherwise)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _image_list(values: Values) -> list[Any]:
    """The images of a row that has several under `images`, one under `image`, or none."""
    images = values.get("images") or values.get("image") or []
    return images if isinstance(images, list) else [images]


def _without_markers(question: str) -> str:
    """The question without `<image>`: a prompt's images stand before its text, put there by the chat template."""
    return question.replace("<image>", "").strip()


def _with_options(question: Any, choices: list[str] | None) -> str:
    options = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices or [], strict=False)]
    return "\n".join([_without_markers(_text(question)), *options])


def _letter(index: Any, choices: list[str]) -> str:
    if not isinstance(index, int) or not 0 <= index < min(len(choices), 26):
        raise BadRow("choice_range", f"the answer {index!r:.80} is no index of its {len(choices)} choices")
    return ascii_uppercase[index]


def _options(choices: Any, answer: str) -> list[str]:
    """IconQA writes its options in one string with commas, which may be inside numbers too (`1,000,2,000`)."""
    if not isinstance(choices, str):
        return [str(choice) for choice in choices or []]
    by_comma = [option.strip() for option in choices.split(",")]
    return by_comma if answer in by_comma else re.split(r",\s*(?!\d{3}(?:,|$))", choices)


def _last_box(text: str) -> str:
    """What stands in the last `\\boxed{}`, to the brace that closes it."""
    _, mark, rest = text.rpartition("\\boxed{")
    depth = 1
    for index, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:index]
    raise BadRow(
        "no_final_answer", "the solution has no \\boxed{} that closes" if mark else "the solution has no \\boxed{}"
    )


def _turns(value: Any, role: str) -> list[Row]:
    """A conversation; plain text is one turn of it."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    turns = list(value or [])
    if not all(isinstance(turn, dict) and isinstance(turn.get("role"), str) for turn in turns):
        raise BadRow("turns", "a message has a role and a content")
    return turns


def _content(turn: Row) -> str:
    """The text of a message, which may be in parts; images among them stand in the row's `images`."""
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(_text(part.get("text")) for part in content)
    return _text(content)


def _response(text: str) -> Row:
    response = parse(text)
    if not isinstance(response, Response):
        raise BadRow(response.reason, f"the response is malformed: {response.reason}")
    return {"think": response.think, "answer": response.answer}


_FINAL = re.compile(r"[\s*]*final answer[\s*]*[:.]?[\s*]*", re.IGNORECASE)
_OPTION = re.compile(r"(?:the )?(?:correct )?option\s*\(?([A-Z])\)?\.?", re.IGNORECASE)
_REPEATED = re.compile(r".+\n\s*answer\s*:\s*(.+)", re.IGNORECASE | re.DOTALL)


def _final_answer(answer: str) -> str:
    """What `Final Answer:A. cat`, `Final Answer: option A`, or `A.` with `Answer:A` below it, give as the answer."""
    answer = _FINAL.sub("", answer, count=1) if _FINAL.match(answer) else answer
    if repeated := _REPEATED.fullmatch(answer.strip()):
        answer = repeated[1]
    option = _OPTION.fullmatch(answer.strip())
    return option[1].upper() if option else answer.strip()
