"""Every row of a data set read as its stage will read it: what is wrong with it, how long it is, what it repeats.

One pass over the data, on all cores, and cached: a run that starts, and each of its ranks, asks for what a check found.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.data import images as images_module
from eval.data.images import BadRow, verify_image
from eval.data.rows import undecoded
from eval.files import cache_key
from pipeline.recipe.problem import Problem
from rewards import response
from rewards.grading import verify
from rewards.response import TAGS, Malformed, Reason, parse, render

if TYPE_CHECKING:
    import datasets

    from eval.chat import ChatFormat

Row = dict[str, Any]
RowProblem = tuple[str, str]  # a stable code, and what is wrong
SHOWN = 10  # problems that are named, of each kind
# Rows for which another process pays: it takes a second or so to start.
ROWS_A_PROCESS, PICTURED_ROWS_A_PROCESS = 2_000, 100


@dataclass(frozen=True)
class RowPolicy:
    """What a stage does with its rows."""

    trains: bool  # on think trace and answer; else it only asks
    max_tokens: int | None = None  # tokens: of the whole row when it is trained on, of its prompt when it is asked
    limited_by: str = ""  # what sets `max_tokens`
    verifies: bool = False  # a reward takes the column `answer`


@dataclass(frozen=True)
class RowReport:
    """What one pass over a data set found; each list has an entry a row."""

    problems: list[list[RowProblem]]
    ids: list[str]
    keys: list[str]  # digests of question and images
    targets: list[str]  # digests of think trace and answer
    pictures: list[list[str]]  # digests of the files
    prompt_tokens: list[int]  # images included; of a row that is not well-formed 0, and so below
    think_tokens: list[int]
    answer_tokens: list[int]


@dataclass(frozen=True)
class HeldOut:
    """Rows that judge what is learned, by digest."""

    keys: Mapping[str, str] = field(default_factory=dict)  # of question and images: where the row stands
    pictures: Set[str] = frozenset()


def check_rows(rows: "datasets.Dataset", chat: "ChatFormat | None", policy: RowPolicy) -> RowReport:
    """Read every row of `rows`; with no `chat`, only what does not need a model."""
    columns = [name for name in _READ if name in rows.column_names]
    read = undecoded(rows.select_columns(columns))
    pictured = "images" in columns
    checked = read.map(
        partial(_batch, chat=chat, policy=policy),
        batched=True,
        batch_size=16 if pictured else 250,
        writer_batch_size=1000,
        num_proc=_processes(len(rows), PICTURED_ROWS_A_PROCESS if pictured else ROWS_A_PROCESS),
        remove_columns=columns,
        features=_features(),
        new_fingerprint=_cache_key(rows, read if pictured else None, chat, policy),
        desc="checking rows",
    )
    whole = checked.with_format("arrow")[:].to_pydict()
    problems = [list(zip(codes, said, strict=True)) for codes, said in zip(whole["codes"], whole["said"], strict=True)]
    for index, said in _unusable(rows, policy):
        if not problems[index]:
            problems[index].append(("answer_unusable", said))
    numbers = {name: whole[name] for name in ("prompt_tokens", "think_tokens", "answer_tokens")}
    ids = [str(row_id) for row_id in rows["id"][:]]
    return RowReport(problems, ids, whole["key"], whole["target"], whole["pictures"], **numbers)


def row_problems(report: RowReport, path: str, held_out: HeldOut) -> dict[int, list[Problem]]:
    """By row, what is wrong with it, and of what it is a copy. `path` is the data's, for the lines."""
    bad: dict[int, list[Problem]] = {}
    first_id: dict[str, int] = {}
    first_text: dict[tuple[str, str], int] = {}
    for index, (row_id, own) in enumerate(zip(report.ids, report.problems, strict=True)):
        problems = list(own)
        text = report.keys[index], report.targets[index]
        if not problems:
            if (line := first_id.setdefault(row_id, index)) != index:
                problems.append(("duplicate_id", f"row {line + 1} has this id too; an id names one row"))
            elif (line := first_text.setdefault(text, index)) != index:
                problems.append(("duplicate_row", f"the same as row {line + 1}, id {report.ids[line]}"))
            if place := held_out.keys.get(report.keys[index]):
                problems.append(("overlap", f"its question and images are evaluated on: {place}"))
        if problems:
            bad[index] = [Problem(f"{path}:{index + 1}", code, said, row_id) for code, said in problems]
    return bad


