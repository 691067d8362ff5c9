"""Canonical rows as what TRL's trainers take, and the rows that would be trained wrongly: refused, or left out."""

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.rows import prompt, read, undecoded
from eval.task import load_task
from pipeline.manifest import sha256
from pipeline.problem import Problem, RecipeError, mistakes
from pipeline.recipe import Data, GrpoStage, Recipe
from rewards import verify
from rewards.response import render

if TYPE_CHECKING:
    import datasets

    from eval.chat import Chat

Row = dict[str, Any]
SHOWN = 10  # unusable rows that are named, of each kind
SLACK = 256  # tokens an image may take beside its own: separators, rows and columns of tiles


def check_data(recipe: Recipe) -> None:
    """Read every data set of the recipe's stages and tasks once; what was read is cached for its stage.

    Raises:
        RecipeError: one cannot be read, or lacks what its stage needs, or has rows that cannot be used.
    """
    from eval.chat import Chat

    with mistakes(recipe.name, "model"):
        chat = Chat(recipe.model.path, recipe.model.revision)
        if any(stage.kind == "sft" for stage in recipe.stages):
            chat.check_template()
    for stage in recipe.stages:
        for name in filter(None, (stage.data, getattr(stage, "eval_data", None))):
            with mistakes(f"data.{name}", "data"):
                if stage.kind == "sft":
                    sft_rows(recipe.data[name], chat, stage.trainer.get("max_length"))
                else:
                    grpo_rows(rollout_rows(recipe.data[name], chat, stage), recipe.data[name], stage)
    for task in recipe.evaluate.tasks if recipe.evaluate else []:
        with mistakes(task, "task_data"):
            unusable = Counter(_with_gold_codes(read(load_task(task).source()))["code"][:])["answer_unusable"]
        if unusable:
            tell(f"{task}: {unusable} rows have an answer that does not verify against itself; none is right there")


def sft_rows(data: Data, chat: "Chat", max_length: int | None = None) -> "datasets.Dataset":
    """Prompt-completion conversations; `images` where the rows have any.

    Args:
        max_length: tokens of a row, prompt, images and response together; TRL would cut a longer one's answer off.

    Raises:
        RecipeError: rows cannot be trained on, and `bad_rows` is not `drop`.
        ValueError: the rows have no think traces.
    """
    rows = read(data.source())
    if "think" not in rows.column_names:
        raise ValueError(f"{data.path}: an sft stage trains on think traces, and the rows have no column 'think'")
    rows = _usable(rows, data, partial(_sft_problem, chat, max_length))
    replaced = [name for name in rows.column_names if name != "images"]
    return rows.map(_conversation, remove_columns=replaced, desc="prompts")


def grpo_rows(rows: "datasets.Dataset", data: Data, stage: GrpoStage) -> "datasets.Dataset":
    """Conversational prompts beside all columns of `rows` but the think trace, which no rollout may see.

    Raises:
        ValueError: there are fewer prompts than a generation takes, or some have images and some none.
    """
    _check_generations(data, rows, stage)
    hidden = [name for name in ("think", "question", "malformed") if name in rows.column_names]
    return rows.map(lambda row: {"prompt": prompt(row["question"])}, remove_columns=hidden, desc="prompts")


def rollout_rows(data: Data, chat: "Chat", stage: GrpoStage) -> "datasets.Dataset":
    """The rows that the stage can ask.

    Not asked is a row whose prompt and longest completion, images included, do not fit into the rollout engine, or,
    where a reward verifies answers, whose own answer does not verify against itself.

    Raises:
        RecipeError: there are such rows, and `bad_rows` is not `drop`.
    """
    setting = stage.settings()
    length = setting["vllm_max_model_length"] if setting["use_vllm"] else None
    length = length or getattr(chat.config.get_text_config(), "max_position_embeddings", None)
    room = length - setting["max_completion_length"] if length else None
    verifies = any(reward.use in {"accuracy", "brevity"} for reward in stage.rewards)
    return _usable(read(data.source()), data, partial(_rollout_problem, chat, room), verifies)


