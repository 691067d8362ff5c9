"""DAPO's dynamic sampling (arXiv 2503.14476, section 3.2): groups without contrast give way to groups of other prompts.

A group whose completions all get the same reward has no advantage and teaches nothing. DAPO samples until the batch is
full of others; here up to `dynamic_sampling` further rounds are rolled out, each of as many prompts as are missing.
What is still missing then keeps its place, so that the batch has its size. All ranks see the same groups and choose
alike; a group may come from other ranks than those that train on it.
"""

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages

if TYPE_CHECKING:
    from pipeline.grpo import RolloutTrainer


class Rollouts(NamedTuple):
    """What `GRPOTrainer._generate` returns: lists with one entry a completion of this rank."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    tool_mask: None
    completions: list[Any]
    logprobs: list[list[float]] | None
    extra_fields: dict[str, Any]
    images: list[Any] | None
    tool_images: list[Any]


class Completion(NamedTuple):
    """One completion, as it travels between ranks."""

    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    logprobs: list[float] | None
    extra: dict[str, Any]  # columns that rewards logged for it


class Group(NamedTuple):
    """A prompt's completions, of all ranks."""

    row: int | None  # in the data set; None: the prompt that the batch has here anyway
    completions: list[Completion]
    rewards: torch.Tensor  # completions by functions
    has_contrast: bool


def replace_groups(trainer: "RolloutTrainer", prompts: list[Any], rollouts: Rollouts) -> Rollouts:
    """The rollouts with other groups in the place of those without contrast.

    `prompts` and `trainer.inputs`, the rows of this rank's completions, change with them; `trainer.scored` gets the
    rewards of the whole batch. Logged: `dynamic_sampling/replaced` and `/unfilled`, shares of the batch's groups, and
    `/rounds`.
    """
    inputs, size, world = trainer.inputs, trainer.num_generations, trainer.accelerator.num_processes
    groups = _groups(trainer, inputs, prompts, rollouts, None)
    empty = [place for place, group in enumerate(groups) if not group.has_contrast]
    before, rounds, unit = len(empty), 0, world // math.gcd(world, size)  # every rank rolls out as much as the others
    if empty:  # on all ranks alike
        fresh = _fresh_rows(trainer, {*gather_object([row["id"] for row in inputs])}, rollouts.images is not None)
    while empty and rounds < trainer.stage.dynamic_sampling:
        wanted = math.ceil(len(empty) / unit) * unit
        rows, fresh = fresh[:wanted], fresh[wanted:]
        if len(rows) < wanted:
            break
        rounds += 1
        mine = _share(trainer, [row for row in rows for _ in range(size)])
        new_inputs = [trainer.train_dataset[row] for row in mine]
        new_prompts = [_prompt(row) for row in new_inputs]
        found = _groups(trainer, new_inputs, new_prompts, trainer._roll_out(new_prompts), rows)
        for group in found:
            if group.has_contrast and empty:
                groups[empty.pop(0)] = group
    mode = trainer._metrics["train"]
    mode["dynamic_sampling/replaced"].append((before - len(empty)) / len(groups))
    mode["dynamic_sampling/unfilled"].append(len(empty) / len(groups))
    mode["dynamic_sampling/rounds"].append(float(rounds))
    trainer.scored = torch.cat([group.rewards for group in groups])
    kept = _share(trainer, [(group.row, each) for group in groups for each in group.completions])
    for index, (row, _) in enumerate(kept):
        if row is not None:
            inputs[index] = trainer.train_dataset[row]
            prompts[index] = _prompt(inputs[index])
    chosen = [completion for _, completion in kept]
    for column in sorted({column for each in chosen for column in each.extra}):
        trainer._log_completion_extra(column, [each.extra.get(column) for each in chosen])
    return rollouts._replace(
        prompt_ids=[each.prompt_ids for each in chosen],
        completion_ids=[each.completion_ids for each in chosen],
        completions=[each.completion for each in chosen],
        logprobs=None if rollouts.logprobs is None else [each.logprobs or [] for each in chosen],
        images=None if rollouts.images is None else [row["images"] for row in inputs],
    )


def _groups(
    trainer: "RolloutTrainer", inputs: list[Any], prompts: list[Any], rollouts: Rollouts, rows: list[int] | None
) -> list[Group]:
    """Score the completions of all ranks and put them together by prompt. Called by every rank."""
    rewards = trainer._score(inputs, prompts, rollouts.completions, rollouts.completion_ids)
    extra, trainer._pending_extra_logs = trainer._pending_extra_logs, defaultdict(list)
    mine = [
        Completion(
            rollouts.prompt_ids[index],
            rollouts.completion_ids[index],
            rollouts.completions[index],
            rollouts.logprobs[index] if rollouts.logprobs is not None else None,
            {column: values[index] for column, values in extra.items()},
        )
        for index in range(len(inputs))
    ]
    everyone, size, totals = gather_object(mine), trainer.num_generations, trainer.totals(rewards)
    return [
        Group(
            rows[place] if rows else None,
            everyone[place * size : (place + 1) * size],
            rewards[place * size : (place + 1) * size],
            not bool(torch.isclose(total.std(), torch.zeros(()))),
        )
        for place, total in enumerate(totals.cpu())
    ]


def _fresh_rows(trainer: "RolloutTrainer", taken: set[Any], pictured: bool) -> list[int]:
    """Rows of the data set that are not in the batch, with images as it has, in an order that the step decides."""
    order = torch.Generator().manual_seed(trainer.args.seed * 1_000_003 + trainer._step)
    ids = trainer.train_dataset["id"][:]
    rows = torch.randperm(len(ids), generator=order).tolist()
    return [row for row in rows if trainer.pictured[row] == pictured and ids[row] not in taken]


def _share(trainer: "RolloutTrainer", everyones: list[Any]) -> list[Any]:
    """This rank's part of a list over all ranks' completions."""
    count = len(everyones) // trainer.accelerator.num_processes
    return everyones[trainer.accelerator.process_index * count :][:count]


def _prompt(row: dict[str, Any]) -> Any:
    """The prompt as TRL hands it to `_generate`."""
    return prepare_multimodal_messages(row["prompt"], images=row["images"]) if row.get("images") else row["prompt"]
