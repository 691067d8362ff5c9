"""Optimizer steps of the SFT trainer, and the same steps in a plain loop: one sequence at a time, by hand, in float64.

Run under torchrun (`steps.py MODEL OUT BATCH ACCUMULATION`), it trains with several ranks and saves the weights.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from trl import SFTConfig

from eval.chat import Chat
from eval.rows import prompt
from pipeline.recipe import GrpoStage, Loss, Reward, SegmentLoss, ThinkWeight
from pipeline.sft import SegmentTrainer
from rewards.response import render

START, END = 0.9, 0.1
SCALE = SegmentLoss(think_weight=ThinkWeight(start=START, end=END))
LEARNING_RATE = 0.05
ROWS = 10


def row(index: int, vlm: bool) -> dict[str, Any]:
    """Row `index`: traces of very different lengths; for a VLM, no, one or two images."""
    a, b = index % 7, index % 4
    think = f"I see {a} and {b}." + " Is that so? Yes!" * (index % 3) + f" Together they are {a + b}."
    images = [Image.new("RGB", (60 + 20 * index, 60), (index * 25, 90, 10 * number)) for number in range(index % 3)]
    return {"question": f"What is {a} plus {b}?", "think": think, "answer": str(a + b), "images": images if vlm else []}


def dataset(rows: Sequence[int], vlm: bool) -> Dataset:
    """The rows as the trainer takes them."""
    made = [row(index, vlm) for index in rows]
    table = {
        "prompt": [prompt(one["question"]) for one in made],
        "completion": [[{"role": "assistant", "content": render(one["think"], one["answer"])}] for one in made],
    }
    return Dataset.from_dict({**table, "images": [one["images"] for one in made]} if vlm else table)


def trainer(
    model: Any,
    chat: Chat,
    out: Path,
    batch: int,
    accumulation: int,
    rows: int = ROWS,
    loss: Loss = SCALE,
    eval_rows: int = 0,
    **settings: Any,
) -> SegmentTrainer:
    """Plain SGD, so that a difference in the gradient stays a difference of the same size in the weights."""
    arguments = {
        "output_dir": str(out),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 2,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        **({"model_init_kwargs": {"dtype": "float32"}} if isinstance(model, str) else {}),
        **settings,
    }
    return SegmentTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=dataset(range(rows), chat.is_vlm),
        eval_dataset=dataset(range(eval_rows), chat.is_vlm) if eval_rows else None,
        chat=chat,
        loss=loss,
    )


def grpo_stage(*rewards: str, **keys: Any) -> GrpoStage:
    """A stage of the recipe, with the format as its reward if none is named."""
    paid = [Reward(use=reward) for reward in rewards or ["format"]]
    return GrpoStage(kind="grpo", name="grpo", data="rows", rewards=paid, **keys)


def collated(of: SegmentTrainer, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """The batch of these rows as the trainer would see it."""
    batch: dict[str, torch.Tensor] = of.data_collator([of.train_dataset[index] for index in rows])
    return batch


def log_prob_gradient(of: SegmentTrainer, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Through the real head: the loss's gradient at each position's log-probability, and the segment ids there."""
    of.state.max_steps, kept, batch = 1, [], collated(of, rows)
    segments = batch["segments"][:, 1:].clone()

    def model(**inputs: Any) -> Any:
        outputs = of.model(**inputs)
        outputs.log_probs.retain_grad()
        kept.append(outputs.log_probs)
        return outputs

    of.compute_loss(model, batch, num_items_in_batch=torch.tensor(len(rows))).backward()
    return kept[0].grad, segments


def load(folder: str, dtype: torch.dtype) -> Any:
    auto = AutoModelForImageTextToText if Chat(folder).is_vlm else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=dtype)


def reference(
    model: Any, chat: Chat, steps: Sequence[Sequence[int]], loss: Loss = SCALE, max_length: int | None = None
) -> list[float]:
    """Train `model` in place, each step on the rows it names; returns the losses.

    Nothing here is shared with the trainer but the chat template: segments are found in the text by character offsets,
    each sequence is alone and unpadded, means and the schedule are written out.
    """
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=LEARNING_RATE)
    losses = []
    for number, rows in enumerate(steps):
        w = END + (START - END) * (1 + math.cos(math.pi * number / len(steps))) / 2
        terms = [_sequence(model, chat, row(index, chat.is_vlm), max_length) for index in rows]
        if loss == "token_mean":
            total = sum((torch.cat(term).sum() for term in terms), torch.zeros(()))
            value = total / sum(len(think) + len(answer) for think, answer in terms)
        elif loss == "sample_token_mean":
            value = sum(torch.cat(term).mean() for term in terms) / len(terms)
        else:
            value = sum(w * _mean(think) + (1 - w) * _mean(answer) for think, answer in terms) / len(terms)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean() if len(values) else values.sum()


def _sequence(
    model: Any, chat: Chat, example: dict[str, Any], max_length: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropies of one sequence's think and answer tokens."""
    prompt_text, completion = chat.training_texts(
        example["question"], example["think"], example["answer"], example["images"]
    )
    inputs: dict[str, Any] = dict(_encode(chat, prompt_text, example["images"]))
    response = chat.tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)
    border = completion.index("</think>") + len("</think>")
    think = torch.tensor([start < border for start, _ in response["offset_mapping"]])
    ids = torch.cat((inputs["input_ids"], torch.tensor([response["input_ids"]])), dim=1)[:, :max_length]
    think = think[: ids.shape[1] - inputs["input_ids"].shape[1]]
    inputs["attention_mask"] = torch.ones_like(ids)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, ids.shape[1] - inputs[name].shape[1]))
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    logits = model(**{**inputs, "input_ids": ids}).logits[0, :-1]
    nll = -logits.log_softmax(dim=-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
    trained = nll[len(nll) - len(think) :]
    return trained[think], trained[~think]


def _encode(chat: Chat, text: str, images: list[Image.Image]) -> Any:
    if images:
        return chat.processor(text=[text], images=[images], add_special_tokens=False, return_tensors="pt")
    return chat.tokenizer([text], add_special_tokens=False, return_tensors="pt")


def difference(one: Any, other: Any) -> float:
    """The largest difference of two models' weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.double() - b.double()).detach().abs().max()) for a, b in pairs)


if __name__ == "__main__":
    folder, out, batch, accumulation = sys.argv[1:]
    trained = trainer(folder, Chat(folder), Path(out), int(batch), int(accumulation))
    trained.train()
    if trained.is_world_process_zero():
        torch.save([trained.model.state_dict(), trained.state.log_history], Path(out) / "trained.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
