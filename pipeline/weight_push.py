"""Weights from the trainer into a colocated vLLM engine, whole and without stale caches.

TRL 1.16 hands parameters to `model.load_weights` (`trl/generation/vllm_generation.py:509`) and resets the prefix cache.
That leaves two gaps, both candidates for upstream:
  * vLLM's CPU linears prepack their weight and drop the original (`vllm/model_executor/layers/linear.py:206`), so there
    is nothing to load into. `reload_weights` of the worker rebuilds the layers, but a head tied to the embeddings keeps
    its old pack: it is pointed at the new embeddings and packed again.
  * Outputs of the vision tower are cached by the hash of the image, across requests, in the engine and in the worker.
    Both are reset together; the worker alone forgetting them ends in "Encoder cache miss".
"""

from collections.abc import Callable
from typing import Any

from torch import nn


def push_weights(generation: Any, trl_push: Callable[[], None]) -> None:
    """Make the engine of `generation`, a `trl.generation.VLLMGeneration` in colocate mode, use the trainer's weights.

    Args:
        generation: holds the trainer's model and the engine.
        trl_push: TRL's own `sync_weights`, right wherever vLLM keeps plain weights.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        worker = generation.llm.llm_engine.model_executor.driver_worker
        worker.reload_weights(weights_iterator=generation._iter_named_params())
        _repack_tied_head(worker.model_runner.model)
    else:
        trl_push()
    generation.llm.llm_engine.reset_encoder_cache()
    generation.llm.reset_mm_cache()
    generation.llm.reset_prefix_cache()


def _repack_tied_head(model: nn.Module) -> None:
    decoder: Any = getattr(model, "language_model", model)
    if getattr(decoder.config, "tie_word_embeddings", False):
        head = decoder.lm_head
        head.weight = decoder.model.embed_tokens.weight
        head.quant_method.process_weights_after_loading(head)
