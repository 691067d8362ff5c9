"""The formats that data comes in: one function each, from a row of the data to the parts of a canonical row.

What every format shares is done after it, in `canonical`: images and their marks, options, references, responses.
"""

import ast
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

from eval.data.images import BadRow
from eval.data.options import AnswerIs, chosen, first, letter, options, reference
from eval.data.turns import MARK, Tags, content, final_answer, last_box, one_exchange, response, turns
from rewards.response import TAGS

Values = Mapping[str, Any]
Row = dict[str, Any]
Reader = Callable[[Values], Row]

READERS: dict[str, Reader] = {}  # by the name of the format, which is the function's
REQUIRED: dict[str, tuple[str, ...]] = {}  # the columns that each format needs, of every `|` one
# What every format reads where a row has it.
SHARED = {"id", "image", "images", "think", "kind", "choices"}
# Columns that the canonical row replaces; others stay beside it, for rewards that read them.
REPLACED = SHARED | {"question", "problem", "answer", "answers"}
EXPLICIT = {"response"}  # read only where `columns` names it: elsewhere a column of that name is a model's
# Names of one thing: where `columns` gives one, the data's own columns of the others are not it.
ALIKE = ({"question", "problem"}, {"answer", "answers"}, {"image", "images"}, {"messages", "prompt", "conversations"})
NAMES: dict[str, set[str]] = {}  # of the columns that a format knows, which `columns` may name


@dataclass(frozen=True)
class Reading:
    """What a recipe or a task says of how its rows are read."""

    format: str
    tags: Tags | None = None
    answer_is: AnswerIs | None = None


def reads(*needed: str, also: str = "") -> Callable[[Reader], Reader]:
    """Make the function below a format.

    Args:
        needed: columns that a data set must have; of `a|b`, one.
        also: further columns that it reads, which rewards need not see.
    """

    def register(reader: Reader) -> Reader:
        READERS[reader.__name__], REQUIRED[reader.__name__] = reader, needed
        NAMES[reader.__name__] = {*"|".join(needed).split("|"), *also.split()} | SHARED
        REPLACED.update(also.split())
        return reader

    return register


def canonical(how: Reading, values: Values, index: int) -> Row:
    """One row: `id`, `question`, `images` (as named in the data), `answer`, `think`, `kind`, `choices`, `notes`.

    Raises:
        BadRow: it lacks something, or says what its format cannot.
    """
    row: Row = {
        "id": str(first(values, "id", "question_id", "unique_id", "uuid", "pid", otherwise=index)),
        "images": _image_list(values),
        **{"think": values.get("think"), "kind": values.get("kind"), "choices": values.get("choices"), "notes": []},
    }
    if values.get("system"):
        row["notes"].append("system_prompt")
    row |= READERS[how.format](values)
    if (said := row.pop("response", None)) is not None:
        row |= _told(row, response(said, how.tags))
    if values.get("videos"):
        raise BadRow("row_shape", "the row has videos; images are read")
    for name in ("think", "kind"):
        if not isinstance(row[name], str | None):
            raise BadRow("row_shape", f"{name} is {row[name]!r:.60}, not text")
    return row | _answered(row, how)


def _told(row: Row, read: Row) -> Row:
    """Trace and answer of a response; the row's own reference, where it has one, stays its answer."""
    notes = [*row["notes"], *read.get("notes", [])]
    own = reference(row.get("answer"))
    if own and own.casefold() != read["answer"].casefold():
        notes.append("other_answer")
    return {"think": read["think"] or row["think"], "answer": own or read["answer"], "notes": notes}


def _answered(row: Row, how: Reading) -> Row:
    """The images in their order, the options in the question, and the answer as the one that it names."""
    texts, labels = options(row["choices"])
    question, texts, images = _placed(row["question"], texts or [], row["images"])
    answer = reference(row["answer"])
    if not texts:
        if how.answer_is == "index":
            raise BadRow("choice_range", "the answer is an index, and the row has no options")
        return {"question": question, "answer": answer, "choices": None, "images": images}
    return {
        "question": "\n".join([question, *_lettered(texts)]),
        "answer": chosen(answer, texts, labels, how.answer_is) if answer else "",
        "choices": texts,
        "images": images,
    }


@reads("question|problem", "answer|response")
def rows(values: Values) -> Row:
    """The canonical form itself; all but `question` and `answer` may be absent. geometry3k says `problem`.

    A column `response` has think trace and answer in one text. Options are lettered below the question.
    """
    row: Row = {
        "question": first(values, "question", "problem", otherwise=""),
        "answer": values.get("answer"),
    }
    said = values.get("response")
    if not isinstance(said, str | None):
        raise BadRow("row_shape", f"the response is {said!r:.60}, not text")
    return row if said is None else row | {"response": said}


