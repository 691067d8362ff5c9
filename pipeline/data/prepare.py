"""Canonical rows as what TRL's trainers take, and the rows that would be trained wrongly: refused, or left out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.data.rows import Source, good, noted, prompt, read
from eval.task import load_task
from pipeline.data.check_rows import HeldOut, RowPolicy, RowReport, check_rows, row_problems, shown
from pipeline.launch import processes, tell
from pipeline.recipe.problem import Problem, RecipeError
from pipeline.recipe.schema import Data, GrpoStage, Recipe, SftStage
from rewards.contract import is_marked, takes
from rewards.response import render

if TYPE_CHECKING:
    import datasets

    from eval.chat import ChatFormat

Row = dict[str, Any]
NOTHING = HeldOut()


@dataclass(frozen=True)
class CheckedData:
    """A data set, all of it read, and by row why it cannot be used."""

    rows: "datasets.Dataset"
    report: RowReport
    bad: dict[int, list[Problem]]

    def usable(self) -> list[int]:
        return [index for index in range(len(self.rows)) if index not in self.bad]

    def counts(self) -> str:
        """The bad rows by code, the first of each."""
        codes = Counter(problems[0].code for problems in self.bad.values())
        return ", ".join(f"{code} {count}" for code, count in codes.most_common())


def check_data(
    data: Data, chat: "ChatFormat", policy: RowPolicy, held_out: HeldOut = NOTHING, first: int | None = None
) -> CheckedData:
    """Read and check the data, or its `first` rows.

    Raises:
        ValueError: it cannot be read, or has no think traces to train on.
    """
    rows = read(data, first)
    if policy.trains and "think" not in rows.column_names and "code" not in rows.column_names:
        raise ValueError(f"{data.place}: an sft stage trains on think traces, and the rows have no column 'think'")
    report = check_rows(rows, chat, policy)
    checked = CheckedData(rows, report, row_problems(report, data.place, held_out))
    shared = sum(not held_out.pictures.isdisjoint(report.pictures[index]) for index in checked.usable())
    for note, count in noted(rows).items():
        tell(f"WARNING {data.place}: {count:,} rows: {_NOTES[note]}")
    if chat.is_vlm and "images" not in rows.column_names:
        tell(f"WARNING {data.place}: no row has an image, and the model sees images; if it should, name their column")
    if shared:  # common in ScienceQA's own splits, and no copy of a question
        tell(f"WARNING {data.place}: {shared} rows show an image that is evaluated on, with another question")
    return checked


_NOTES = {
    "system_prompt": "a system prompt of their own is replaced by the grammar's; put what it says into the question",
    "other_answer": "their response ends in another answer than the row's own reference, which is trained on",
    "text_beside_answer": "text around the final answer is left out of the response; its answer alone is trained on",
}


def problems(checked: CheckedData, data: Data) -> list[Problem]:
    """Why the data cannot be used as it is; none where its bad rows may be left out, and some are left."""
    bad, rows = checked.bad, checked.rows
    count = f"{len(bad)} of {len(rows)} rows cannot be used ({checked.counts()})"
    every = shown(problem for of_row in bad.values() for problem in of_row)
    if bad and data.bad_rows == "fail":
        return [*every, Problem(data.place, "bad_rows", f"{count}; mend them, or leave them out with `bad_rows: drop`")]
    if bad and len(bad) == len(rows):
        return [*every, Problem(data.place, "bad_rows", f"no usable row is left: {count}")]
    return []


def usable_rows(
    data: Data, chat: "ChatFormat", policy: RowPolicy, made_of: Callable[[Row], Row], held_out: HeldOut = NOTHING
) -> "datasets.Dataset":
    """The rows of `data` that can be used, beside the columns that are `made_of` each.

    Those are put beside the table that was read, which is not written again: its images are most of it.

    Raises:
        RecipeError: some cannot, and `bad_rows` is not `drop`, or none is left.
        ValueError: see `check_data`.
    """
    from datasets import concatenate_datasets

    checked = check_data(data, chat, policy, held_out)
    if wrong := problems(checked, data):
        raise RecipeError(wrong)
    rows = checked.rows
    texts = rows.select_columns([name for name in ("question", "think", "answer") if name in rows.column_names])
    made = texts.map(made_of, remove_columns=texts.column_names, desc="prompts")
    rows = concatenate_datasets([rows, made], axis=1)
    if checked.bad:
        tell(f"{data.place}: left out {len(checked.bad)} of {len(rows)} rows ({checked.counts()})")
        rows = rows.select(checked.usable())
    return good(rows)


def held_out(recipe: Recipe, stage: SftStage | GrpoStage, first: int | None = None) -> HeldOut:
    """The rows that judge what `stage` learns; it must train on none of them.

    Raises:
        ValueError: they cannot be read.
    """
    sources: list[tuple[str, Source, int | None]] = [(t.name, t, t.limit) for t in map(load_task, recipe.tasks)]
    if eval_data := getattr(stage, "eval_data", None):
        sources.append((eval_data, recipe.data[eval_data], None))
    keys: dict[str, str] = {}
    pictures: set[str] = set()
    for name, source, limit in sources:
        report = check_rows(read(source, first), None, RowPolicy(trains=False))
        for index, key in enumerate(report.keys[:limit]):
            if not report.problems[index]:
                keys.setdefault(key, f"{name}, row {index + 1}")
                pictures.update(report.pictures[index])
    return HeldOut(keys, pictures)


# --- what a stage does with its rows ----------------------------------------------------------------------------------


def sft_policy(max_length: int | None, chat: "ChatFormat") -> RowPolicy:
    """TRL would cut off what is longer than `max_length`, and the answer stands at the end."""
    positions = chat.context
    if max_length is not None and (positions is None or max_length <= positions):
        return RowPolicy(trains=True, max_tokens=max_length, limited_by="max_length")
    return RowPolicy(trains=True, max_tokens=positions, limited_by="the model's max_position_embeddings")


def grpo_policy(stage: GrpoStage, chat: "ChatFormat") -> RowPolicy:
    """Not asked is a prompt that does not fit into the rollout engine beside its longest completion."""
    setting = stage.settings()
    length = setting["vllm_max_model_length"] if setting["use_vllm"] else None
    named = "vllm_max_model_length" if length else "the model's max_position_embeddings"
    length, completion = length or chat.context, setting["max_completion_length"]
    rewards = [reward.function() for reward in stage.rewards]
    return RowPolicy(
        trains=False,
        max_tokens=length - completion if length else None,
        limited_by=f"{named} less max_completion_length",
        verifies=any(takes(f, "answer") and not is_marked(f, "own_grader") for f in rewards),
    )


def sft_rows(
    data: Data, chat: "ChatFormat", max_length: int | None = None, held_out: HeldOut = NOTHING
) -> "datasets.Dataset":
    """Prompt-completion conversations; `images` where the rows have any. Raises: see `usable_rows`."""
    rows = usable_rows(data, chat, sft_policy(max_length, chat), _conversation, held_out)
    return rows.select_columns([name for name in ("prompt", "completion", "images") if name in rows.column_names])


def rollout_rows(data: Data, chat: "ChatFormat", stage: GrpoStage, held_out: HeldOut = NOTHING) -> "datasets.Dataset":
    """The rows that the stage can ask, with their `prompt`. Raises: see `usable_rows`."""
    return usable_rows(data, chat, grpo_policy(stage, chat), _question, held_out)


def grpo_rows(rows: "datasets.Dataset", data: Data, stage: GrpoStage) -> "datasets.Dataset":
    """Conversational prompts beside all columns of `rows` but the think trace, which no rollout may see.

    Raises:
        ValueError: there are fewer prompts than a generation takes, or some have images and some none.
    """
    check_generations(data, rows, stage)
    return rows.remove_columns([name for name in ("think", "question") if name in rows.column_names])


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
    if all(kinds.values()) and stage.mixed_rows == "fail":
        counts = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise ValueError(
            f"{data.place}: {counts}, which no generation can mix; ask each kind by itself with `mixed_rows: split`, "
            "or make two stages of them"
        )
    completions, group = stage.completions_per_generation(processes()), stage.settings()["num_generations"]
    prompts = completions // group
    for kind, count in kinds.items():
        if 0 < count < prompts:
            what = f"{count} prompts {kind}" if all(kinds.values()) else f"{count} prompts"
            raise ValueError(
                f"{data.place}: {what} are fewer than a generation takes, {completions} completions / {group} "
                f"num_generations = {prompts}; lower per_device_train_batch_size or the steps a generation"
            )


def _question(row: Row) -> Row:
    return {"prompt": prompt(row["question"])}


def _conversation(row: Row) -> Row:
    return {
        **_question(row),
        "completion": [{"role": "assistant", "content": render(row["think"], row["answer"])}],
    }
