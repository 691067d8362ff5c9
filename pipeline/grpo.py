"""Stage kind `grpo`: TRL's GRPOTrainer from the last stage's folder, with rollouts by vLLM or transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.generation import vllm_generation

from eval.chat import Chat
from eval.decode import vision_token_ids
from pipeline.data import grpo_rows, tell
from pipeline.handoff import Finished, adapter_settings, save_model, trainer_settings
from pipeline.progress import show_progress
from pipeline.recipe import GrpoStage, Recipe, mistakes
from pipeline.weight_push import keep_current
from rewards.checked import RewardError


def run(recipe: Recipe, stage: GrpoStage, model_in: str, out: Path, title: str) -> Finished:
    """Train the policy `model_in` (a folder or a hub id) on the stage's prompts; save a full checkpoint to `out/model`.

    `title` heads the progress bar.
    """
    settings = trainer_settings(recipe, stage.trainer, model_in, out)
    settings["reward_weights"] = [reward.weight for reward in stage.rewards]
    with mistakes(recipe.name, f"{stage.name}_inputs"):
        chat = Chat(model_in, settings["model_init_kwargs"]["revision"])
        banned = banned_from_sampling(vision_token_ids(chat.config), bool(settings.get("use_vllm")))
        settings["generation_kwargs"] = {**banned, **settings.get("generation_kwargs", {})}
        args, rows = GRPOConfig(**settings), grpo_rows(recipe.data[stage.data], chat, stage.rewards)
    trainer = RolloutTrainer(
        model=model_in,
        chat=chat,
        reward_funcs=[reward.function() for reward in stage.rewards],
        args=args,
        train_dataset=rows,
        **adapter_settings(stage.lora, recipe.model.dtype),
        callbacks=[StaleWeightsAlarm(stage.max_logp_difference)],
    )
    show_progress(trainer, title, out / "metrics.jsonl")
    trainer.train()
    return save_model(trainer, out, rollouts="vllm" if trainer.use_vllm else "transformers")


class RolloutTrainer(GRPOTrainer):
    """`GRPOTrainer` whose colocated vLLM engine gets prompts with one placeholder an image, as vLLM expects.

    TRL 1.16 hands it the processor's ids, in which a placeholder already stands once for each image feature, and vLLM
    expands the first of them again: the engine then answers another prompt than the one that is trained
    (huggingface/trl#6294, open). Server mode looks for the expanded runs itself and is left alone.

    Rewards read what the evaluation reads: `Chat.response` of the sampled tokens. TRL's own text lacks special tokens,
    the `<think>` that a template opens in the prompt, and what a tokenizer's response template moves elsewhere.
    """

    def __init__(self, *args: Any, chat: Chat, **kwargs: Any) -> None:
        with _engine_dtype("bfloat16" if kwargs["args"].bf16 else kwargs["args"].model_init_kwargs["dtype"]):
            super().__init__(*args, processing_class=chat.processor, **kwargs)
        self.chat = chat
        self.constant_rewards = ConstantRewards(self.reward_func_names)
        if self.use_vllm:
            keep_current(self.vllm_generation)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        """The rewards of all ranks, N completions by F functions; NaN where a function gave None."""
        completions = [[{"role": "assistant", "content": self.chat.response(ids)}] for ids in completion_ids]
        cut = [self.chat.length(ids) == len(ids) for ids in completion_ids]
        inputs = [{**row, "truncated": truncated} for row, truncated in zip(inputs, cut, strict=True)]
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        if rewards.isnan().all():
            names = ", ".join(self.reward_func_names)
            raise RewardError(f"step {self.state.global_step}: every reward gave None for every completion ({names})")
        if self.model.training:
            group = self.num_generations
            totals = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1).view(-1, group)
            self.constant_rewards.see(rewards, totals, self.state.global_step)
        return rewards

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        self._engine_prompt_ids = prompt_ids
        if self.use_vllm and self.vllm_mode == "colocate" and images is not None:
            conversations = [prepare_multimodal_messages(prompt) for prompt in prompts]
            texts = self.processing_class.apply_chat_template(
                conversations, chat_template=self.chat_template, add_generation_prompt=True, **self.chat_template_kwargs
            )
            self._engine_prompt_ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return prompt_ids, images, fields

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._generate_single_turn(self._engine_prompt_ids, *args, **kwargs)


@contextmanager
def _engine_dtype(dtype: str) -> Iterator[None]:
    """Colocated engines made in this context compute in the trainer's `dtype`.

    TRL 1.16 leaves it to vLLM, whose "auto" turns a float32 checkpoint into bfloat16: a policy that the trainer does
    not have, and on a CPU the slower one.
    """
    whole = getattr(vllm_generation, "LLM", None)  # absent without vLLM
    vllm_generation.LLM = partial(whole, dtype=dtype, use_tqdm_on_load=False) if whole else None
    try:
        yield
    finally:
        vllm_generation.LLM = whole


def banned_from_sampling(token_ids: list[int], use_vllm: bool) -> dict[str, Any]:
    """Sampling arguments that keep image placeholders out of completions.

    A sampled one stops the step with "Image features and image tokens do not match": TRL 1.16 suppresses only the image
    token itself, and only without vLLM.
    """
    if not token_ids:
        return {}
    return {"logit_bias": dict.fromkeys(token_ids, -100.0)} if use_vllm else {"suppress_tokens": token_ids}


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


class StaleWeightsAlarm(TrainerCallback):
    """Stops the run when the rollout engine and the trainer disagree about the same tokens.

    Both hold the same weights, so the mean absolute difference of their log-probabilities is rounding. It grows when
    the engine keeps old weights (a head tied to embeddings, cached vision features); GRPO then silently learns nothing.
    """

    METRIC = "sampling/sampling_logp_difference/mean"

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        difference = (logs or {}).get(self.METRIC)
        if difference is not None and difference > self.limit:
            raise RuntimeError(
                f"step {state.global_step}: the rollout engine's log-probabilities differ from the trainer's by "
                f"{difference:.4f} nats on average (max_logp_difference: {self.limit}). The likely causes: weights "
                "that did not reach the engine (tied embeddings, stale vision features), a different dtype or "
                "attention in the two, or sampling settings that change probabilities after the fact"
            )
