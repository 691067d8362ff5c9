"""Models of real configurations with random weights: Qwen2.5's text models, Qwen2.5-VL-3B.

Each value of a configuration is the one that the published checkpoint's config.json has. The tokenizer is a small one
of the same class, since no weights and no vocabulary can be downloaded; ids above its own are embedded all the same.
"""

from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.gpu.check import Setting
from tests.support import families

TEXT = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
}
KEY_VALUE_HEADS = {"0.5B": 2, "7B": 4}
VOCABULARY = {"0.5B": 151_936, "7B": 152_064}
VL_3B = {
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
}
VISION_3B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 2048,
    "tokens_per_second": 2,
}


def text_model(size: str, setting: Setting, dtype: torch.dtype) -> Any:
    """Qwen2.5 of `size`, on the setting's device; in a rehearsal with two narrow layers."""
    config = hf.Qwen2Config(
        **TEXT[size],
        num_key_value_heads=KEY_VALUE_HEADS[size],
        vocab_size=VOCABULARY[size],
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=size == "0.5B",
    )
    if setting.tiny:
        config.vocab_size, config.hidden_size, config.intermediate_size = 700, 64, 96
        config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads = 4, 2, 2
        config.layer_types = config.layer_types[:4]
    return _made(hf.Qwen2ForCausalLM, config, setting, dtype)


def vl_config(setting: Setting) -> Any:
    """Qwen2.5-VL-3B's configuration, with the tokens of our small tokenizer; in a rehearsal, the small family's."""
    small, processor = families.qwen2_5_vl()
    if setting.tiny:
        return small.config
    text = {
        **VL_3B,
        **{f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("eos", "pad")},
    }
    ids = {name: getattr(small.config, name) for name in vars(small.config) if name.endswith("_token_id")}
    return hf.Qwen2_5_VLConfig(text_config=text, vision_config=VISION_3B, tie_word_embeddings=True, **ids)


def vl_model(setting: Setting, dtype: torch.dtype) -> Any:
    return _made(hf.Qwen2_5_VLForConditionalGeneration, vl_config(setting), setting, dtype)


def vl_processor(setting: Setting, max_pixels: int = 1_003_520) -> Any:
    """The small family's, with images as large as `max_pixels`."""
    _, processor = families.qwen2_5_vl()
    if not setting.tiny:
        look = {"patch_size": 14, "merge_size": 2}
        processor.image_processor = hf.Qwen2VLImageProcessor(min_pixels=3136, max_pixels=max_pixels, **look)
    return processor


def saved_vl(setting: Setting, max_pixels: int = 1_003_520) -> Path:
    """The folder of the model in bfloat16 (7.5 GB) and its processor, written by the first check that asks for it."""
    folder = setting.shared / "vl"
    if not (folder / "complete").exists():
        vl_model(setting, torch.float32 if setting.tiny else torch.bfloat16).save_pretrained(folder)
        vl_processor(setting, max_pixels).save_pretrained(folder)
        (folder / "complete").touch()
    return folder


def _made(kind: Any, config: Any, setting: Setting, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(setting.device):
            return kind(config)
    finally:
        torch.set_default_dtype(default)