@reads("messages|prompt|conversations", also="messages prompt conversations completion answer")
def messages(values: Values) -> Row:
    """Conversations: TRL's `messages`, or `prompt` and `completion`; ShareGPT's; for RL a `prompt` beside an `answer`.

    One question and one response; a system message makes room for the grammar's own.
    """
    if len(told := [name for name in ("prompt", "messages", "conversations") if values.get(name)]) > 1:
        raise BadRow("turns", f"the row has {' and '.join(told)}; say which is read: columns: {{{told[1]}: {told[1]}}}")
    conversation = [*turns(values.get("prompt"), "user"), *turns(values.get("completion"), "assistant")]
    for name in ("messages", "conversations"):
        conversation = conversation or turns(values.get(name), "user")
    system, asked, reply = one_exchange(conversation)
    question, held = content(asked)
    row: Row = {"question": question, "answer": values.get("answer"), "notes": ["system_prompt"] if system else []}
    if held:
        row["images"] = _either(held, _image_list(values))
    if reply is None:
        return row
    said, _ = content(reply)
    thought = reply.get("thinking") or reply.get("reasoning_content") or reply.get("reasoning")
    return row | {"response": f"{TAGS[0]}{thought}{TAGS[1]}{said}" if thought else said}


@reads("conversations", also="conversations")
def vision_r1(values: Values) -> Row:
    """Osilly/Vision-R1-cold: both of its files, with their different roles and image columns.

    The answer's "Final Answer:" forms are removed.
    """
    system, asked, reply = one_exchange(turns(values["conversations"], "user"))
    row = response(content(reply or {})[0])
    row["answer"] = final_answer(row["answer"])
    notes = [*row.get("notes", []), *(["system_prompt"] if system else [])]
    return row | {"question": content(asked)[0], "notes": notes}


@reads("question", "choices", "answer", also="hint")
def scienceqa(values: Values) -> Row:
    """lmms-lab's ScienceQA: the hint as context, lettered options, the answer's index as its letter."""
    context = f"Context: {values['hint']}\n" if values.get("hint") else ""
    return {
        "question": context + values["question"],
        "answer": letter(values["answer"], values["choices"]),
        "kind": "choice",
        "choices": values["choices"],
    }


_CHOICE_IMAGES = [f"choice_image_{number}" for number in range(26)]


@reads("question", "ques_type", "answer|answers", also=f"question_id ques_type query_image {' '.join(_CHOICE_IMAGES)}")
def iconqa(values: Values) -> Row:
    """lmms-lab's IconQA: options in words (`choose_txt`) or images (`choose_img`), or none (`fill_in_blank`)."""
    answer = _text(first(values, "answer", "answers", otherwise=""))
    images = [values["query_image"]] if values.get("query_image") else []
    match values["ques_type"]:
        case "fill_in_blank":
            return {"question": values["question"], "images": images, "answer": answer}
        case "choose_txt":
            choices = _by_commas(values.get("choices"), answer)
        case "choose_img":
            pictures = [values.get(name) for name in _CHOICE_IMAGES]
            there = [number for number, picture in enumerate(pictures) if picture]
            shown = [pictures[number] for number in there]
            choices = [f"image {len(images) + number + 1}" for number in range(len(shown))]
            images = [*images, *shown]
            number = re.sub(r"^choice_(\d+)\.\w+$", r"\1", answer)
            answer = str(there.index(int(number))) if number.isdecimal() and int(number) in there else "-"
        case other:
            raise BadRow("question_type", f"ques_type {other!r:.60}; known: choose_txt, choose_img, fill_in_blank")
    index = choices.index(answer) if answer in choices else int(answer) if answer.isdecimal() else -1
    return {
        "question": values["question"],
        "images": images,
        "answer": letter(index, choices),
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


@reads("problem", "solution", also="answer")
def math(values: Values) -> Row:
    """MATH and MATH-500: a solution whose last `\\boxed{}` is the answer; MATH-500 has it in a column too."""
    solution = _text(values["solution"])
    answer = reference(values.get("answer")) or last_box(solution)
    if answer is None:
        why = "has no \\boxed{} that closes" if "\\boxed{" in solution else "has no \\boxed{}"
        raise BadRow("no_final_answer", f"the solution {why}")
    return {"question": values["problem"], "think": solution, "answer": answer}


if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[tuple(READERS)]


# --- parts of a row ---------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _lettered(texts: list[str]) -> list[str]:
    return [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False)]


def _by_commas(choices: Any, answer: str) -> list[str]:
    """IconQA writes its options in one string with commas, which may be inside numbers too (`1,000,2,000`)."""
    if not isinstance(choices, str):
        return [str(choice) for choice in choices or []]
    by_comma = [option.strip() for option in choices.split(",")]
    return by_comma if answer in by_comma else re.split(r",\s*(?!\d{3}(?:,|$))", choices)


