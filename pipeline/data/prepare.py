"""Canonical rows as what TRL's trainers take, and the rows that would be trained wrongly: refused, or left out."""

import os
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from eval.data.rows import good, prompt, read
from eval.task import load_task
from pipeline.data.check_rows import Facts, HeldOut, Use, examine, row_problems, shown
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.schema import Data, GrpoStage, Recipe, SftStage
from rewards.response import render

if TYPE_CHECKING:
    import datasets

    from eval.chat import Chat

Row = dict[str, Any]
NOTHING = HeldOut()
VERIFYING = {"accuracy", "brevity"}  # the shipped rewards that compare with the answer


@dataclass(frozen=True)
class Examined:
    """A data set, all of it read, and by row why it cannot be used."""

    rows: "datasets.Dataset"
    facts: Facts
    bad: dict[int, list[Problem]]

    def usable(self) -> list[int]:
        return [index for index in range(len(self.rows)) if index not in self.bad]

    def counts(self) -> str:
        """The bad rows by code, the first of each."""
        codes = Counter(problems[0].code for problems in self.bad.values())
        return ", ".join(f"{code} {count}" for code, count in codes.most_common())


def examined(data: Data, chat: "Chat", use: Use, held_out: HeldOut = NOTHING, first: int | None = None) -> Examined:
    """Read and check the data, or its `first` rows.

    Raises:
        ValueError: it cannot be read, or has no think traces to train on.
    """
    rows = read(data.source(), first)
    if use.trains and "think" not in rows.column_names and "code" not in rows.column_names:
        raise ValueError(f"{data.place}: an sft stage trains on think traces, and the rows have no column 'think'")
    facts = examine(rows, chat, use)
    found = Examined(rows, facts, row_problems(facts, data.place, held_out))
    shared = sum(not held_out.pictures.isdisjoint(facts.pictures[index]) for index in found.usable())
    if shared:  # common in ScienceQA's own splits, and no copy of a question
        tell(f"WARNING {data.place}: {shared} rows show an image that is evaluated on, with another question")
    return found


def problems(found: Examined, data: Data) -> list[Problem]:
    """Why the data cannot be used as it is; none where its bad rows may be left out, and some are left."""
    count = f"{len(found.bad)} of {len(found.rows)} rows cannot be used ({found.counts()})"
    every = shown(problem for each in found.bad.values() for problem in each)
    if found.bad and data.bad_rows == "stop":
        return [*every, Problem(data.place, "bad_rows", f"{count}; mend them, or leave them out with `bad_rows: drop`")]
    if found.bad and len(found.bad) == len(found.rows):
        return [*every, Problem(data.place, "bad_rows", f"no usable row is left: {count}")]
    return []


def usable_rows(data: Data, chat: "Chat", use: Use, held_out: HeldOut = NOTHING) -> "datasets.Dataset":
    """The rows of `data` that can be used.

    Raises:
        RecipeError: some cannot, and `bad_rows` is not `drop`, or none is left.
        ValueError: see `examined`.
    """
    found = examined(data, chat, use, held_out)
    if wrong := problems(found, data):
        raise RecipeError(wrong)
    rows = found.rows
    if found.bad:
        tell(f"{data.place}: left out {len(found.bad)} of {len(rows)} rows ({found.counts()})")
        rows = rows.select(found.usable())
    return good(rows)


def held_out(recipe: Recipe, stage: SftStage | GrpoStage, first: int | None = None) -> HeldOut:
    """The rows that judge what `stage` learns; it must train on none of them.

    Raises:
        ValueError: they cannot be read.
    """
    sources = [(task.name, task.source(), task.limit) for task in map(load_task, recipe.tasks)]
    if eval_data := getattr(stage, "eval_data", None):
        sources.append((eval_data, recipe.data[eval_data].source(), None))
    keys: dict[str, str] = {}
    pictures: set[str] = set()
    for name, source, limit in sources:
        facts = examine(read(source, first), None, Use(trains=False))
        for index, key in enumerate(facts.keys[:limit]):
            if not facts.problems[index]:
                keys.setdefault(key, f"{name}, row {index + 1}")
                pictures.update(facts.pictures[index])
    return HeldOut(keys, pictures)


# --- what a stage does with its rows ----------------------------------------------------------------------------------