def has_images(rows: "datasets.Dataset") -> list[bool]:
    """Whether each row has images. Reads all of them, in batches, and decodes none."""
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    if "images" not in rows.column_names:
        return [False] * len(rows)
    batches = rows.select_columns("images").with_format("arrow").iter(batch_size=1000)
    return [bool(count) for batch in batches for count in pc.list_value_length(batch["images"]).to_pylist()]


def _check_generations(data: Data, rows: "datasets.Dataset", stage: GrpoStage) -> None:
    """That a generation can be filled, with prompts that are all with images or all without."""
    pictured = has_images(rows)
    kinds = {"with images": sum(pictured), "without": len(pictured) - sum(pictured)}
    if all(kinds.values()) and stage.mixed_rows == "stop":
        counts = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise ValueError(
            f"{data.path}: {counts}, which no generation can mix; ask each kind by itself with `mixed_rows: split`, "
            "or make two stages of them"
        )
    completions, group = stage.completions_per_generation(), stage.settings()["num_generations"]
    prompts = completions // group
    for kind, count in kinds.items():
        if 0 < count < prompts:
            what = f"{count} prompts {kind}" if all(kinds.values()) else f"{count} prompts"
            raise ValueError(
                f"{data.path}: {what} are fewer than a generation takes, {completions} completions / {group} "
                f"num_generations = {prompts}; lower per_device_train_batch_size or the steps a generation"
            )


def _conversation(row: Row) -> Row:
    return {
        "prompt": prompt(row["question"]),
        "completion": [{"role": "assistant", "content": render(row["think"], row["answer"])}],
    }


# --- rows that cannot be used -----------------------------------------------------------------------------------------

Found = tuple[str, str] | None  # a stable code and what is wrong


def _usable(
    rows: "datasets.Dataset", data: Data, problem_of: Callable[[Row], Found], verifies: bool = False
) -> "datasets.Dataset":
    """The rows without a problem. Those with one are left out and counted, or refused, as `data.bad_rows` says."""
    read_only = [name for name in ("question", "think", "answer", "images", "malformed") if name in rows.column_names]
    found = undecoded(rows.select_columns(read_only)).map(
        lambda row: dict(zip(("code", "problem"), problem_of(row) or ("", ""), strict=True)),
        remove_columns=read_only,
        desc="checking rows",
    )
    problems = list(zip(found["code"][:], found["problem"][:], strict=True))
    if verifies:
        golds = zip(_with_gold_codes(rows)["code"][:], rows["answer"][:], strict=True)
        problems = [
            problem if problem[0] or not code else (code, _UNUSABLE.format(answer))
            for problem, (code, answer) in zip(problems, golds, strict=True)
        ]
    bad = {
        index: Problem(f"{data.path}:{index + 1}", code, problem, row_id)
        for index, (row_id, (code, problem)) in enumerate(zip(rows["id"][:], problems, strict=True))
        if code
    }
    if not bad:
        return rows
    counts = ", ".join(f"{code} {n}" for code, n in Counter(problem.code for problem in bad.values()).most_common())
    if data.bad_rows == "stop":
        advice = f"{len(bad)} rows cannot be used ({counts}); mend them, or leave them out with `bad_rows: drop`"
        raise RecipeError([*_first_of_each_kind(bad.values()), Problem(data.path, "bad_rows", advice)])
    tell(f"{data.path}: left out {len(bad)} of {len(rows)} rows ({counts})")
    if len(bad) == len(rows):
        raise ValueError(f"{data.path}: no usable row is left ({counts})")
    return rows.select([index for index in range(len(rows)) if index not in bad])


_UNUSABLE = "the answer {!r:.80} does not verify against itself; mend it, or declare its `kind`"


def _with_gold_codes(rows: "datasets.Dataset") -> "datasets.Dataset":
    """A column `code`: `answer_unusable` where the reference does not verify against itself. datasets caches it."""
    columns = [name for name in ("answer", "kind", "choices") if name in rows.column_names]
    return rows.select_columns(columns).map(
        _gold_codes, batched=True, fn_kwargs={"rules": _rules()}, remove_columns=columns, desc="checking answers"
    )


