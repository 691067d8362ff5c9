"""What the segment loss costs: SegmentTrainer against TRL's unmodified SFTTrainer, on the same batches, in one run.

A step is collation, forward and backward; the optimizer, the same in both, is left out, which makes the ratio stricter.
Time is measured in pairs that alternate, memory as the most that a step's tensors take at once. Models are small and
real (tests/support/families.py) with a vocabulary of 32,768; on a GPU they are larger, in bfloat16.
"""

import tempfile
import time
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from scipy import stats
from trl import SFTConfig, SFTTrainer

from eval.chat import ChatFormat
from eval.data.rows import prompt
from pipeline.recipe.schema import SegmentLoss, ThinkWeight
from pipeline.sft import SegmentTrainer
from rewards.response import render
from tests.support.families import FAMILIES
from tests.support.measures import peak_bytes

Kind = Literal["text", "vlm"]
FAMILY = {"text": "llama", "vlm": "qwen2_5_vl"}
VOCABULARY = 32_768
WIDTH, LAYERS = (2048, 12) if torch.cuda.is_available() else (128, 2)
SCALE = SegmentLoss(think_weight=ThinkWeight(start=0.9, end=0.1))


def results() -> list[dict[str, Any]]:
    found = []
    for kind, tokens, pairs in (("text", 1024, 60), ("vlm", 1024, 60), ("text", 8192, 12)):
        found += _times(kind, tokens, pairs)
    found += [_memory(kind, tokens) for kind, tokens in (("text", 1024), ("text", 8192), ("vlm", 8192))]
    return found


def _times(kind: Kind, tokens: int, count: int) -> list[dict[str, Any]]:
    theirs, ours = (_trainer(who, kind, tokens) for who in ("trl", "ours"))
    for trainer in (theirs, ours):
        _step(trainer)
    pairs = []
    for number in range(count):
        order = (theirs, ours) if number % 2 else (ours, theirs)  # neither is always the second
        seconds = {trainer: _step(trainer) for trainer in order}
        pairs.append((seconds[theirs], seconds[ours]))
    times = np.array(pairs)
    ratio, interval = _median(times[:, 1] / times[:, 0])
    batch = ours.data_collator.collator(_examples(ours))
    masking = [_seconds(lambda: ours.data_collator.segments(batch["labels"])) for _ in range(count)]
    share, shares = _median(np.array(masking) / np.median(times[:, 1]))
    what = _setting(kind, tokens)
    detail = f"{what}; {len(pairs)} pairs; TRL's step {np.median(times[:, 0]):.3f} s"
    return [
        {"name": "scale_step_time_ratio", "value": ratio, "unit": "ratio", "detail": f"{detail}; 95% {interval}"},
        {"name": "segment_share_of_step", "value": share, "unit": "share", "detail": f"{what}; 95% {shares}"},
    ]


def _median(values: np.ndarray[Any, Any]) -> tuple[float, str]:
    interval = stats.bootstrap((values,), np.median, rng=0).confidence_interval
    return round(float(np.median(values)), 5), f"{interval.low:.5f}-{interval.high:.5f}"


def _seconds(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _step(trainer: Any) -> float:
    def step() -> None:
        batch = trainer.data_collator(_examples(trainer))
        items = trainer._get_num_items_in_batch([batch], trainer.args.device)
        trainer.training_step(trainer.model, batch, items)
        trainer.model.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return _seconds(step)


def _examples(trainer: Any) -> list[dict[str, Any]]:
    return [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]


def _trainer(who: str, kind: Kind, tokens: int) -> Any:
    on_cpu = not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        model, processor = _model(kind)
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        chat = ChatFormat(folder)
    settings = SFTConfig(
        output_dir=tempfile.gettempdir(),
        report_to="none",
        max_length=None,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        gradient_checkpointing=False,
        max_steps=1,
    )
    arguments = {"model": model, "args": settings, "train_dataset": _rows(kind, chat, tokens)}
    if who == "trl":
        trainer = SFTTrainer(**arguments, processing_class=chat.processor)
    else:
        trainer = SegmentTrainer(**arguments, chat=chat, loss=SCALE)
    trainer.state.max_steps = 1
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _model(kind: Kind) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, processor = FAMILIES[FAMILY[kind]]()
    text = model.config.get_text_config()
    text.vocab_size, text.hidden_size, text.intermediate_size = VOCABULARY, WIDTH, 3 * WIDTH
    text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads = LAYERS, WIDTH // 32, WIDTH // 32
    text.layer_types, text.max_position_embeddings = ["full_attention"] * LAYERS, 16_384
    if kind == "vlm":
        model.config.vision_config.out_hidden_size = WIDTH
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return type(model)(model.config), processor


def _rows(kind: Kind, chat: ChatFormat, tokens: int) -> Dataset:
    """One row with about `tokens` tokens, of which the answer takes about ten."""
    sentence = "I see 3 and 4; together they are 7. Is that so? Yes! "
    think = sentence * (tokens // len(chat.ids(sentence)))
    table = {
        "prompt": [prompt("What is 3 plus 4?")],
        "completion": [[{"role": "assistant", "content": render(think, "7")}]],
    }
    return Dataset.from_dict({**table, "images": [[Image.new("RGB", (112, 112))]]} if kind == "vlm" else table)


def _memory(kind: Kind, tokens: int) -> dict[str, Any]:
    trl, ours = (peak_bytes(partial(_step, _trainer(who, kind, tokens))) for who in ("trl", "ours"))
    detail = f"{_setting(kind, tokens)}; TRL {trl:,} bytes, ours {ours:,}"
    return {"name": "scale_peak_memory_ratio", "value": round(ours / trl, 5), "unit": "ratio", "detail": detail}


def _setting(kind: Kind, tokens: int) -> str:
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return f"{kind}, {tokens} tokens, vocabulary {VOCABULARY}, {device}"
