"""Optimizer steps on a GPU, where the fused head is a Triton kernel, against the definition's plain loop in float64."""

import math
from collections.abc import Iterator
from importlib.util import find_spec

import torch

from eval.chat import ChatFormat
from tests.gpu.check import Finding, Setting, rounded
from tests.support.families import FAMILIES, save
from tests.support.inputs import cut_by
from tests.support.steps import SHORT, collated, difference, load, reference, trainer, two_ranks

LIMIT = 1e-4  # of a weight and of a loss, in float32: our choice; a CPU is within 1e-6


def sft_steps(setting: Setting) -> Iterator[Finding]:
    """The largest difference of a weight and of a loss, by family; then a micro-batch in which nothing is trained."""
    for family in ["qwen2_5_vl", "llama"] if setting.tiny else FAMILIES:
        try:
            folder = str(save(family, setting.folder / family))
        except ImportError as error:
            yield Finding(f"sft_steps.{family}", None, "", f"left out: {error}".splitlines()[0])
            continue
        yield _steps(family, folder, setting)
    yield _masked(str(setting.folder / "llama"), setting)


def _steps(family: str, folder: str, setting: Setting) -> Finding:
    chat, model = ChatFormat(folder), load(folder, torch.float64)
    losses, found = reference(model, chat, SHORT), {}
    for batch in (4, 1):
        made = trainer(folder, chat, setting.folder / "out", batch, 4 // batch, use_cpu=setting.tiny)
        made.train()
        assert made.model.device.type == setting.device
        logged = [line["loss"] for line in made.state.log_history if "loss" in line]
        found[f"{batch} x {4 // batch}"] = (
            difference(made.model.cpu(), model),
            max(abs(one - other) for one, other in zip(logged, losses, strict=True)),
        )
    worst = max(max(pair) for pair in found.values())
    cuts = "; ".join(f"{cut}: weights {weight:.1g}, losses {loss:.1g}" for cut, (weight, loss) in found.items())
    return Finding(
        f"sft_steps.{family}",
        rounded(worst),
        "difference",
        f"after {len(SHORT)} steps in float32, rows x micro-batches: {cuts}",
        wrong=f"more than {LIMIT}" if worst > LIMIT else "",
    )


def _masked(folder: str, setting: Setting) -> Finding:
    """A micro-batch all of whose rows were cut before their response adds nothing to the step."""
    made = trainer(folder, ChatFormat(folder), setting.folder / "out", 2, 1, use_cpu=setting.tiny)
    made.state.max_steps, made.current_gradient_accumulation_steps = 1, 1
    batch = collated(made, range(2))
    batch["labels"][:], batch["segments"][:] = -100, 0
    made.model.train()
    loss = float(made.training_step(made.model, batch, torch.tensor(2.0, device=setting.device)))
    gradients = [weight.grad for weight in made.model.parameters() if weight.grad is not None]
    largest = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
    is_wrong = not math.isfinite(loss) or largest != 0
    return Finding(
        "sft_steps.all_masked",
        rounded(largest),
        "gradient",
        f"the largest, of a micro-batch in which no token is trained; its loss is {loss:g}",
        wrong="it is not zero" if is_wrong else "",
    )


def two_gpus(setting: Setting) -> Iterator[Finding]:
    """The steps of two ranks over NCCL, cut as each launch file says."""
    folder = str(save("llava_next", setting.folder / "llava_next"))
    for name in ("fsdp2", "zero2", "zero3"):
        if name.startswith("zero") and find_spec("deepspeed") is None:
            yield Finding(f"two_gpus.{name}", None, "", "left out: deepspeed cannot be imported here")
            continue
        weights, losses = two_ranks(folder, setting.folder / name, cut_by(name, setting.folder))
        worst, detail = max(weights, losses), f"weights {weights:.1g}, losses {losses:.1g} after six steps of two ranks"
        wrong = f"more than {LIMIT}" if worst > LIMIT else ""
        yield Finding(f"two_gpus.{name}", rounded(worst), "difference", detail, wrong=wrong)