@cache
def _rules() -> list[str]:
    """Digests of the verifier's files: a part of the cache's key, so that no verdict outlives a change of its rules."""
    return [sha256(path) for path in sorted(Path(verify.__file__).parent.glob("*.[pt][yx]*"))]


def _gold_codes(batch: dict[str, list[Any]], rules: list[str]) -> dict[str, list[str]]:
    golds = batch["answer"]
    nothing = [None] * len(golds)
    verified = verify.usable(list(zip(golds, batch.get("kind", nothing), batch.get("choices", nothing), strict=True)))
    return {"code": ["" if each else "answer_unusable" for each in verified]}


def _first_of_each_kind(problems: Iterable[Problem]) -> Iterator[Problem]:
    seen: Counter[str] = Counter()
    for problem in problems:
        seen[problem.code] += 1
        if seen[problem.code] <= SHOWN:
            yield problem


@cache  # once a process: a stage reads its rows after they were checked
def tell(message: str) -> None:
    """Say `message` on stderr, from the first rank alone."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(message, file=sys.stderr, flush=True)


def _prompt_problem(chat: "Chat", row: Row) -> Found:
    if row.get("malformed"):
        return "malformed", f"the response is malformed: {row['malformed']}"
    if row.get("images") and not chat.is_vlm:
        return "unseen_images", "the row has images, and the model reads text alone"
    if token := chat.control_token(row["question"]):
        return "special_token", f"the question has {token!r}, which the tokenizer reads as a control token"
    return None


def _rollout_problem(chat: "Chat", room: int | None, row: Row) -> Found:
    if (problem := _prompt_problem(chat, row)) or room is None:
        return problem
    images = row.get("images") or []
    length = _prompt_tokens(chat, chat.prompt_text(row["question"], images), images, room)
    if length > room:
        return "too_long", f"a prompt of {length} tokens; the engine's length leaves {room} beside a completion"
    return None


def _sft_problem(chat: "Chat", max_length: int | None, row: Row) -> Found:
    if problem := _prompt_problem(chat, row):
        return problem
    if token := chat.control_token(row["think"] + row["answer"]):
        return "special_token", f"the response has {token!r}, which the tokenizer reads as a control token"
    images = row.get("images") or []
    prompt_text, completion = chat.training_texts(row["question"], row["think"], row["answer"], images)
    ids = chat.ids(completion)
    if not chat.reads_back(ids, row["think"], row["answer"]):
        return "malformed", f"the grammar does not read it back; trained would be {completion!r:.200}"
    if max_length is None:
        return None
    length = len(ids) + _prompt_tokens(chat, prompt_text, images, max_length - len(ids))
    if length > max_length:
        return "too_long", f"{length} tokens; max_length {max_length} would cut the answer off"
    return None


def _prompt_tokens(chat: "Chat", text: str, images: list[Any], room: int) -> int:
    """Tokens of a rendered prompt; exact when it might not fit into `room`, an upper bound when it surely does.

    The bound needs the sizes of the images only, which their headers tell.
    """
    if not images:
        return len(chat.ids(text))
    if hasattr(chat.processor, "_get_num_multimodal_tokens"):
        sizes = [_size(image) for image in images]
        expanded = chat.processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]
        bound = len(chat.ids(text)) + sum(expanded) + SLACK * len(images)
        if bound <= room:
            return int(bound)
    from datasets import Image

    decoded = [Image().decode_example(image) for image in images]
    ids = chat.processor(text=[text], images=[decoded], add_special_tokens=False)["input_ids"]
    return len(ids[0])


def _size(image: Row) -> tuple[int, int]:
    """Height and width of an undecoded image, as it will stand after its orientation tag is followed."""
    from PIL import ExifTags
    from PIL import Image as PILImage

    with PILImage.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"]) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation, 1) > 4
        return (opened.width, opened.height) if turned else (opened.height, opened.width)
