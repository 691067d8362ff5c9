"""Qwen2.5-VL's vision tower: its loop over windows, against windows in one batch and one call of variable lengths."""

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from tests.gpu.check import Finding, Setting, rounded
from tests.gpu.sizes import vl_model, vl_processor
from tests.gpu.timing import median_seconds, noise

SIDE = 1008  # pixels of the image
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def vision_windows(setting: Setting) -> Iterator[Finding]:
    """Calls, waits and seconds of the tower on one image, and its share of a forward and backward pass of the model."""
    model = vl_model(setting, torch.float32 if setting.tiny else torch.bfloat16).train()
    batch = _batch(setting)
    loop = qwen.Qwen2_5_VLVisionAttention.forward
    ways: dict[str, Any] = {"loop": loop, "stacked": _with(_stacked)}
    if setting.tiny or find_spec("torch.nn.attention.varlen") is None:
        why = "its kernel is for GPUs" if setting.tiny else f"torch {torch.__version__} has none"
        yield Finding("vision_windows.varlen", None, "s", f"torch.nn.attention.varlen: {why}")
    else:
        ways["varlen"] = _with(_varlen)
    expected = None
    for name, forward in ways.items():
        qwen.Qwen2_5_VLVisionAttention.forward = forward
        found = model.model.visual(batch["pixel_values"], batch["image_grid_thw"]).pooler_output.detach().float()
        expected = found if expected is None else expected
        yield _measured(name, model, batch, float((found - expected).abs().max() / expected.abs().max()), setting)
    qwen.Qwen2_5_VLVisionAttention.forward = loop


def _measured(name: str, model: Any, batch: Any, difference: float, setting: Setting) -> Finding:
    def tower() -> None:
        model.model.visual(batch["pixel_values"], batch["image_grid_thw"]).pooler_output.float().sum().backward()
        model.zero_grad()

    def whole() -> None:
        model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
        model.zero_grad()

    seconds, all_of_it = (median_seconds(step, 1 if setting.tiny else 3) for step in (tower, whole))
    calls = _counted(tower)
    waits = sum(count for event, count in calls.items() if event in {"cudaStreamSynchronize", "cudaDeviceSynchronize"})
    patches, tokens = batch["pixel_values"].shape[0], batch["input_ids"].shape[1]
    operations = sum(count for event, count in calls.items() if event.startswith("aten::"))
    return Finding(
        f"vision_windows.{name}",
        rounded(seconds),
        "s",
        f"the tower forward and backward, {patches:,} patches: {100 * seconds / all_of_it:.0f}% of the model's "
        f"{all_of_it:.3g} s over {tokens:,} tokens; {calls['aten::scaled_dot_product_attention']:,} calls of SDPA, "
        f"{operations:,} operations, {waits:,} waits for the GPU; relative difference from the loop {difference:.2g}",
        wrong="it does not compute what the loop computes" if difference > 0.05 else "",
    )


def _counted(step: Callable[[], None]) -> Counter[str]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=activities) as profile:
        step()
    return Counter({event.key: event.count for event in profile.key_averages()})


def _batch(setting: Setting) -> Any:
    processor = vl_processor(setting)
    side = 112 if setting.tiny else SIDE
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is 3 plus 4?"}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True)
    batch = processor(text=[text], images=[noise(0, side)], return_tensors="pt").to(setting.device)
    batch["pixel_values"] = batch["pixel_values"].to(torch.float32 if setting.tiny else torch.bfloat16)
    return batch


# --- other ways to attend, with the same projections ------------------------------------------------------------------


def _with(attend: Attend) -> Callable[..., torch.Tensor]:
    def forward(
        self: Any, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, position_embeddings: Any = None, **_: Any
    ) -> torch.Tensor:
        length = hidden_states.shape[0]
        query, key, value = self.qkv(hidden_states).reshape(length, 3, self.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
        query, key = qwen.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        return self.proj(attend(query, key, value, cu_seqlens, self.scaling).reshape(length, -1))

    return forward


def _stacked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor, scale: float
) -> torch.Tensor:
    """Windows of one length as a batch of SDPA. Tensors are (patches, heads, width)."""
    starts = cu_seqlens[:-1].tolist()
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    out = torch.empty_like(query)
    for length in sorted({*lengths}):
        places = torch.tensor([s for s, n in zip(starts, lengths, strict=True) if n == length], device=query.device)
        index = places[:, None] + torch.arange(length, device=query.device)
        q, k, v = (tensor[index].transpose(1, 2) for tensor in (query, key, value))
        out = out.index_put((index,), scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2))
    return out


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor, scale: float
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = int((cu_seqlens[1:] - cu_seqlens[:-1]).max())
    borders = cu_seqlens.int()
    q, k, v = (tensor.to(value.dtype).contiguous() for tensor in (query, key, value))
    return varlen_attn(q, k, v, borders, borders, longest, longest, scale=scale)
