"""Weights from the trainer into vLLM: whole, under names that it reads, and without stale caches.

TRL 1.16 walks the trainer's parameters and hands each to `model.load_weights` of a colocated engine, or streams them
to a server (`trl/generation/vllm_generation.py:435-517`). Right for Qwen and Llama on a GPU when all weights but the
vision tower's are trained; elsewhere there are four gaps, each a candidate for upstream:
  * Names. Parameters go by the names of the trainer's modules, but vLLM's loaders read those of checkpoints. With
    transformers 5, the vision towers of LLaVA-NeXT and Gemma-3 differ (`vision_tower.encoder` against
    `vision_tower.vision_model.encoder`, `transformers/conversion_mapping.py:728`), and the first push ends in "There is
    no module or parameter named 'vision_tower.embeddings'". Here they go by the names that `save_pretrained` writes.
    Delete when TRL sends those.
  * Adapters. `merge_adapter` and `unmerge_adapter` around each push (`:448-469`) round the base weights twice in place:
    in bfloat16 the base, which is also the KL reference, drifts from step to step. Here the sum is computed aside.
    Delete when TRL leaves the base alone (huggingface/trl#6688), or sends the adapter (huggingface/trl#6007).
  * CPU. vLLM's linears prepack their weight and drop it (`vllm/model_executor/layers/linear.py:206`), so that there is
    nothing to load into. The worker's `reload_weights` rebuilds the layers, but a head that is tied to the embeddings
    keeps its old pack: it is pointed at the new embeddings and packed again. Delete when vLLM loads into such layers.
  * Vision caches. Outputs of the vision tower are kept by the hash of the image, across requests; TRL resets only the
    prefix cache (`:513-517`), so an image that was seen before keeps the features of old weights. The engine's reset
    clears scheduler and worker together; the worker's alone ends in "Encoder cache miss"
    (`vllm/v1/worker/gpu_model_runner.py:3243`). Delete when TRL resets both (huggingface/trl#7200, open).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.core_model_loading import revert_weight_conversion

Weights = Iterator[tuple[str, torch.Tensor]]


def keep_in_sync(generation: Any) -> None:
    """Make each `sync_weights` of `generation`, a `VLLMGeneration` of TRL, leave the trainer's weights there."""
    trl_walk, trl_push = generation._iter_named_params, generation.sync_weights
    generation._iter_named_params = lambda: _by_checkpoint_names(generation, trl_walk)
    generation.sync_weights = lambda: _push(generation, trl_push)


def _push(generation: Any, trl_push: Callable[[], None]) -> None:
    from vllm.platforms import current_platform

    if generation.mode == "server":
        trl_push()
        if generation.accelerator.is_main_process:
            client = generation.vllm_client
            client.session.post(f"{client.base_url}/reset_encoder_cache").raise_for_status()
        return
    if current_platform.is_cpu():
        worker = generation.llm.llm_engine.model_executor.driver_worker
        worker.reload_weights(weights_iterator=generation._iter_named_params())
        _repack_tied_head(worker.model_runner.model)
        generation.llm.reset_mm_cache()  # the worker has dropped its half of it
        generation.llm.reset_prefix_cache()
    else:
        trl_push()
    generation.llm.llm_engine.reset_encoder_cache()


def _by_checkpoint_names(generation: Any, trl_walk: Callable[[], Weights]) -> Weights:
    """The trainer's weights as `save_pretrained` would name them, adapters merged; one at a time."""
    model = generation.model
    sharded = generation._dist.is_fsdp or generation._dist.is_zero3
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for name, weight in _merged(base) if isinstance(model, PeftModel) and not sharded else trl_walk():
        yield from revert_weight_conversion(base, {name: weight}).items()


def _merged(base: nn.Module) -> Weights:
    """The weights of `base` with its LoRA layers' update added, which is left as it is."""
    for name, parameter in base.named_parameters():
        weight = parameter.data
        path, _, kind = name.rpartition(".base_layer.")
        layer: Any = base.get_submodule(path) if path else None
        if isinstance(layer, BaseTunerLayer) and kind == "weight":
            for adapter in layer.active_adapters:
                weight = (weight + layer.get_delta_weight(adapter).detach()).to(weight.dtype)
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), weight


def _repack_tied_head(model: nn.Module) -> None:
    decoder: Any = getattr(model, "language_model", model)
    if getattr(decoder.config, "tie_word_embeddings", False):
        head = decoder.lm_head
        head.weight = decoder.model.embed_tokens.weight
        head.quant_method.process_weights_after_loading(head)