def shown(problems: Iterable[Problem]) -> list[Problem]:
    """One line for all rows that share a cause, the first few of each code and file, and how many more there are."""
    same: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        same.setdefault((problem.where.rpartition(":")[0], problem.code, problem.message), []).append(problem)
    seen: Counter[tuple[str, str]] = Counter()
    rest: Counter[tuple[str, str]] = Counter()
    kept: list[Problem] = []
    for (path, code, message), alike in same.items():
        seen[path, code] += 1
        if seen[path, code] > SHOWN:
            rest[path, code] += len(alike)
        elif len(alike) == 1:
            kept.append(alike[0])
        else:
            kept.append(replace(alike[0], message=f"{message} ({_others(alike)})", count=len(alike)))
    return kept + [Problem(path or "-", code, f"{count:,} more", count=count) for (path, code), count in rest.items()]


def _others(alike: list[Problem]) -> str:
    """The rows that share a cause with the first of them."""
    numbers = [problem.where.rpartition(":")[2] for problem in alike[1:]]
    named = ", ".join(numbers[:3])
    return f"also rows {named}{f' and {len(numbers) - 3:,} more' if len(numbers) > 3 else ''}"


# --- one row ----------------------------------------------------------------------------------------------------------

_READ = ("question", "think", "answer", "kind", "choices", "images", "code", "problem")


def _features() -> "datasets.Features":
    from datasets import Features, List, Value

    text, number = Value("string"), Value("int32")
    lists = {"codes": List(text), "said": List(text), "pictures": List(text), "key": text, "target": text}
    return Features(lists | dict.fromkeys(("prompt_tokens", "think_tokens", "answer_tokens"), number))


def _batch(batch: dict[str, list[Any]], chat: "ChatFormat | None", policy: RowPolicy) -> dict[str, list[Any]]:
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    checked = [_check_row(row, chat, policy) for row in rows]
    return {name: [values[name] for values in checked] for name in checked[0]}


