"""Decode a checkpoint's responses to rows, greedy or sampled: by transformers' `generate` or by vLLM's engine."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
    set_seed,
)

from eval.chat import ChatFormat
from eval.checkpoint import TAKEN, Backend, Checkpoint, opened
from eval.task import NEUTRAL


@dataclass(frozen=True)
class Decoded:
    """One response."""

    text: str  # special tokens kept, the final end-of-turn token removed
    truncated: bool  # no end-of-turn token within the limit
    think_tokens: int
    answer_tokens: int


class Decoder(Protocol):
    """A loaded checkpoint."""

    batches: ClassVar[int]  # worth handing over at a time
    chat: ChatFormat
    context: int | None  # tokens of a prompt and its response together; None where nothing limits them

    def decode(
        self, rows: Sequence[dict[str, Any]], max_new_tokens: int, temperature: float | None, seed: int
    ) -> list[Decoded]:
        """One response a row; `temperature=None` is greedy. Sampling is repeatable for a seed and a batch.

        A response ends where the context does. Each prompt must leave room for a token (`ChatFormat.prompt_tokens`).
        """
        ...


@contextmanager
def loaded(checkpoint: str, dtype: str, revision: str | None = None, backend: Backend = "auto") -> Iterator[Decoder]:
    """`opened`, with its weights loaded. Raises: see there."""
    with opened(checkpoint, dtype, revision, backend) as found, decoder_of(found) as decoder:
        yield decoder


@contextmanager
def decoder_of(checkpoint: Checkpoint) -> Iterator[Decoder]:
    """The checkpoint, ready to decode; its memory is free again afterwards."""
    checkpoint.merge()
    if checkpoint.backend == "transformers":
        yield TransformersDecoder(checkpoint.chat, checkpoint.dtype)
        return
    engine = VllmDecoder(checkpoint.chat, checkpoint.dtype)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def plain_generation(model: torch.nn.Module) -> Iterator[None]:
    """`generate` takes of the checkpoint's own settings the tokens alone (`TAKEN`).

    Left as they are, it adds each setting that the caller does not name: beams, penalties, banned n-grams. Those are
    kept aside for whoever saves the model.
    """
    holders = [
        module for module in model.modules() if isinstance(vars(module).get("generation_config"), GenerationConfig)
    ]
    own = [module.generation_config for module in holders]
    for module, settings in zip(holders, own, strict=True):
        module.generation_config = GenerationConfig(**{name: getattr(settings, name, None) for name in TAKEN})
    try:
        yield
    finally:
        for module, settings in zip(holders, own, strict=True):
            module.generation_config = settings


def vision_token_ids(config: PretrainedConfig) -> list[int]:
    """Ids of the image, video and vision markers that a model's configuration names; empty for text models."""
    pattern = re.compile(r"(image|video|vision|boi|eoi)_.*token_(id|index)|(boi|eoi|image|video)_token_(id|index)")
    named = {name: value for name, value in config.to_dict().items() if pattern.fullmatch(name)}
    return sorted({value for value in named.values() if isinstance(value, int)})


def _decoded(chat: ChatFormat, ids: list[int]) -> Decoded:
    length = chat.length(ids)
    split = chat.answer_start(ids[:length])
    return Decoded(chat.response(ids), length == len(ids), split, length - split)


def _room(context: int | None, prompt_tokens: int, max_new_tokens: int) -> int:
    """Tokens that a response may have, at least one."""
    return max_new_tokens if context is None else max(min(max_new_tokens, context - prompt_tokens), 1)


