"""SFT of real configurations with random weights: tokens a second, FLOP utilisation, memory; beside TRL's trainer."""

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import SFTConfig, SFTTrainer

from eval.chat import ChatFormat
from eval.data.rows import prompt
from pipeline.sft import SegmentTrainer
from rewards.response import render
from tests.gpu.check import Finding, Setting, rounded
from tests.gpu.sizes import text_model, vl_model, vl_processor
from tests.gpu.timing import model_flops, noise, peak_flops
from tests.support import families
from tests.support.measures import StepEnds
from tests.support.steps import SCALE

STEPS = 4  # of them the first is left out
NEMO = 14_110  # tokens a second of Qwen2.5-7B on one H100 with LoRA, by NeMo AutoModel's documentation


def rows_a_micro_batch(setting: Setting) -> Iterator[Finding]:
    """Qwen2.5-VL-3B, all weights with AdamW: 1, 4 and 8 rows, with and without gradient checkpointing."""
    model = vl_model(setting, torch.float32)
    tokens, side = (64, 112) if setting.tiny else (1024, 504)
    for checkpointing, rows in itertools.product((True, False), (4, 1, 8) if not setting.tiny else (1, 2)):
        how = f"{rows}_rows{'_checkpointing' if checkpointing else ''}"
        found = {}
        for who in ("ours", "trl"):
            found[who] = _measured(
                model, vl_processor(setting, 504**2), setting, who, rows, checkpointing, tokens, side
            )
        yield from _findings(f"sft_3b.{how}", model, found, rows, 0 if setting.tiny else (504 // 14) ** 2)


def lora(setting: Setting) -> Iterator[Finding]:
    """Qwen2.5-7B with LoRA, 4,096 tokens, two rows: the set-up of a published figure (mock data there as here)."""
    base = text_model("7B", setting, torch.float32 if setting.tiny else torch.bfloat16)
    adapter = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, adapter)
    _, tokenizer = families.qwen3()
    found = {
        who: _measured(model, tokenizer, setting, who, 2, False, 64 if setting.tiny else 4096, 0)
        for who in ("ours", "trl")
    }
    for finding in _findings("lora_7b.2_rows", base, found, 2, 0):
        share = f"; {finding.value / NEMO:.2f} of NeMo AutoModel's published {NEMO:,}" if finding.value else ""
        yield Finding(finding.name, finding.value, finding.unit, f"{finding.detail}{share}")


def _findings(name: str, model: Any, found: dict[str, Any], rows: int, patches: int) -> Iterator[Finding]:
    for who, one in found.items():
        row = name if who == "ours" else f"{name}_trl"
        if "error" in one:
            yield Finding(row, None, "tokens/s", one["error"])
            continue
        flops, peak = model_flops(model, one["tokens"], one["tokens"] // rows, patches * rows), peak_flops()
        use = (
            f"{100 * flops / one['seconds'] / peak:.1f}% of the card's bfloat16 FLOP/s"
            if peak
            else "utilisation unknown"
        )
        detail = f"{rows} rows of {one['tokens'] // rows:,} tokens a step, {one['seconds']:.3g} s; {use}; peak "
        yield Finding(row, rounded(one["tokens"] / one["seconds"]), "tokens/s", f"{detail}{one['peak'] / 1e9:.1f} GB")


def _measured(
    model: Any, processor: Any, setting: Setting, who: str, rows: int, checkpointing: bool, tokens: int, side: int
) -> dict[str, Any]:
    """Median seconds of a step with its optimizer, tokens of a step, and the peak of the memory in bytes."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    model.gradient_checkpointing_disable()  # what the trainer before this one turned on
    try:
        trainer = _trainer(model, processor, setting, who, rows, checkpointing, tokens, side)
        ends = StepEnds()
        trainer.add_callback(ends)
        trainer.train()
        tokens_seen = round(max(line.get("num_tokens", 0) for line in trainer.state.log_history))
    except torch.OutOfMemoryError as error:
        return {"error": f"does not fit: {str(error).splitlines()[0][:120]}"}
    finally:
        trainer = None
        model.zero_grad()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    seconds, peak = float(np.median(np.diff(ends.times))), 0
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    return {"seconds": seconds, "peak": peak, "tokens": tokens_seen // STEPS}


def _trainer(
    model: Any, processor: Any, setting: Setting, who: str, rows: int, checkpointing: bool, tokens: int, side: int
) -> Any:
    folder = setting.folder / "format"
    getattr(model, "base_model", model).config.save_pretrained(folder)
    processor.save_pretrained(folder)
    chat = ChatFormat(str(folder))
    settings = SFTConfig(
        output_dir=str(setting.folder / "out"),
        report_to="none",
        max_length=None,
        use_cpu=setting.tiny,
        bf16=not setting.tiny,
        gradient_checkpointing=checkpointing,
        per_device_train_batch_size=rows,
        max_steps=STEPS,
        learning_rate=1e-6,
        save_strategy="no",
        logging_steps=STEPS,
        disable_tqdm=True,
        optim="adamw_torch_fused",
    )
    arguments = {"model": model, "args": settings, "train_dataset": _rows(chat, tokens, side, rows * STEPS)}
    if who == "trl":
        return SFTTrainer(**arguments, processing_class=chat.processor)
    return SegmentTrainer(**arguments, chat=chat, loss=SCALE)


def _rows(chat: ChatFormat, tokens: int, side: int, count: int) -> Dataset:
    """Rows of about `tokens` tokens, those of the image among them, of which the answer takes about ten."""
    sentence = "I see 3 and 4; together they are 7. Is that so? Yes! "
    seen = (side // 28) ** 2
    think = sentence * max(1, (tokens - seen) // len(chat.ids(sentence)))
    table: dict[str, Any] = {
        "prompt": [prompt("What is 3 plus 4?")] * count,
        "completion": [[{"role": "assistant", "content": render(think, "7")}]] * count,
    }
    return Dataset.from_dict({**table, "images": [[noise(number, side)] for number in range(count)]} if side else table)
