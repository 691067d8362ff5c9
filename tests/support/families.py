"""Small models of real architectures: their own configuration, model, processor and image processor classes.

The chat templates are the ones that the families' instruct checkpoints ship (TRL carries copies of them). The
tokenizers are of each family's own class, trained on a few sentences. Nothing is downloaded.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
import trl
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from rewards.response import SYSTEM_PROMPT, render

TEXTS = [
    f"system\n{SYSTEM_PROMPT}\nuser\nWhat is 3 plus 4?\nassistant\n"
    + render("I see 3 and 4; together they are 7. Is that so? Yes!", "7")
] * 20
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
}
VISION = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
SIDE = 56  # pixels of an image, or of a tile of one
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
QWEN_SPECIAL += ("<|video_pad|>",)
LLAMA_SPECIAL = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|finetune_pad|>")
GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
GEMMA_IMAGE = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}
SMOL_IMAGE = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
}
SMOL_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *SMOL_IMAGE.values())
SMOL_TILES = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))


def template(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def qwen2_5_vl() -> tuple[Any, Any]:
    tokenizer, look = _qwen_tokenizer(), {"patch_size": 14, "merge_size": 2}
    processor = hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(min_pixels=SIDE**2, max_pixels=(2 * SIDE) ** 2, **look),
        tokenizer=tokenizer,
        video_processor=hf.Qwen2VLVideoProcessor(**look),
        chat_template=template("qwen2_5_vl"),
    )
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14, "window_size": SIDE, "fullatt_block_indexes": [1]}
    config = hf.Qwen2_5_VLConfig(
        text_config={**_qwen_text(tokenizer), "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6]}},
        vision_config={**VISION, **vision, "out_hidden_size": 64},
        **_qwen_ids(tokenizer),
        tie_word_embeddings=True,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    tokenizer, look = _qwen_tokenizer(), {"patch_size": 16, "merge_size": 2}
    size = {"shortest_edge": 64**2, "longest_edge": 128**2}
    processor = hf.Qwen3VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(size=size, **look),
        tokenizer=tokenizer,
        video_processor=hf.Qwen3VLVideoProcessor(**look),
        chat_template=template("qwen3_vl"),
    )
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "mrope_interleaved": True}
    vision = {"depth": 2, "num_heads": 2, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    config = hf.Qwen3VLConfig(
        text_config={**_qwen_text(tokenizer), "rope_parameters": rope},
        vision_config={**VISION, **vision, "out_hidden_size": 64},
        **_qwen_ids(tokenizer),
        tie_word_embeddings=True,
    )
    return hf.Qwen3VLForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    """LLaVA-v1.6-Mistral: its template leaves the beginning-of-sequence token to the tokenizer."""
    learned = _sentence_piece(("<unk>", "<s>", "</s>", "<image>", "<pad>"))
    tokenizer = hf.LlamaTokenizer(
        **learned, pad_token="<pad>", add_bos_token=True, extra_special_tokens={"image_token": "<image>"}
    )
    size = {"height": SIDE, "width": SIDE}
    processor = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessor(
            size={"shortest_edge": SIDE}, crop_size=size, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("llava_next"),
    )
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": tokenizer.pad_token_id}
    vision = {"model_type": "clip_vision_model", "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 14}
    config = hf.LlavaNextConfig(
        text_config={**TEXT, **ids, "model_type": "mistral", "vocab_size": len(tokenizer)},
        vision_config={**VISION, **vision, "projection_dim": 64},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    """Its turns end with `<end_of_turn>`, which is not the tokenizer's end-of-sequence token."""
    tokenizer = hf.GemmaTokenizer(
        **_sentence_piece((*GEMMA_SPECIAL, *GEMMA_IMAGE.values())),
        add_bos_token=True,
        extra_special_tokens=GEMMA_IMAGE,
    )
    _add_special(tokenizer, GEMMA_SPECIAL[5:])
    tokenizer.add_tokens([AddedToken("\n" * count, normalized=False) for count in range(1, 5)])  # vLLM names them
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=template("gemma3"),
    )
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in GEMMA_IMAGE.items()}
    text = {"query_pre_attn_scalar": 32, "sliding_window": 32, "sliding_window_pattern": 2}
    vision = {"num_hidden_layers": 2, "image_size": SIDE, "patch_size": 14, "vision_use_head": False}
    config = hf.Gemma3Config(
        text_config={**TEXT, **text, "vocab_size": len(tokenizer)},
        vision_config={**VISION, **vision},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    model = hf.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)  # zero, if new
    model.generation_config.eos_token_id = [1, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    return model, processor


def smolvlm() -> tuple[Any, Any]:
    tokenizer = hf.GPT2Tokenizer(
        **_byte_level((*SMOL_SPECIAL, *SMOL_TILES)),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=SMOL_IMAGE,
    )
    _add_special(tokenizer, SMOL_TILES)
    edges = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor(**edges),
        tokenizer=tokenizer,
        video_processor=hf.SmolVLMVideoProcessor(**edges),
        image_seq_len=4,
        chat_template=template("smolvlm"),
    )
    config = hf.SmolVLMConfig(
        text_config={**TEXT, **_ids(tokenizer), "model_type": "llama"},
        vision_config={**VISION, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": 14},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return hf.SmolVLMForConditionalGeneration(config), processor


def qwen3() -> tuple[Any, Any]:
    tokenizer = _qwen_tokenizer()
    tokenizer.chat_template = template("qwen3")
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**_qwen_text(tokenizer), tie_word_embeddings=True)), tokenizer