# --- images and their marks -------------------------------------------------------------------------------------------

_NUMBERED = re.compile(r"<image[ _]?(\d+)>")  # MMMU's
_NAMED = re.compile(r"<img>(.*?)</img>", re.DOTALL)  # Qwen-VL's
NUMBERED_COLUMN = re.compile(r"image_(\d+)")


def _image_list(values: Values) -> list[Any]:
    """The images of a row under `images`, under `image`, or under `image_1`, `image_2` ...; none if there are none."""
    numbered = sorted((int(match[1]), name) for name in values if (match := NUMBERED_COLUMN.fullmatch(name)))
    places = {name: _listed(values.get(name)) for name in ("images", "image")}
    places["image_1 ..."] = [image for _, name in numbered for image in _listed(values[name])]
    held = {name: images for name, images in places.items() if images}
    if len(held) > 1 and "images" not in held:
        raise BadRow("image_marks", f"the row has images in {' and '.join(held)}; name one: columns: {{images: ...}}")
    if "images" in held and "image" in held and held["images"] != held["image"]:
        raise BadRow(
            "image_marks", "the row has other images in `images` than in `image`; name one: columns: {images: ...}"
        )
    return next(iter(held.values()), [])


def _listed(value: Any) -> list[Any]:
    """The images of a column, which may be a list that is written as text; what stands for none is left out."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value.strip())
    images = list(value) if isinstance(value, list | tuple) else [value]
    return [image for image in images if not _is_none(image)]


def _is_none(image: Any) -> bool:
    """Columnar files fill up with empty structs."""
    empty = isinstance(image, dict) and {*image} <= {"bytes", "path"} and not any(image.values())
    return image is None or empty or (isinstance(image, str | bytes) and not image.strip())


def _either(held: list[Any], listed: list[Any]) -> list[Any]:
    """The images that the parts of a message hold, or a column does."""
    if listed and listed != held:
        raise BadRow(
            "image_marks", f"its messages hold {len(held)} images, and its column {len(listed)}; name one of both"
        )
    return held


def _placed(question: Any, texts: list[str], images: list[Any]) -> tuple[str, list[str], list[Any]]:
    """Question and options without the marks of their images, and the images: they stand before the text, in order.

    A mark at either end of the question goes; one within it, or in an option, becomes words where there are several.

    Raises:
        BadRow: there are more marks than images or fewer, or nothing is asked.
    """
    if not isinstance(question, str | int | float):
        raise BadRow(
            "row_shape" if question is not None else "empty_question", f"the question is {question!r:.60}, not text"
        )
    named = _NAMED.findall(str(question))
    texts = [_NAMED.sub(MARK, str(question)), *texts]
    if other := re.search(r"<(?:video|audio)>", " ".join(texts)):
        raise BadRow("row_shape", f"its text has {other[0]}; images are read")
    plain = any(MARK in text for text in texts)
    images = images or [name.strip() for name in named]
    texts = _with_numbers(texts)
    _check_marks([int(number) for text in texts for number in _NUMBERED.findall(text)], len(images))
    question = texts[0]
    if len(images) == 1:
        question = _NUMBERED.sub("", question)
    elif plain:  # one that bears a number is spoken of
        marks = rf"(?:\s*{_NUMBERED.pattern}\s*)+"
        question = re.sub(rf"^{marks}|{marks}$", "", question)
    question, *texts = (_NUMBERED.sub(r"image \1", text) for text in (question, *texts[1:]))
    if not question.strip():
        raise BadRow("empty_question", "the question is empty")
    return question.strip(), texts, images


def _with_numbers(texts: list[str]) -> list[str]:
    """The texts with each mark numbered, through all of them; numbers that the data has stay."""
    if not any(_NUMBERED.search(text) for text in texts):
        numbers = count(1)
        return [re.sub(MARK, lambda _: f"<image {next(numbers)}>", text) for text in texts]
    if any(MARK in text for text in texts):
        raise BadRow("image_marks", f"its text has both {MARK} and <image 1>")
    return texts


def _check_marks(numbers: list[int], images: int) -> None:
    """Raises: BadRow: there are marks, and they are not of the row's images, each of them."""
    marks = {*numbers}
    if not marks or marks == {*range(1, images + 1)}:
        return
    many = f"{len(marks)} mark{'s' * (len(marks) > 1)} of an image, and the row has {images or 'no'} image"
    advice = "" if images else "; name their column: columns: {images: ...}"
    strange = f", numbered to {max(marks)}" if max(marks) > len(marks) else ""
    raise BadRow("image_marks", f"its text has {many}{'s' * (images > 1)}{strange}{advice}")
