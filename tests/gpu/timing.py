"""Seconds, images and arithmetic that several checks share."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 FLOP/s of the SXM cards, by NVIDIA


def median_seconds(step: Callable[[], Any], times: int) -> float:
    """Of `times` calls after one that is left out."""
    return float(np.median([_seconds(step) for _ in range(times + 1)][1:]))


def _seconds(step: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def noise(seed: int, side: int) -> Image.Image:
    """An image that no other seed gives."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def peak_flops() -> float | None:
    """FLOP/s that the card can do in bfloat16; None for one that is not listed."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((value for card, value in PEAK.items() if card in name), None)


def model_flops(model: Any, tokens: int, length: int, patches: int = 0) -> float:
    """FLOPs of a forward and backward pass over `tokens` in rows of `length`, as PaLM counts them (arXiv 2204.02311).

    Six for each weight that multiplies a token, and 12 L H Q T for attention, without what checkpointing does again.
    The tower's weights count for each of the `patches`; its attention, mostly in windows, is left out.
    """
    text = model.config.get_text_config()
    tower = getattr(model.base_model, "visual", None)
    seen = sum(weight.numel() for weight in tower.parameters()) if tower is not None else 0
    inputs = (
        0 if model.config.tie_word_embeddings else text.vocab_size * text.hidden_size
    )  # a tied one multiplies as the head
    weights = sum(weight.numel() for weight in model.parameters()) - seen - inputs
    attention = 12 * text.num_hidden_layers * text.hidden_size * length
    return float(6 * weights * tokens + attention * tokens + 6 * seen * patches)
