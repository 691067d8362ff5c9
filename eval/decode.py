"""Decode a checkpoint's responses to rows, greedy or sampled: by transformers' `generate` or by vLLM's engine."""

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    set_seed,
)
from transformers.utils.peft_utils import find_adapter_config_file

from eval.adapter import merge_adapter
from eval.chat import ChatFormat
from eval.files import weights_digest

Backend = Literal["auto", "vllm", "transformers"]


@dataclass(frozen=True)
class Decoded:
    """One response."""

    text: str  # special tokens kept, the final end-of-turn token removed
    truncated: bool  # no end-of-turn token within the limit
    think_tokens: int
    answer_tokens: int


class Decoder(Protocol):
    """A loaded checkpoint."""

    backend: ClassVar[str]
    batches: ClassVar[int]  # worth handing over at a time
    chat: ChatFormat
    weights_digest: str

    def decode(
        self, rows: Sequence[dict[str, Any]], max_new_tokens: int, temperature: float | None, seed: int
    ) -> list[Decoded]:
        """One response a row; `temperature=None` is greedy. Sampling is repeatable for a seed and a batch."""
        ...


@contextmanager
def loaded(checkpoint: str, dtype: str, revision: str | None = None, backend: Backend = "auto") -> Iterator[Decoder]:
    """A full checkpoint or an adapter (a folder or a hub id), ready to decode; its memory is free again afterwards.

    `auto` is vLLM where it is installed, there is a GPU, and it knows the architecture; else transformers.

    Raises:
        ValueError: there is no such checkpoint, or `vllm` was asked for and cannot serve it.
    """
    with _whole(checkpoint, dtype, revision) as folder:
        chat = ChatFormat(folder, revision if folder == checkpoint else None)
        digest = _weights_digest(chat)
        problem = _vllm_problem(chat.config)
        if backend == "vllm" and problem:
            raise ValueError(f"model {checkpoint!r}: {problem}; use transformers to decode")
        if backend == "vllm" or (backend == "auto" and not problem and torch.cuda.is_available()):
            engine = VllmDecoder(chat, dtype, digest)
            try:
                yield engine
            finally:
                engine.close()
        else:
            if backend == "auto" and problem and torch.cuda.is_available():
                print(f"decoding by transformers, which is slower: {problem}", file=sys.stderr)
            yield TransformersDecoder(chat, dtype, digest)


@contextmanager
def _whole(checkpoint: str, dtype: str, revision: str | None) -> Iterator[str]:
    """The folder or hub id of a full checkpoint; an adapter is merged into its base."""
    try:
        adapter = find_adapter_config_file(checkpoint, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {checkpoint!r}: no such folder, and not found on the hub: {error}") from error
    if adapter is None:
        yield checkpoint
        return
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(checkpoint, revision=revision).base_model_name_or_path
    with tempfile.TemporaryDirectory(prefix="merged-") as folder:
        merge_adapter(base, checkpoint, revision, dtype=dtype).save_pretrained(folder)
        _own_processor(checkpoint, revision, AutoProcessor.from_pretrained(base)).save_pretrained(folder)
        yield folder


def _own_processor(adapter: str, revision: str | None, base: Any) -> Any:
    """The processor that was saved with the adapter; the base's where there is none of its kind."""
    try:
        own = AutoProcessor.from_pretrained(adapter, revision=revision)
    except (OSError, ValueError):
        return base
    return own if type(own) is type(base) else base


def _weights_digest(chat: ChatFormat) -> str:
    """Names the weights: a folder's by their content, the hub's by their commit."""
    if Path(chat.checkpoint).is_dir():
        return weights_digest(Path(chat.checkpoint))
    return f"{chat.checkpoint}@{getattr(chat.config, '_commit_hash', None) or chat.revision}"


def _vllm_problem(config: PretrainedConfig) -> str | None:
    """Why vLLM cannot serve such a model; None if it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed: pip install 'balanced-thinking[vllm]'"
    from vllm import ModelRegistry

    names = config.architectures or []
    if not {*names} & {*ModelRegistry.get_supported_archs()}:
        return f"vLLM does not know {', '.join(names) or 'its architecture'}"
    return None


def vision_token_ids(config: PretrainedConfig) -> list[int]:
    """Ids of the image, video and vision markers that a model's configuration names; empty for text models."""
    pattern = re.compile(r"(image|video|vision|boi|eoi)_.*token_(id|index)|(boi|eoi|image|video)_token_(id|index)")
    named = {name: value for name, value in config.to_dict().items() if pattern.fullmatch(name)}
    return sorted({value for value in named.values() if isinstance(value, int)})


def _decoded(chat: ChatFormat, ids: list[int]) -> Decoded:
    length = chat.length(ids)
    split = chat.answer_start(ids[:length])
    return Decoded(chat.response(ids), length == len(ids), split, length - split)


class TransformersDecoder:
    """`generate`, in batches, padded on the left."""

    backend: ClassVar[str] = "transformers"
    batches: ClassVar[int] = 1

    def __init__(self, chat: ChatFormat, dtype: str, digest: str) -> None:
        self.chat, self.weights_digest = chat, digest
        self.tokenizer = chat.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loader = AutoModelForImageTextToText if chat.is_vlm else AutoModelForCausalLM
        loading = loader.from_pretrained(chat.checkpoint, dtype=dtype, revision=chat.revision)
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
        with torch.inference_mode():
            output_BT = self.model.generate(
                **inputs,
                **sampling,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,  # left out, the checkpoint's own would be taken: rollouts have none
                max_new_tokens=max_new_tokens,
                suppress_tokens=self.banned or None,
                eos_token_id=sorted(self.chat.ends),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        for ids in output_BT[:, inputs["input_ids"].shape[1] :].tolist():
            yield _decoded(self.chat, ids)

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

    backend: ClassVar[str] = "vllm"
    batches: ClassVar[int] = 8  # an engine fills the places of what has ended; a small batch leaves most of them empty

    def __init__(self, chat: ChatFormat, dtype: str, digest: str) -> None:
        self.chat, self.weights_digest = chat, digest
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

    def decode(
        self, rows: Sequence[dict[str, Any]], max_new_tokens: int, temperature: float | None, seed: int
    ) -> list[Decoded]:
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                temperature=temperature or 0.0,
                seed=None if temperature is None else seed + index,
                max_tokens=max_new_tokens,
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
