"""Decode a checkpoint's responses to rows: transformers `generate`, in batches, greedy or sampled."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    set_seed,
)
from trl.data_utils import prepare_multimodal_messages

from eval.rows import prompt
from rewards.response import answer_start


@dataclass(frozen=True)
class Decoded:
    """One response."""

    text: str  # special tokens kept, the final end-of-turn token removed
    truncated: bool  # no end-of-turn token within the limit
    think_tokens: int
    answer_tokens: int


def vision_token_ids(config: PretrainedConfig) -> list[int]:
    """Ids of the image, video and vision markers that a model's configuration names; empty for text models."""
    pattern = re.compile(r"(image|video|vision|boi|eoi)_.*token_(id|index)|(boi|eoi|image|video)_token_(id|index)")
    named = {name: value for name, value in config.to_dict().items() if pattern.fullmatch(name)}
    return sorted({value for value in named.values() if isinstance(value, int)})


def raw_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Token ids as the text that the grammar reads: special tokens kept, no blank removed."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


class Decoder:
    """A loaded checkpoint."""

    def __init__(self, checkpoint: str, dtype: str) -> None:
        config = AutoConfig.from_pretrained(checkpoint)
        self.processor: Any = AutoProcessor.from_pretrained(checkpoint)
        self.is_vlm = isinstance(self.processor, ProcessorMixin)
        self.tokenizer: Any = self.processor.tokenizer if self.is_vlm else self.processor
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        auto = AutoModelForImageTextToText if self.is_vlm else AutoModelForCausalLM
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = auto.from_pretrained(checkpoint, dtype=dtype).eval().to(device)
        self.banned = vision_token_ids(config)

    def decode(
        self, rows: Sequence[dict[str, Any]], max_new_tokens: int, temperature: float | None, seed: int
    ) -> Iterator[Decoded]:
        """One response a row; `temperature=None` is greedy. Sampling is repeatable for a seed and a batch."""
        set_seed(seed)
        inputs = self._inputs(rows).to(self.model.device)
        sampling = {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature}
        with torch.inference_mode():
            output_BT = self.model.generate(
                **inputs,
                **sampling,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                suppress_tokens=self.banned or None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        for ids in output_BT[:, inputs["input_ids"].shape[1] :].tolist():
            yield self._decoded(ids)

    def _inputs(self, rows: Sequence[dict[str, Any]]) -> Any:
        conversations: list[Any] = [prompt(row["question"]) for row in rows]
        if self.is_vlm:
            images = [row.get("images") or [] for row in rows]
            conversations = [
                prepare_multimodal_messages(conversation, images=shown)
                for conversation, shown in zip(conversations, images, strict=True)
            ]
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def _decoded(self, ids: list[int]) -> Decoded:
        ends = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends)
        length = next((index for index, token in enumerate(ids) if token in ends), len(ids))
        split = answer_start(ids[:length], partial(raw_text, self.tokenizer))
        return Decoded(raw_text(self.tokenizer, ids[:length]), length == len(ids), split, length - split)
