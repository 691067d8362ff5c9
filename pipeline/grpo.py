"""Stage kind `grpo`: TRL's GRPOTrainer from the last stage's folder, with rollouts by vLLM or transformers."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import RepeatSampler

from eval.chat import Chat
from pipeline.checkpoint.trainer import ResumableTrainer
from pipeline.data.prepare import grpo_rows, has_images, held_out, rollout_rows, tell
from pipeline.handoff import Finished, adapter_settings, save_model
from pipeline.progress import show_progress
from pipeline.recipe.problem import mistakes
from pipeline.recipe.schema import GrpoStage, Recipe
from pipeline.recipe.trainer_arguments import grpo_arguments
from pipeline.rollout import engine
from pipeline.rollout.dynamic_sampling import Rollouts, replace_groups
from pipeline.rollout.pass_rates import within
from pipeline.rollout.weight_sync import keep_current
from rewards.contract import RewardError
from rewards.response import Response, parse


def run(
    recipe: Recipe, stage: GrpoStage, model_in: str, out: Path, title: str, pass_rates: dict[str, float] | None = None
) -> Finished:
    """Train the policy `model_in` (a folder or a hub id) on the stage's prompts; save a full checkpoint to `out/model`.

    The reference model of a stage with `beta` is `model_in`, the checkpoint that the stage starts from: TRL loads it
    from its path, or turns off the adapter, which is new in each stage.

    `title` heads the progress bar; `pass_rates` by row id choose the rows, where the stage has a `difficulty`.
    """
    with mistakes(recipe.name, f"{stage.name}_inputs"):
        chat, data = Chat(model_in, recipe.revision_of(model_in)), recipe.data[stage.data]
        args = grpo_arguments(recipe, stage, model_in, out, chat.config)
        with args.main_process_first(desc="rows"):  # the others take them from its cache
            rows = rollout_rows(data, chat, stage, held_out(recipe, stage))
        rows = grpo_rows(within(rows, stage, pass_rates) if pass_rates else rows, data, stage)
        if args.vllm_enable_sleep_mode and not torch.cuda.is_available():
            raise ValueError("vllm_enable_sleep_mode: vLLM sleeps on GPUs only; leave it out on a CPU")
        if args.use_vllm and args.vllm_mode == "server" and args.process_index == 0:
            engine.check_server(args, model_in, tell)
    trainer = RolloutTrainer(
        model=model_in,
        chat=chat,
        stage=stage,
        reward_funcs=[reward.function() for reward in stage.rewards],
        args=args,
        train_dataset=rows,
        **adapter_settings(stage.lora, recipe.model.dtype),
    )
    show_progress(trainer, title, out / "metrics.jsonl")
    trainer.train_on()
    return save_model(trainer, out, recipe.model.dtype, rollouts="vllm" if trainer.use_vllm else "transformers")


class RolloutTrainer(ResumableTrainer, GRPOTrainer):
    """`GRPOTrainer` whose rollouts answer what is trained, with the weights that are trained, or stop the run.

    * A colocated engine gets prompts with one placeholder an image, as vLLM expects. TRL 1.16 hands it the processor's
      ids, in which a placeholder already stands once for each image feature, and vLLM expands the first of them again:
      the engine then answers another prompt than the one that is trained (huggingface/trl#6294, open). Server mode
      looks for the expanded runs itself and is left alone. Either way, the prompt that the engine read is compared.
    * Rewards and logs read what the evaluation reads: `Chat.response` of the sampled tokens. TRL's own text lacks
      special tokens, the `<think>` that a template opens in the prompt, and what a response template moves elsewhere.
    """

    def __init__(self, *args: Any, chat: Chat, stage: GrpoStage, **kwargs: Any) -> None:
        config = kwargs["args"]
        dtype = "bfloat16" if config.bf16 else (config.model_init_kwargs or {}).get("dtype", "float32")
        with engine.computing_in(dtype):
            super().__init__(*args, processing_class=chat.processor, **kwargs)
        self.chat, self.stage = chat, stage
        self.pictured = has_images(self.train_dataset)
        self.constant_rewards = ConstantRewards(self.reward_func_names)
        self.scored: torch.Tensor | None = None  # rewards that this generation's completions already have
        if self.use_vllm:
            keep_current(self.vllm_generation)
            self.vllm_generation.generate = self._of_these_prompts(self.vllm_generation.generate)
            engine.end_hangs(self.vllm_generation, stage.rollout_timeout)
            if not self.vllm_importance_sampling_correction:
                tell(f"WARNING {stage.name}: nothing compares vLLM's log-probabilities with the trainer's when "
                     "vllm_importance_sampling_correction is off; stale weights would go unnoticed")  # fmt: skip

    def is_save_point(self) -> bool:
        """Where a generation is used up: TRL keeps its completions in no checkpoint."""
        return bool(self._step % (self.args.steps_per_generation * self.num_iterations) == 0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        written = bool(self._logs["prompt"])  # a run that resumes at its end has none
        self.log_completions = self.args.log_completions and written
        super().log(logs, start_time)

    # --- which prompts ---

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        return OneModality(sampler, self.pictured) if len({*self.pictured}) == 2 else sampler

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        self._trained_prompt_ids = self._engine_prompt_ids = prompt_ids
        if self.use_vllm and self.vllm_mode == "colocate" and images is not None:
            conversations = [prepare_multimodal_messages(prompt) for prompt in prompts]
            texts = self.processing_class.apply_chat_template(
                conversations, chat_template=self.chat_template, add_generation_prompt=True, **self.chat_template_kwargs
            )
            self._engine_prompt_ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return prompt_ids, images, fields

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._generate_single_turn(self._engine_prompt_ids, *args, **kwargs)

    def _of_these_prompts(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            answered = generate(*args, **kwargs)
            for read, trained in zip(answered[0], self._trained_prompt_ids, strict=True):
                if list(read) != list(trained):
                    raise engine.RolloutError(
                        f"vLLM read a prompt of {len(read)} tokens where the trainer has {len(trained)}: they expand "
                        "its images differently. Compare the processor's files in the two, and mm_processor_kwargs"
                    )
            return answered

        return checked

    # --- what comes back ---

    def _generate(self, prompts: list[Any]) -> Any:
        """As TRL's; where the recipe asks for it, groups without contrast are replaced, in `prompts` too."""
        rollouts = self._roll_out(prompts)
        if self.stage.dynamic_sampling and self.model.training:
            rollouts = replace_groups(self, prompts, rollouts)
        return rollouts

    def _roll_out(self, prompts: list[Any]) -> Rollouts:
        return Rollouts(*super()._generate(prompts))

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        """The rewards of all ranks, N completions by F functions; NaN where a function gave None."""
        if self.scored is not None:
            rewards, self.scored = self.scored, None
        else:
            rewards = self._score(inputs, prompts, completions, completion_ids)
        if rewards.isnan().all():
            names = ", ".join(self.reward_func_names)
            raise RewardError(f"step {self.state.global_step}: every reward gave None for every completion ({names})")
        if self.model.training:
            self.constant_rewards.see(rewards, self.totals(rewards), self.state.global_step)
        return rewards

    def _score(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> torch.Tensor:
        """As `_calculate_rewards`; the texts in `completions`, which are logged, become the ones that are read."""
        completions[:] = [[{"role": "assistant", "content": self.chat.response(ids)}] for ids in completion_ids]
        lengths = [self.chat.length(ids) for ids in completion_ids]
        cut = [length == len(ids) for length, ids in zip(lengths, completion_ids, strict=True)]
        inputs = [{**row, "truncated": truncated} for row, truncated in zip(inputs, cut, strict=True)]
        for completion, ids, length in zip(completions, completion_ids, lengths, strict=True):
            think = self.chat.answer_start(ids[:length])
            self._log_metric("format_rate", float(isinstance(parse(completion[0]["content"]), Response)))
            self._log_metric("completions/think_tokens", float(think))
            self._log_metric("completions/answer_tokens", float(length - think))
        for column in ("id", "answer"):
            if column in inputs[0]:
                self._log_completion_extra(column, [row[column] for row in inputs])
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        return rewards

    def totals(self, rewards: torch.Tensor) -> torch.Tensor:
        """The weighted sum of `rewards` (N completions by F functions), groups by completions."""
        return (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1).view(-1, self.num_generations)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.inputs = inputs
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.use_vllm and self.vllm_importance_sampling_correction:
            measured = self._metrics["train" if self.model.training else "eval"]
            difference, ratio = (measured[name][-1] for name in (DIFFERENCE, RATIO))
            check_agreement(difference, ratio, self.stage.max_logp_difference, self.state.global_step)
        return output


class OneModality(RepeatSampler):
    """TRL's order of prompts, in which each generation has prompts with images or prompts without, not both.

    transformers' processors and TRL 1.16 (`trl/trainer/grpo_trainer.py:1702,2529`) take no mixture.
    """

    def __init__(self, sampler: RepeatSampler, pictured: Sequence[bool]) -> None:
        self.__dict__ |= sampler.__dict__
        self.pictured = pictured

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.num_samples, generator=self.generator) if self.shuffle else range(self.num_samples)
        chunks: list[list[int]] = []
        filling: dict[bool, list[int]] = {True: [], False: []}
        for index in map(int, order):
            chunk = filling[self.pictured[index]]
            chunk.append(index)
            if len(chunk) == self.batch_size:
                chunks.append(chunk.copy())
                chunk.clear()
        for chunk in chunks:
            for _ in range(self.repeat_count):
                for index in chunk:
                    yield from [index] * self.mini_repeat_count

    def __len__(self) -> int:
        whole = sum(self.pictured.count(kind) // self.batch_size for kind in (True, False))
        return int(whole * self.batch_size * self.mini_repeat_count * self.repeat_count)


# --- alarms -----------------------------------------------------------------------------------------------------------

DIFFERENCE = "sampling/sampling_logp_difference/mean"
RATIO = "sampling/importance_sampling_ratio/mean"
LOWEST_RATIO = 0.1  # our choice: nine tenths of what is learned from the completions is gone


def check_agreement(difference: float, ratio: float, limit: float, step: int) -> None:
    """That the rollout engine and the trainer agree about the tokens of a generation, before a step is taken on it.

    Both hold the same weights, so the mean absolute difference of their log-probabilities (in nats) is rounding, and
    the mean of the trainer's probability over the engine's is near 1. Where the engine keeps old weights they are not;
    the importance correction then scales the loss to nothing, and GRPO silently learns nothing.

    Raises:
        RolloutError: they do not.
    """
    if difference <= limit and LOWEST_RATIO <= ratio <= 1 / LOWEST_RATIO:
        return
    measured = (
        f"step {step}: the rollout engine's log-probabilities differ from the trainer's by {difference:.4f} nats on "
        f"average (max_logp_difference: {limit}), the mean importance ratio is {ratio:.4f} (allowed: {LOWEST_RATIO} to "
        f"{1 / LOWEST_RATIO:g})"
    )
    if difference <= limit:
        causes = "small differences over many tokens: ratios of single tokens (vllm_importance_sampling_mode: "
        causes += "token_truncate) do not multiply them"
    else:
        causes = "weights that did not reach the engine (tied embeddings, stale vision features, a server of another "
        causes += "model), a different dtype or attention in the two, or sampling settings that change probabilities "
        causes += "after the fact (a repetition penalty, top_p, a logit bias)"
    raise engine.RolloutError(f"{measured}. The likely causes: {causes}")


class ConstantRewards:
    """Says on stderr when rewards have told completions apart nowhere for `PATIENCE` generations in a row.

    A group whose completions all get the same has no advantage: nothing is learned from it, and nothing else says so.
    """

    PATIENCE = 10  # our choice

    def __init__(self, names: Sequence[str]) -> None:
        self.flat = dict.fromkeys([*names, ""], 0)  # generations in a row; "" is the weighted sum within each group

    def see(self, rewards: torch.Tensor, totals: torch.Tensor, step: int) -> None:
        """Look at one generation: `rewards` are N completions by F functions, `totals` groups by completions."""
        spread = dict(zip(self.flat, [column[~column.isnan()] for column in rewards.T], strict=False))
        flat = {name: bool((values == values[:1]).all()) for name, values in spread.items()}
        flat[""] = bool((totals == totals[:, :1]).all())
        for name, is_flat in flat.items():
            self.flat[name] = self.flat[name] + 1 if is_flat else 0
            if self.flat[name] == self.PATIENCE:
                what = f"reward {name!r} gave one value to every completion" if name else _NO_ADVANTAGE
                tell(f"WARNING step {step}: {what} of the last {self.PATIENCE} generations")


_NO_ADVANTAGE = "all completions of each group got the same reward, so nothing is learned,"
