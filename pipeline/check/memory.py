"""What one GPU holds while a stage trains, and what a checkpoint takes, by arithmetic; nothing is loaded for it.

The terms are those of ZeRO (arXiv 1910.02054, section 3), in the dtypes that the pipeline trains in, and the
activations of a micro-batch. `tests/pipeline/check/test_memory.py` holds them to what was measured.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import nn

from eval.adapter import model_class
from pipeline.checkpoint.trainer import files_bytes
from pipeline.handoff import adapter_settings
from pipeline.launch import processes, sharding
from pipeline.recipe.schema import GrpoStage, Recipe, SftStage
from pipeline.recipe.trainer_arguments import trained_dtype

FLOAT32 = 4
MOMENTS = 2  # of AdamW, in the dtype of what is trained
NF4 = 0.5 + 0.127 / 8  # bytes a weight, doubly quantized constants included (arXiv 2305.14314, section 3)


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU, by what takes them."""

    weights: int  # under DeepSpeed with its float32 copy
    gradients: int
    moments: int
    buckets: int  # in which DDP sums the gradients of all GPUs
    layers: int  # gathered whole while they compute, where weights are cut
    rows: int  # activations of a micro-batch, and the gradient of the head
    reference: int  # of `beta`
    engine_weights: int  # of a vLLM engine on the same GPUs; a part of `engine_share`
    engine_share: float  # of the GPU that it takes in all; 0 for none, and for one that sleeps meanwhile

    @property
    def trainer(self) -> int:
        """Of the GPU, without the engine."""
        return sum(value for name, value in asdict(self).items() if not name.startswith("engine"))


def skeleton(config: Any) -> Any:
    """The model that `config` describes, without its weights (on the device `meta`).

    Raises:
        ValueError: it names no architecture.
    """
    with torch.device("meta"):
        return model_class(config)(config)


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model, and of what a stage trains of it."""

    total: int
    trained: int
    layer: int  # the largest that is gathered at a time
    head: int
    linear: int  # of all linear layers but the head: what QLoRA rounds
    compute_bytes: int  # of a weight in the recipe's dtype
    param_bytes: int  # of a weight that the optimizer moves, as the model has it


def model_sizes(recipe: Recipe, stage: SftStage | GrpoStage, config: Any) -> Sizes:
    """`config` is the model's. Raises: ValueError: it names no architecture."""
    model = skeleton(config)
    total, head = _count(model.parameters()), model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    counted = {
        "layer": max((_count(module.parameters()) for module in layers), default=0),
        "head": _count(head.parameters()),
        "linear": sum(_count(module.parameters()) for module in linear),
    }
    trained, compute_bytes = total, getattr(torch, recipe.model.dtype).itemsize
    param_bytes = getattr(torch, trained_dtype(recipe, stage)).itemsize
    if stage.lora is not None:
        with torch.device("meta"):
            model = get_peft_model(model, adapter_settings(stage.lora, recipe.model.dtype)["peft_config"])
        trained = _count(weight for weight in model.parameters() if weight.requires_grad)
    elif sharding().startswith("zero"):
        param_bytes = compute_bytes  # beside the float32 copy
    return Sizes(total=total, trained=trained, compute_bytes=compute_bytes, param_bytes=param_bytes, **counted)


def _count(weights: Iterable[Any]) -> int:
    return sum(int(weight.numel()) for weight in weights)


def checkpoint_bytes(sizes: Sizes) -> int:
    """Of all files."""
    weights = sizes.trained * sizes.param_bytes
    return files_bytes(sharding(), weights, sizes.trained, MOMENTS * weights)


def memory(sizes: Sizes, stage: SftStage | GrpoStage, config: Any, tokens: int) -> Memory:
    """`tokens` are of the longest row of a micro-batch, prompt, images and response."""
    setting, mode, ranks = stage.settings(), sharding(), processes()
    part = ranks if mode in {"fsdp2", "zero3"} else 1
    optimizer_part = 1 if mode == "none" else ranks
    own, trained = sizes.total * sizes.param_bytes, sizes.trained
    if stage.lora is not None:
        own += trained * sizes.param_bytes
        own -= round(sizes.linear * (sizes.compute_bytes - NF4)) if stage.lora.load_in_4bit else 0
    copy, moments = 0, MOMENTS * trained * sizes.param_bytes
    if mode.startswith("zero"):
        copy, moments = trained * FLOAT32, MOMENTS * trained * FLOAT32
    text = config.get_text_config()
    width, depth = text.hidden_size, text.num_hidden_layers
    a_token = width * depth * sizes.param_bytes
    if not setting["gradient_checkpointing"]:  # norms in float32, and what attention and MLP read
        a_token = depth * (16 * width + sizes.compute_bytes * (12 * width + 4 * text.intermediate_size))
    rows = setting["per_device_train_batch_size"] * tokens * a_token + sizes.head * FLOAT32
    engine = stage.kind == "grpo" and setting["use_vllm"] and setting["vllm_mode"] == "colocate"
    beside = engine and not setting["vllm_enable_sleep_mode"]
    has_reference = stage.kind == "grpo" and setting["beta"] and stage.lora is None
    return Memory(
        weights=own // part + copy // optimizer_part,
        gradients=trained * sizes.param_bytes // optimizer_part,
        moments=moments // optimizer_part,
        buckets=trained * sizes.param_bytes if mode == "none" and ranks > 1 else 0,
        # The next layer is gathered while one computes.
        layers=(2 * sizes.layer + sizes.head) * sizes.compute_bytes if part > 1 else 0,
        rows=rows,
        reference=sizes.total * sizes.param_bytes // part if has_reference else 0,
        engine_weights=sizes.total * sizes.compute_bytes // setting["vllm_tensor_parallel_size"] if engine else 0,
        engine_share=setting["vllm_gpu_memory_utilization"] if beside else 0.0,
    )