def llama() -> tuple[Any, Any]:
    learned = _byte_level(LLAMA_SPECIAL)
    raw = Tokenizer(models.BPE(**learned, ignore_merges=True))
    raw.pre_tokenizer, raw.decoder = _BYTE_LEVEL, decoders.ByteLevel()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_pad|>",
    )
    _add_special(tokenizer, LLAMA_SPECIAL)
    tokenizer.chat_template = template("llama3_2")
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **_ids(tokenizer), tie_word_embeddings=True)), tokenizer


VLMS: dict[str, Callable[[], tuple[Any, Any]]] = {
    function.__name__: function for function in (qwen2_5_vl, llava_next, gemma3, qwen3_vl, smolvlm)
}
FAMILIES = VLMS | {function.__name__: function for function in (qwen3, llama)}


def save(name: str, folder: Path) -> Path:
    """Write the family's small model with random weights, and its processor, to `folder`."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    model.save_pretrained(folder)
    _name_like_the_hub(folder / "model.safetensors")
    processor.save_pretrained(folder)
    return folder


def save_retied(model: Path, folder: Path, tied: bool) -> Path:
    """Write a random model of the same configuration with its head tied to its embeddings, or not.

    Qwen2.5-VL's are tied in 3B, and not in 7B.
    """
    config = hf.AutoConfig.from_pretrained(model)
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = tied
    torch.manual_seed(0)
    hf.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    hf.AutoProcessor.from_pretrained(model).save_pretrained(folder)
    return folder


def save_tempted(model: Path, folder: Path) -> Path:
    """Write a Qwen2.5-VL that answers with an image or a video token now and then, whatever it is asked."""
    tempted = hf.AutoModelForImageTextToText.from_pretrained(model)
    with torch.no_grad():
        head = tempted.lm_head.weight
        head *= 0.01
        pull = 0.6 * torch.randn(head.shape[1], generator=torch.Generator().manual_seed(0))
        head[tempted.config.image_token_id], head[tempted.config.video_token_id] = -pull, pull  # one of them is likely
    tempted.save_pretrained(folder)
    hf.AutoProcessor.from_pretrained(model).save_pretrained(folder)
    return folder


def _name_like_the_hub(weights: Path) -> None:
    """CLIP's and SigLIP's towers have one more level in published checkpoints; vLLM reads only these names.

    transformers keeps the names that it loaded; a model made from its configuration has nothing to keep.
    """
    tower = re.compile(r"^(vision_tower\.)(?!vision_model\.)")
    named = {tower.sub(r"\1vision_model.", name): weight for name, weight in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})


# --- tokenizers -------------------------------------------------------------------------------------------------------

_BYTE_LEVEL = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


def _byte_level(special: tuple[str, ...]) -> dict[str, Any]:
    """Vocabulary and merges of a byte-level BPE, as GPT-2's, Qwen's and Llama-3's are."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = _BYTE_LEVEL
    return _learn(raw, [*special], pre_tokenizers.ByteLevel.alphabet())


def _sentence_piece(special: tuple[str, ...]) -> dict[str, Any]:
    """Vocabulary and merges of a BPE with byte fallback, as Mistral's and Gemma's are."""
    raw = Tokenizer(models.BPE(byte_fallback=True))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return _learn(raw, [*special, *[f"<0x{byte:02X}>" for byte in range(256)]], [])


def _learn(raw: Tokenizer, special: list[str], alphabet: list[str]) -> dict[str, Any]:
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXTS, trainer)
    learned = json.loads(raw.to_str())["model"]
    return {"vocab": learned["vocab"], "merges": [tuple(pair) for pair in learned["merges"]]}


def _add_special(tokenizer: Any, tokens: tuple[str, ...]) -> None:
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])


def _ids(tokenizer: Any) -> dict[str, Any]:
    named = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {**named, "vocab_size": len(tokenizer)}


def _qwen_tokenizer() -> Any:
    tokenizer = hf.Qwen2Tokenizer(
        **_byte_level(QWEN_SPECIAL),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    _add_special(tokenizer, QWEN_SPECIAL)
    return tokenizer


def _qwen_text(tokenizer: Any) -> dict[str, Any]:
    return {**TEXT, **_ids(tokenizer), "bos_token_id": None}


def _qwen_ids(tokenizer: Any) -> dict[str, Any]:
    tokens = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    tokens |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
