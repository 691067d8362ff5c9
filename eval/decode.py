"""Decode a checkpoint's responses to rows: transformers `generate`, in batches, greedy or sampled."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, set_seed

from eval.chat import Chat


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


class Decoder:
    """A loaded checkpoint."""

    def __init__(self, checkpoint: str, dtype: str, revision: str | None = None) -> None:
        self.chat = Chat(checkpoint, revision)
        self.tokenizer = self.chat.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        auto = AutoModelForImageTextToText if self.chat.is_vlm else AutoModelForCausalLM
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = auto.from_pretrained(checkpoint, dtype=dtype, revision=revision).eval().to(device)
        self.banned = vision_token_ids(self.chat.config)

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
                eos_token_id=sorted(self.chat.ends),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        for ids in output_BT[:, inputs["input_ids"].shape[1] :].tolist():
            yield self._decoded(ids)

    def _inputs(self, rows: Sequence[dict[str, Any]]) -> Any:
        padding: dict[str, Any] = {"padding": True}  # a tokenizer takes itself what a processor hands on to its parts
        return self.chat.processor.apply_chat_template(
            [self.chat.conversation(row["question"], row.get("images") or []) for row in rows],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **({"processor_kwargs": padding} if self.chat.is_vlm else padding),
        )

    def _decoded(self, ids: list[int]) -> Decoded:
        length = self.chat.length(ids)
        split = self.chat.answer_start(ids[:length])
        return Decoded(self.chat.response(ids), length == len(ids), split, length - split)
