"""The GRPO trainer: what it asks, what the engine must have read, how answers become rewards."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import RepeatSampler

from eval.chat import ChatFormat
from eval.decode import plain_generation
from pipeline.checkpoint.trainer import ResumableTrainer
from pipeline.data.prepare import has_images
from pipeline.launch import tell
from pipeline.recipe.schema import GrpoStage
from pipeline.rollout.alarms import DIFFERENCE, RATIO, ConstantRewards, check_agreement
from pipeline.rollout.engine import RolloutError, computing_in, end_hangs
from pipeline.rollout.weight_sync import keep_in_sync
from rewards.contract import RewardError
from rewards.response import Response, parse


class RolloutTrainer(ResumableTrainer, GRPOTrainer):
    """`GRPOTrainer` whose rollouts answer what is trained, with the weights that are trained, or stop the run.

    * A colocated engine gets prompts with one placeholder an image, as vLLM expects. TRL 1.16 hands it the processor's
      ids, in which a placeholder already stands once for each image feature, and vLLM expands the first of them again:
      the engine then answers another prompt than the one that is trained. Server mode looks for the expanded runs
      itself and is left alone. Either way, the prompt that the engine read is compared. Delete when TRL hands over one
      placeholder an image (`trl/trainer/grpo_trainer.py:1776`; huggingface/trl#6294, open).
    * Rewards and logs read what the evaluation reads: `ChatFormat.response` of the sampled tokens. TRL's own text lacks
      special tokens, the `<think>` that a template opens in the prompt, and what a response template moves elsewhere.
    """

    def __init__(self, *args: Any, chat: ChatFormat, stage: GrpoStage, **kwargs: Any) -> None:
        config = kwargs["args"]
        dtype = "bfloat16" if config.bf16 else (config.model_init_kwargs or {}).get("dtype", "float32")
        with computing_in(dtype):
            super().__init__(*args, processing_class=chat.processor, **kwargs)
        self.chat, self.stage = chat, stage
        self.pictured = has_images(self.train_dataset)
        self.constant_rewards = ConstantRewards(self.reward_func_names)
        if self.use_vllm:
            keep_in_sync(self.vllm_generation)
            self.vllm_generation.generate = self._of_these_prompts(self.vllm_generation.generate)
            end_hangs(self.vllm_generation, stage.rollout_timeout)
            if not self.vllm_importance_sampling_correction:
                tell(f"WARNING {stage.name}: nothing compares vLLM's log-probabilities with the trainer's when "
                     "vllm_importance_sampling_correction is off; stale weights would go unnoticed")  # fmt: skip

    def is_save_point(self) -> bool:
        """Where a generation is used up. Delete when TRL keeps its completions in checkpoints (1.16: in none)."""
        return bool(self._step % (self.args.steps_per_generation * self.num_iterations) == 0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        written = bool(self._logs["prompt"])  # none, if resumed at its end. Delete when TRL then writes no table
        self.log_completions = self.args.log_completions and written
        super().log(logs, start_time)

    # --- which prompts ---

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        return SingleModalitySampler(sampler, self.pictured) if len({*self.pictured}) == 2 else sampler

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
        with plain_generation(self.model):
            return super()._generate_single_turn(self._engine_prompt_ids, *args, **kwargs)

    def _of_these_prompts(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def compared(*args: Any, **kwargs: Any) -> Any:
            answered = generate(*args, **kwargs)
            for read, trained in zip(answered[0], self._trained_prompt_ids, strict=True):
                if list(read) != list(trained):
                    raise RolloutError(
                        f"vLLM read a prompt of {len(read)} tokens where the trainer has {len(trained)}: they expand "
                        "its images differently. Compare the processor's files in the two, and mm_processor_kwargs"
                    )
            return answered

        return compared

    # --- what comes back ---

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        """The rewards of all ranks, N completions by F functions; NaN where a function gave None."""
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
        truncated = [length == len(ids) for length, ids in zip(lengths, completion_ids, strict=True)]
        inputs = [{**row, "truncated": cut_off} for row, cut_off in zip(inputs, truncated, strict=True)]
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
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.use_vllm and self.vllm_importance_sampling_correction:
            measured = self._metrics["train" if self.model.training else "eval"]
            difference, ratio = (measured[name][-1] for name in (DIFFERENCE, RATIO))
            check_agreement(difference, ratio, self.stage.max_logp_difference, self.state.global_step)
        return output


class SingleModalitySampler(RepeatSampler):
    """TRL's order of prompts, in which each generation has prompts with images or prompts without, not both.

    Delete when GRPOTrainer takes a mixture (huggingface/trl#5139, closed as if it did): TRL 1.16 puts None for what a
    prompt lacks (`trl/trainer/grpo_trainer.py:1702`), and no processor takes that beside others' images (`:2529`).
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
