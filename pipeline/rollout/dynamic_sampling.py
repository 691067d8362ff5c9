"""DAPO's dynamic sampling (arXiv 2503.14476, section 3.2): groups without contrast give way to groups of other prompts.

A group whose completions all get the same reward has no advantage and teaches nothing. DAPO samples until the batch is
full of others; here up to `dynamic_sampling` further rounds are rolled out, each of as many prompts as are missing.
What is still missing then keeps its place, so that the batch has its size. All ranks see the same groups and choose
alike; a group may come from other ranks than those that train on it.
"""

import math
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages

from pipeline.rollout.trainer import RolloutTrainer


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


class DynamicSamplingTrainer(RolloutTrainer):
    """A `RolloutTrainer` that replaces groups without contrast before it trains on a generation.

    Logged: `dynamic_sampling/replaced` and `/unfilled`, shares of the batch's groups, and `/rounds`.
    """

    inputs: list[dict[str, Any]]  # the rows of this rank's completions
    _pending_extra_logs: dict[str, list[Any]]  # TRL's: the columns that rewards log
    scored: torch.Tensor | None = None  # the rewards of a generation whose groups were chosen by them

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.inputs = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> Rollouts:
        """As TRL's; in `prompts` and `inputs`, the rows of replaced groups give way to the new ones."""
        rollouts = Rollouts(*super()._generate(prompts))
        if not self.model.training:
            return rollouts
        groups = self._groups(self.inputs, prompts, rollouts, None)
        self._replace(groups, rollouts.images is not None)
        self.scored = torch.cat([group.rewards for group in groups])
        return self._of_this_rank(groups, prompts, rollouts)

    def _score(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> torch.Tensor:
        if self.scored is None:
            return super()._score(inputs, prompts, completions, completion_ids)
        rewards, self.scored = self.scored, None
        return rewards

    def _replace(self, groups: list[Group], pictured: bool) -> None:
        """Put groups of other prompts into the places of those without contrast. Called by every rank."""
        empty = [place for place, group in enumerate(groups) if not group.has_contrast]
        before, rounds, world = len(empty), 0, self.accelerator.num_processes
        unit = world // math.gcd(world, self.num_generations)  # every rank rolls out as much as the others
        fresh = self._fresh_rows(pictured) if empty else []  # on all ranks alike
        while empty and rounds < self.stage.dynamic_sampling:
            wanted = math.ceil(len(empty) / unit) * unit
            if len(fresh) < wanted:
                break
            rounds += 1
            for group in self._roll_out(fresh[:wanted]):
                if group.has_contrast and empty:
                    groups[empty.pop(0)] = group
            fresh = fresh[wanted:]
        logged = self._metrics["train"]
        logged["dynamic_sampling/replaced"].append((before - len(empty)) / len(groups))
        logged["dynamic_sampling/unfilled"].append(len(empty) / len(groups))
        logged["dynamic_sampling/rounds"].append(float(rounds))

    def _fresh_rows(self, pictured: bool) -> list[int]:
        """Rows of the data set that are not in the batch, with images as it has, in an order that the step decides."""
        taken = {*gather_object([row["id"] for row in self.inputs])}
        order = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self._step)
        ids = self.train_dataset["id"][:]
        rows = torch.randperm(len(ids), generator=order).tolist()
        return [row for row in rows if self.pictured[row] == pictured and ids[row] not in taken]

    def _roll_out(self, rows: list[int]) -> list[Group]:
        """A group for each of `rows`, rolled out by all ranks together."""
        mine = self._share([row for row in rows for _ in range(self.num_generations)])
        inputs = [self.train_dataset[row] for row in mine]
        prompts = [_prompt(row) for row in inputs]
        return self._groups(inputs, prompts, Rollouts(*super()._generate(prompts)), rows)

    def _groups(self, inputs: list[Any], prompts: list[Any], rollouts: Rollouts, rows: list[int] | None) -> list[Group]:
        """Score the completions of all ranks and put them together by prompt. Called by every rank."""
        rewards = self._score(inputs, prompts, rollouts.completions, rollouts.completion_ids)
        extra, self._pending_extra_logs = self._pending_extra_logs, defaultdict(list)
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
        everyone, size, totals = gather_object(mine), self.num_generations, self.totals(rewards)
        return [
            Group(
                rows[place] if rows else None,
                everyone[place * size : (place + 1) * size],
                rewards[place * size : (place + 1) * size],
                not bool(torch.isclose(total.std(), torch.zeros(()))),
            )
            for place, total in enumerate(totals.cpu())
        ]

    def _of_this_rank(self, groups: list[Group], prompts: list[Any], rollouts: Rollouts) -> Rollouts:
        """The rank's part of `groups`, in the shape of `rollouts`."""
        kept = self._share([(group.row, completion) for group in groups for completion in group.completions])
        for index, (row, _) in enumerate(kept):
            if row is not None:
                self.inputs[index] = self.train_dataset[row]
                prompts[index] = _prompt(self.inputs[index])
        chosen = [completion for _, completion in kept]
        for column in sorted({column for completion in chosen for column in completion.extra}):
            self._log_completion_extra(column, [completion.extra.get(column) for completion in chosen])
        return rollouts._replace(
            prompt_ids=[completion.prompt_ids for completion in chosen],
            completion_ids=[completion.completion_ids for completion in chosen],
            completions=[completion.completion for completion in chosen],
            logprobs=None if rollouts.logprobs is None else [completion.logprobs or [] for completion in chosen],
            images=None if rollouts.images is None else [row["images"] for row in self.inputs],
        )

    def _share(self, everyones: list[Any]) -> list[Any]:
        """This rank's part of a list over all ranks' completions."""
        count = len(everyones) // self.accelerator.num_processes
        return everyones[self.accelerator.process_index * count :][:count]


def _prompt(row: dict[str, Any]) -> Any:
    """The prompt as TRL hands it to `_generate`."""
    return prepare_multimodal_messages(row["prompt"], images=row["images"]) if row.get("images") else row["prompt"]
