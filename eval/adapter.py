"""A LoRA adapter merged into its base: what evaluation decodes, and what a stage hands on."""

from pathlib import Path
from typing import Any

import transformers
from peft import PeftModel


def model_class(config: Any) -> Any:
    """The class of transformers that a checkpoint's `config` names.

    Raises:
        ValueError: it names none.
    """
    found = getattr(transformers, (config.architectures or ["none"])[0], None)
    if found is None:
        raise ValueError(f"the model's config.json names no architecture of transformers: {config.architectures}")
    return found


def merge_adapter(base: str, adapter: str | Path, adapter_revision: str | None = None, **loading: Any) -> Any:
    """The model `base` (a folder or a hub id) with `adapter` added to its weights, whole, in main memory.

    Args:
        loading: of the base, as `from_pretrained` takes it: `dtype`, `revision`.
    """
    config = transformers.AutoConfig.from_pretrained(base, revision=loading.get("revision"))
    model = model_class(config).from_pretrained(base, **loading)
    return PeftModel.from_pretrained(model, adapter, revision=adapter_revision).merge_and_unload()