class TransformersDecoder:
    """`generate`, in batches, padded on the left."""

    batches: ClassVar[int] = 1

    def __init__(self, chat: ChatFormat, dtype: str) -> None:
        self.chat, self.context = chat, chat.context
        self.tokenizer = chat.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loader = AutoModelForImageTextToText if chat.is_vlm else AutoModelForCausalLM
        try:
            loading = loader.from_pretrained(chat.checkpoint, dtype=dtype, revision=chat.revision)
        except SafetensorError as error:
            raise ValueError(f"model {chat.checkpoint!r}: its weights are damaged: {error}") from error
        self.model: Any = loading.eval().to(device)
        self.banned = vision_token_ids(chat.config)

    def decode(
        self, rows: Sequence[dict[str, Any]], max_new_tokens: int, temperature: float | None, seed: int
    ) -> list[Decoded]:
        set_seed(seed)
        decoded: dict[int, Decoded] = {}
        for pictured in (True, False):  # together, texts would be padded to the length of images
            indices = [index for index, row in enumerate(rows) if bool(row.get("images")) is pictured]
            if indices:
                responses = self._decode([rows[index] for index in indices], max_new_tokens, temperature)
                decoded |= zip(indices, responses, strict=True)
        return [decoded[index] for index in range(len(rows))]

    def _decode(
        self, rows: Sequence[dict[str, Any]], max_new_tokens: int, temperature: float | None
    ) -> Iterator[Decoded]:
        inputs = self._inputs(rows).to(self.model.device)
        sampling = {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature}
        rooms = [_room(self.context, length, max_new_tokens) for length in inputs["attention_mask"].sum(1).tolist()]
        with torch.inference_mode(), plain_generation(self.model):
            output_BT = self.model.generate(
                **inputs,
                **sampling,
                **NEUTRAL,
                max_new_tokens=max(rooms),
                suppress_tokens=self.banned or None,
                eos_token_id=sorted(self.chat.ends),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        for ids, room in zip(output_BT[:, inputs["input_ids"].shape[1] :].tolist(), rooms, strict=True):
            yield _decoded(self.chat, ids[:room])

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


class VllmDecoder:
    """vLLM's engine, in a process of its own, so that its memory ends with it. One engine a rank, on the rank's GPU."""

    batches: ClassVar[int] = 8  # an engine fills the places of what has ended; a small batch leaves most of them empty

    def __init__(self, chat: ChatFormat, dtype: str) -> None:
        self.chat = chat
        self.banned = vision_token_ids(chat.config)
        with _one_gpu():
            from vllm import LLM

            self.engine: Any = LLM(
                model=chat.checkpoint,
                revision=chat.revision,
                dtype=dtype,
                max_model_len=-1,  # as long as the memory allows, at most what the model was made for
                use_tqdm_on_load=False,
            )
        lengths = [chat.context, self.engine.model_config.max_model_len]
        self.context: int | None = min(length for length in lengths if length)

    def decode(
        self, rows: Sequence[dict[str, Any]], max_new_tokens: int, temperature: float | None, seed: int
    ) -> list[Decoded]:
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                **NEUTRAL,
                temperature=temperature or 0.0,
                seed=None if temperature is None else seed + index,
                max_tokens=max_new_tokens,  # fewer, where the context ends
                stop_token_ids=sorted(self.chat.ends),
                skip_special_tokens=False,
                logit_bias=dict.fromkeys(self.banned, -100.0) or None,
            )
            for index in range(len(rows))
        ]
        outputs = self.engine.generate([self._prompt(row) for row in rows], settings, use_tqdm=False)
        return [_decoded(self.chat, list(output.outputs[0].token_ids)) for output in outputs]

    def close(self) -> None:
        self.engine.llm_engine.engine_core.shutdown()  # Delete when `LLM` has an end (vllm-project/vllm#36283)

    def _prompt(self, row: dict[str, Any]) -> dict[str, Any]:
        """One placeholder an image, which vLLM itself expands; no token is added to what the template wrote."""
        images = row.get("images") or []
        prompt: dict[str, Any] = {"prompt_token_ids": self.chat.ids(self.chat.prompt_text(row["question"], images))}
        return {**prompt, "multi_modal_data": {"image": list(images)}} if images else prompt


@contextmanager
def _one_gpu() -> Iterator[None]:
    """Of the GPUs that this rank's launcher shows to all, the engine's process sees this rank's alone."""
    rank, shown = os.environ.get("LOCAL_RANK"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if rank is None or not torch.cuda.is_available():
        yield
        return
    gpus = shown.split(",") if shown else [str(number) for number in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(rank)]
    try:
        yield
    finally:
        if shown is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = shown