def _check_row(row: Row, chat: "ChatFormat | None", policy: RowPolicy) -> Row:
    lengths = dict.fromkeys(("prompt_tokens", "think_tokens", "answer_tokens"), 0)
    problems, pictures = [], []
    if row.get("code"):
        problems = [(row["code"], row["problem"])]
    else:
        for image in row.get("images") or []:
            try:
                pictures.append(verify_image(image))
            except BadRow as bad:
                problems.append((bad.code, str(bad)))
        if chat is not None:
            problems += _text_problems(chat, row, policy)
            if not problems:
                lengths = _lengths(chat, row, policy)
                problems = list(_length_problem(lengths, policy))
    target = f"{row.get('think') or ''}\0{row['answer']}" if policy.trains else row["answer"]
    return {
        "codes": [code for code, _ in problems],
        "said": [said for _, said in problems],
        "pictures": pictures,
        "key": _digest(" ".join(row["question"].casefold().split()), *pictures),
        "target": _digest(target),
        **lengths,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def _text_problems(chat: "ChatFormat", row: Row, policy: RowPolicy) -> Iterator[RowProblem]:
    if row.get("images") and not chat.is_vlm:
        yield "unseen_images", "the row has images, and the model reads text alone"
    if token := chat.control_token(row["question"]):
        yield "special_token", f"the question has {token!r}, which the tokenizer reads as a control token"
    if tag := next((tag for tag in TAGS if tag in row["question"]), None):
        yield "tag_in_question", f"the question has {tag!r}; leave it out, the system prompt asks for the tags"
    if not policy.trains:
        return
    think, answer = row.get("think") or "", row["answer"]
    if token := chat.control_token(think + answer):
        yield "special_token", f"the response has {token!r}, which the tokenizer reads as a control token"
        return
    parsed = parse(render(think, answer))
    if isinstance(parsed, Malformed):
        yield parsed.reason, _MALFORMED.get(parsed.reason, f"the response is malformed: {parsed.reason}")


_MALFORMED = {
    Reason.EMPTY_THINK: "there is no think trace; an sft stage trains on one",
    Reason.EMPTY_ANSWER: "there is no answer",
    Reason.LONG_ANSWER: "the answer is a second trace; the grammar reads at most 256 characters",
    Reason.REPEATED_TAG: "a tag of the grammar stands within the think trace or the answer",
}
_UNUSABLE = "the answer {!r:.60} {}; mend it, or declare its `kind`"


def _lengths(chat: "ChatFormat", row: Row, policy: RowPolicy) -> dict[str, int]:
    """Tokens of prompt, think trace and answer, as the stage will see them; -1 think where it is not read back."""
    images = row.get("images") or []
    if not policy.trains:
        prompt = chat.prompt_tokens(chat.prompt_text(row["question"], images), images, policy.max_tokens)
        return {"prompt_tokens": prompt, "think_tokens": 0, "answer_tokens": 0}
    text, completion = chat.training_texts(row["question"], row["think"], row["answer"], images)
    ids = chat.ids(completion)
    left = policy.max_tokens - len(ids) if policy.max_tokens is not None else None
    prompt = chat.prompt_tokens(text, images, left)
    if not chat.reads_back(ids, row["think"], row["answer"]):
        return {"prompt_tokens": prompt, "think_tokens": -1, "answer_tokens": 0}
    tail = len(chat.ids(completion[completion.rindex(TAGS[1]) :])) + 8  # the tag lies in it, though ids merge across
    end = ids[-tail:]
    answer = len(end) - chat.answer_start(end)
    return {"prompt_tokens": prompt, "think_tokens": len(ids) - answer, "answer_tokens": answer}


def _length_problem(lengths: dict[str, int], policy: RowPolicy) -> Iterator[RowProblem]:
    if lengths["think_tokens"] < 0:
        yield "not_read_back", "the chat template or the tokenizer changes the response; it would not be read back"
    elif policy.max_tokens is not None and (total := sum(lengths.values())) > policy.max_tokens:
        limit = f"{policy.limited_by} leaves {policy.max_tokens}"
        what = "the answer would be cut off" if policy.trains else "a prompt and its longest completion do not fit"
        yield "too_long", f"{total} tokens, images included, where {limit}; {what}"


# --- answers ----------------------------------------------------------------------------------------------------------


def _unusable(rows: "datasets.Dataset", policy: RowPolicy) -> Iterator[tuple[int, str]]:
    """The rows whose answer no response can match, and why.

    A row that is trained on must only be what it declares: free text is never compared with anything.
    """
    from datasets import Features, Value

    if not (policy.verifies or policy.trains):
        return
    declared = [name for name in ("kind", "choices") if name in rows.column_names]
    asked: Any = range(len(rows))
    if not policy.verifies:
        columns = [rows[name][:] for name in declared]
        asked = [index for index, values in enumerate(zip(*columns, strict=True)) if any(values)]
    if len(asked) == 0:
        return
    columns = ["answer", *declared]
    answers = rows.select_columns(columns).select(asked)
    verdicts = answers.map(
        _verify_references,
        batched=True,
        remove_columns=columns,
        features=Features({"usable": Value("bool")}),
        new_fingerprint=cache_key([answers._fingerprint], _CODE),
        desc="checking answers",
    )
    for place, (index, is_usable) in enumerate(zip(asked, verdicts["usable"][:], strict=True)):
        if is_usable is None:  # a time-out is no verdict, so the cache holds none: it is asked again
            [is_usable] = _verify_references({name: [answers[place][name]] for name in columns})["usable"]
        if is_usable is False:
            answer, *declaration = (answers[place][name] for name in columns)
            why = "" if any(declaration) else verify.no_answer(answer)
            yield index, _UNUSABLE.format(answer, why or "does not verify against itself")


def _verify_references(batch: dict[str, list[Any]]) -> dict[str, list[bool | None]]:
    references = batch["answer"]
    nothing = [None] * len(references)
    columns = (references, batch.get("kind", nothing), batch.get("choices", nothing))
    return {"usable": verify.usable(list(zip(*columns, strict=True)))}


# --- the cache's key, the cores --------------------------------------------------------------------------------------


# What decides about a row: no verdict outlives a change of its rules.
_CODE = [*sorted(map(str, Path(response.__file__).parent.rglob("*.[pt][yx]*"))), __file__, images_module.__file__]
_CODE.append(str(Path(images_module.__file__).parents[1] / "chat.py"))


def _cache_key(rows: Any, pictured: "datasets.Dataset | None", chat: "ChatFormat | None", policy: RowPolicy) -> str:
    parts = [rows._fingerprint, chat.processor_digest() if chat else "", repr(replace(policy, verifies=False))]
    return cache_key([*parts, *(_stamps(pictured) if pictured is not None else [])], _CODE)


def _stamps(pictured: "datasets.Dataset") -> Iterator[tuple[str, str]]:
    """The images that are files, with what changes when one is replaced."""
    for batch in pictured.select_columns("images").with_format("arrow").iter(batch_size=1000):
        for path in batch["images"].combine_chunks().flatten().field("path").to_pylist():
            if path is not None:
                try:
                    stat = os.stat(path)
                    yield path, f"{stat.st_size} {stat.st_mtime_ns}"
                except OSError:
                    yield path, "missing"


def _processes(rows: int, each: int) -> int | None:
    cores = min(len(os.sched_getaffinity(0)), rows // each)
    return cores if cores > 1 else None