def sft_use(max_length: int | None, chat: "Chat") -> Use:
    """TRL would cut off what is longer than `max_length`, and the answer stands at the end."""
    positions = _positions(chat)
    if max_length is not None and (positions is None or max_length <= positions):
        return Use(trains=True, room=max_length, room_is="max_length")
    return Use(trains=True, room=positions, room_is="the model's max_position_embeddings")


def grpo_use(stage: GrpoStage, chat: "Chat") -> Use:
    """Not asked is a prompt that does not fit into the rollout engine beside its longest completion."""
    setting = stage.settings()
    length = setting["vllm_max_model_length"] if setting["use_vllm"] else None
    named = "vllm_max_model_length" if length else "the model's max_position_embeddings"
    length, completion = length or _positions(chat), setting["max_completion_length"]
    verifies = any(reward.use in VERIFYING for reward in stage.rewards)
    room = length - completion if length else None
    return Use(trains=False, room=room, room_is=f"{named} less max_completion_length", verifies=verifies)


def _positions(chat: "Chat") -> int | None:
    positions: int | None = getattr(chat.config.get_text_config(), "max_position_embeddings", None)
    return positions


def sft_rows(
    data: Data, chat: "Chat", max_length: int | None = None, held_out: HeldOut = NOTHING
) -> "datasets.Dataset":
    """Prompt-completion conversations; `images` where the rows have any. Raises: see `usable_rows`."""
    rows = usable_rows(data, chat, sft_use(max_length, chat), held_out)
    replaced = [name for name in rows.column_names if name != "images"]
    return rows.map(_conversation, remove_columns=replaced, desc="prompts")


def rollout_rows(data: Data, chat: "Chat", stage: GrpoStage, held_out: HeldOut = NOTHING) -> "datasets.Dataset":
    """The rows that the stage can ask. Raises: see `usable_rows`."""
    return usable_rows(data, chat, grpo_use(stage, chat), held_out)


def grpo_rows(rows: "datasets.Dataset", data: Data, stage: GrpoStage) -> "datasets.Dataset":
    """Conversational prompts beside all columns of `rows` but the think trace, which no rollout may see.

    Raises:
        ValueError: there are fewer prompts than a generation takes, or some have images and some none.
    """
    check_generations(data, rows, stage)
    hidden = [name for name in ("think", "question") if name in rows.column_names]
    return rows.map(lambda row: {"prompt": prompt(row["question"])}, remove_columns=hidden, desc="prompts")


def has_images(rows: "datasets.Dataset") -> list[bool]:
    """Whether each row has images. Reads all of them, in batches, and decodes none."""
    import pyarrow.compute as pc

    if "images" not in rows.column_names:
        return [False] * len(rows)
    batches = rows.select_columns("images").with_format("arrow").iter(batch_size=1000)
    return [bool(count) for batch in batches for count in pc.list_value_length(batch["images"]).to_pylist()]


def check_generations(data: Data, rows: "datasets.Dataset", stage: GrpoStage) -> None:
    """That a generation can be filled, with prompts that are all with images or all without."""
    pictured = has_images(rows)
    kinds = {"with images": sum(pictured), "without": len(pictured) - sum(pictured)}
    if all(kinds.values()) and stage.mixed_rows == "stop":
        counts = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise ValueError(
            f"{data.place}: {counts}, which no generation can mix; ask each kind by itself with `mixed_rows: split`, "
            "or make two stages of them"
        )
    completions, group = stage.completions_per_generation(), stage.settings()["num_generations"]
    prompts = completions // group
    for kind, count in kinds.items():
        if 0 < count < prompts:
            what = f"{count} prompts {kind}" if all(kinds.values()) else f"{count} prompts"
            raise ValueError(
                f"{data.place}: {what} are fewer than a generation takes, {completions} completions / {group} "
                f"num_generations = {prompts}; lower per_device_train_batch_size or the steps a generation"
            )


def _conversation(row: Row) -> Row:
    return {
        "prompt": prompt(row["question"]),
        "completion": [{"role": "assistant", "content": render(row["think"], row["answer"])}],
    }


@cache  # once a process: a stage reads its rows after they were checked
def tell(message: str) -> None:
    """Say `message` on stderr, from the first rank alone."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(message, file=sys.stderr, flush=True)
