"""A checkpoint that is named, and all that is known of it before its weights load."""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoProcessor, GenerationConfig, PretrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from eval.adapter import merge_adapter
from eval.chat import ChatFormat
from eval.files import text_digest, weights_digest

Backend = Literal["auto", "vllm", "transformers"]

# What `generate` takes from a checkpoint's own settings: its tokens. Rollouts have no other, nor has vLLM.
TAKEN = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
# What moves no token, or is said in every evaluation.
_IDLE: tuple[str, ...] = ("transformers_version", "do_sample", "use_cache", "max_length", "cache_implementation")
_IDLE += ("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate")


@dataclass(frozen=True)
class Checkpoint:
    """A full checkpoint, or an adapter whose base is known."""

    name: str  # the folder or hub id that was asked for
    revision: str | None  # of it on the hub
    dtype: str
    backend: str  # that decodes: vllm or transformers
    chat: ChatFormat
    adapter: "Adapter | None" = None

    @cached_property
    def digest(self) -> str:
        """Names the weights and all that is read beside them: folders by content, the hub's by commit."""
        own = _digest(self.name, self.revision)
        return text_digest(f"{own} {_digest(self.adapter.base, self.adapter.revision)}") if self.adapter else own

    def merge(self) -> None:
        """Merge an adapter into its base, in `chat`'s folder, which then holds a full checkpoint as any other."""
        if self.adapter:
            base, loading = self.adapter.base, {"dtype": self.dtype, "revision": self.adapter.revision}
            merge_adapter(base, self.name, self.revision, **loading).save_pretrained(self.chat.checkpoint)

    @cached_property
    def ignored(self) -> dict[str, Any]:
        """The checkpoint's own settings of generation that no response is drawn with."""
        try:
            own = GenerationConfig.from_pretrained(self.chat.checkpoint, revision=self.chat.revision).to_diff_dict()
        except OSError:  # it has none
            return {}
        return {name: value for name, value in own.items() if name not in {*TAKEN, *_IDLE} and not name.startswith("_")}


@dataclass(frozen=True)
class Adapter:
    """What a LoRA adapter is added to."""

    base: str
    revision: str | None


@contextmanager
def opened(checkpoint: str, dtype: str, revision: str | None = None, backend: Backend = "auto") -> Iterator[Checkpoint]:
    """A full checkpoint or an adapter, a folder or a hub id. Loads no weights.

    `auto` is vLLM where it is installed, there is a GPU, and it knows the architecture; else transformers.

    Raises:
        ValueError: there is no such checkpoint, or `vllm` was asked for and cannot serve it.
    """
    revision = None if Path(checkpoint).is_dir() else revision  # a folder has none
    with tempfile.TemporaryDirectory(prefix="merged-") as scratch:
        adapter = _adapter(checkpoint, revision)
        if adapter:
            _describe_merged(checkpoint, revision, adapter, scratch)
        chat = ChatFormat(scratch if adapter else checkpoint, None if adapter else revision)
        served = _backend(checkpoint, chat.config, backend)
        yield Checkpoint(checkpoint, revision, dtype, served, chat, adapter)


def _adapter(checkpoint: str, revision: str | None) -> Adapter | None:
    try:
        found = find_adapter_config_file(checkpoint, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {checkpoint!r}: no such folder, and not found on the hub: {error}") from error
    if found is None:
        return None
    try:
        config = json.loads(Path(found).read_text(encoding="utf-8"))
        return Adapter(str(config["base_model_name_or_path"]), config.get("revision"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"model {checkpoint!r}: {found} names no base model: {error!r}") from None


def _describe_merged(checkpoint: str, revision: str | None, adapter: Adapter, folder: str) -> None:
    """Save in `folder` all that the merged checkpoint has beside its weights."""
    try:
        AutoConfig.from_pretrained(adapter.base, revision=adapter.revision).save_pretrained(folder)
        base = AutoProcessor.from_pretrained(adapter.base, revision=adapter.revision)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"model {checkpoint!r}: an adapter; its base {adapter.base!r} cannot be read: {why}"
        ) from error
    _own_processor(checkpoint, revision, base).save_pretrained(folder)
    with suppress(OSError):  # it may have none
        GenerationConfig.from_pretrained(adapter.base, revision=adapter.revision).save_pretrained(folder)


def _own_processor(adapter: str, revision: str | None, base: Any) -> Any:
    """The processor that was saved with the adapter; the base's where there is none of its kind."""
    try:
        own = AutoProcessor.from_pretrained(adapter, revision=revision)
    except (OSError, ValueError):
        return base
    return own if type(own) is type(base) else base


def _digest(place: str, revision: str | None) -> str:
    if Path(place).is_dir():
        return weights_digest(Path(place))
    config = AutoConfig.from_pretrained(place, revision=revision)
    return f"{place}@{getattr(config, '_commit_hash', None) or revision}"


def _backend(checkpoint: str, config: PretrainedConfig, asked: Backend) -> str:
    if asked == "transformers" or (asked == "auto" and not torch.cuda.is_available()):
        return "transformers"
    problem = _vllm_problem(config)
    if problem and asked == "vllm":
        raise ValueError(f"model {checkpoint!r}: {problem}; use transformers to decode")
    if problem:
        print(f"decoding by transformers, which is slower: {problem}", file=sys.stderr)
    return "transformers" if problem else "vllm"


def _vllm_problem(config: PretrainedConfig) -> str | None:
    """Why vLLM cannot serve such a model; None if it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed: pip install 'balanced-thinking[vllm]'"
    from vllm import ModelRegistry

    names = config.architectures or []
    if not {*names} & {*ModelRegistry.get_supported_archs()}:
        return f"vLLM does not know {', '.join(names) or 'its architecture'}"
    return None
