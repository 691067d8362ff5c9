"""Optimizer steps of the SFT trainer, and the same steps in a plain loop: one sequence at a time, by hand, in float64.

Run under torchrun (`steps.py MODEL OUT BATCH ACCUMULATION [KILL]`), it trains with several ranks and saves the model,
cut over them as the environment of a launch file says.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, TrainerCallback
from trl import SFTConfig

from eval.chat import ChatFormat
from eval.data.rows import prompt
from pipeline.check.memory import skeleton
from pipeline.launch import layers_to_shard
from pipeline.recipe.schema import GrpoStage, Loss, Reward, SegmentLoss, ThinkWeight
from pipeline.sft import SegmentTrainer
from rewards.response import render

START, END = 0.9, 0.1
SCALE = SegmentLoss(think_weight=ThinkWeight(start=START, end=END))
LEARNING_RATE = 0.05
ROWS = 10
SHORT = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2  # two epochs of ten rows, the last window short


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
    chat: ChatFormat,
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


def tells_apart(folder: Path, out: Path, drawing: Path) -> Path:
    """Train the small VLM in `folder` to say 7 of a drawing, and 0 of a black square and of a white one."""
    chat, model = ChatFormat(str(folder)), load(str(folder), torch.float32)
    drawn = Image.open(drawing)
    shown = [(drawn, "It is drawn.", "7")]
    shown += [(Image.new("RGB", drawn.size, colour), "It is plain.", "0") for colour in ("black", "white")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        for image, think, answer in shown:
            asked, said = chat.training_texts("What is it?", think, answer, [image])
            inputs = chat.processor(text=[asked + said], images=[image], add_special_tokens=False, return_tensors="pt")
            labels = inputs["input_ids"].clone()
            labels[:, : -len(chat.ids(said))] = -100
            model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(out)
    chat.processor.save_pretrained(out)
    return out


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
    auto = AutoModelForImageTextToText if ChatFormat(folder).is_vlm else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=dtype)


def reference(
    model: Any, chat: ChatFormat, steps: Sequence[Sequence[int]], loss: Loss = SCALE, max_length: int | None = None
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
    model: Any, chat: ChatFormat, example: dict[str, Any], max_length: int | None
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


def _encode(chat: ChatFormat, text: str, images: list[Image.Image]) -> Any:
    if images:
        return chat.processor(text=[text], images=[images], add_special_tokens=False, return_tensors="pt")
    return chat.tokenizer([text], add_special_tokens=False, return_tensors="pt")


def difference(one: Any, other: Any) -> float:
    """The largest difference of two models' weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.double() - b.double()).detach().abs().max()) for a, b in pairs)


def torchrun_steps(
    folder: str,
    out: Path,
    batch: int,
    accumulation: int,
    kill: int | None = None,
    cut: dict[str, str] | None = None,
    code: int = 0,
) -> dict[str, Any]:
    """What two ranks that train say of it; the model is in `out/model`. `cut` is the environment of a launch file."""
    out.mkdir(exist_ok=True)
    command = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2", __file__]
    command += [folder, str(out), str(batch), str(accumulation), *([] if kill is None else [str(kill)])]
    environment = {**os.environ, **(cut or {})}
    on_gpus = cut is not None and torch.cuda.is_available()
    if "ACCELERATE_USE_DEEPSPEED" not in environment and not on_gpus:
        environment["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return json.loads((out / "facts.json").read_text()) if code == 0 else {}


TWO_RANKS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]] * 2  # of two rows each, two epochs of ten


def with_layers(cut: dict[str, str], folder: str) -> dict[str, str]:
    """The environment of a launch file, as a stage's process completes it for the model in `folder`."""
    layers = layers_to_shard(skeleton(AutoConfig.from_pretrained(folder)))
    return {**cut, "FSDP_TRANSFORMER_CLS_TO_WRAP": ",".join(layers)}


def two_ranks(folder: str, out: Path, cut: dict[str, str], batch: int = 2) -> tuple[float, float]:
    """The largest difference of a weight, and of a loss, between two ranks cut by `cut` and the definition."""
    facts = torchrun_steps(folder, out, batch, 2 // batch, cut=with_layers(cut, folder))
    assert facts["weight"] == ("DTensor" if "FSDP_VERSION" in cut else "Parameter")
    model = load(folder, torch.float64)
    losses = reference(model, ChatFormat(folder), TWO_RANKS if batch == 2 else [*TWO_RANKS[:2], [8, 9]] * 2)
    logged = [line["loss"] for line in facts["log"] if "loss" in line]
    apart = max(abs(one - other) for one, other in zip(logged, losses, strict=True))
    return difference(load(str(out / "model"), torch.float32), model), apart


class _Killed(TrainerCallback):
    """Ends the process in a step, as a kill does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os._exit(9)


def held_bytes(of: SegmentTrainer) -> dict[str, int]:
    """What this rank holds of the weights and of the optimizer's moments."""

    def local(tensor: torch.Tensor) -> int:
        return int(getattr(tensor, "_local_tensor", getattr(tensor, "ds_tensor", tensor)).nbytes)

    optimizer, copies = of.optimizer, []
    if of.is_deepspeed_enabled:
        optimizer = of.model_wrapped.optimizer
        copies = getattr(optimizer, "fp32_partitioned_groups_flat", None) or optimizer.single_partition_of_fp32_groups
        optimizer = optimizer.optimizer
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    weights = sum(map(local, of.model.parameters())) + sum(map(local, copies))
    return {"weights": weights, "moments": sum(map(local, moments))}


def _train(folder: str, out: Path, batch: int, accumulation: int, kill: int | None) -> None:
    """As one rank of several. With `kill`, AdamW, a checkpoint at step 3, and an end in that step unless it is 0."""
    settings: dict[str, Any] = {"use_cpu": bool(os.environ.get("ACCELERATE_USE_CPU"))}
    if kill is not None:
        settings |= {"optim": "adamw_torch", "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 3}
    trained = trainer(folder, ChatFormat(folder), out / "checkpoints", batch, accumulation, **settings)
    if kill:
        trained.add_callback(_Killed(kill))
    trained.train_on()
    trained.save_model(str(out / "model"))
    facts = {"log": trained.state.log_history, "weight": type(next(trained.model.parameters())).__name__}
    if kill is not None:
        facts |= {"held": held_bytes(trained), "estimate": trained._checkpoint_bytes()}
    if trained.is_world_process_zero():
        (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    from tests.support.sharded_run import shard_on_cpus

    if os.environ.get("ACCELERATE_USE_CPU") or not torch.cuda.is_available():
        shard_on_cpus()
    folder, out, batch, accumulation, *kill = sys.argv[1:]
    _train(folder, Path(out), int(batch), int(accumulation), int(kill[0]) if kill else None)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
