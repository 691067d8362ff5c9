"""In which numbers it is computed: FSDP2's policy, and what bfloat16 does to log-probabilities."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from pipeline import launch
from tests.gpu.check import ROOT, Finding, Setting, apart, launched_alone, rounded
from tests.gpu.sizes import text_model


def launch_sharded(setting: Setting) -> None:
    """Make this process the one rank of a job under recipes/accelerate/fsdp2.yaml."""
    from tests.support.inputs import launched_with
    from tests.support.sharded_run import shard_on_cpus

    os.environ |= {**launched_with(ROOT / "recipes" / "accelerate" / "fsdp2.yaml"), **launched_alone()}
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"  # as that file has it
    if setting.tiny:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        shard_on_cpus()


def fsdp2_policy(setting: Setting) -> Iterator[Finding]:
    """The dtype of log-probabilities and of gradients that the trainer gets, as launched and with a float32 policy.

    In bfloat16 a step of a log-probability near -2 is 0.016 nats, and so are those of ratios, KL and corrections.
    """
    from tests.support.families import save

    folder = str(save("llama", setting.folder / "llama"))
    mended = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None)
    (_, expected), *found = [apart(_gradients, folder, setting, each) for each in (None, "as launched", mended)]
    for name, (dtype, gradients) in zip(("launched", "float32"), found, strict=True):
        error = _relative(gradients, expected)
        numbers = torch.from_numpy(np.concatenate([gradient.ravel() for gradient in gradients]))
        share = float((numbers == numbers.bfloat16().float()).float().mean())
        what = "as launched" if name == "launched" else "with reduce_dtype float32 and no output_dtype"
        yield Finding(
            f"fsdp2_policy.{name}",
            rounded(share),
            "share",
            f"{what}: of the gradient's numbers that bfloat16 can hold; log-probabilities are {dtype}; the gradient "
            f"differs by {100 * error:.2f}% from float32's",
        )


def _gradients(folder: str, setting: Setting, policy: Any) -> tuple[str, list[Any]]:
    """Of one optimizer step of four micro-batches: the dtype of the log-probabilities, and the gradient.

    In float32 on one device without a `policy`; else sharded.
    """
    from eval.chat import ChatFormat
    from tests.support.steps import trainer

    if policy is not None:
        launch_sharded(setting)
        launch.overrule("bfloat16", ["LlamaDecoderLayer"])
    seen, settings = Gradients(), {"bf16": policy is not None, "use_cpu": setting.tiny, "max_steps": 1}
    made = trainer(folder, ChatFormat(folder), setting.folder / "out", 1, 4, **settings)
    made.add_callback(seen)
    if isinstance(policy, MixedPrecisionPolicy):
        made.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    observe = made._observe

    def observed(nll_BT: torch.Tensor, *rest: Any) -> None:
        seen.dtype = str(nll_BT.dtype).removeprefix("torch.")
        observe(nll_BT, *rest)

    made._observe = observed
    made.train()
    assert policy is None or isinstance(next(made.model.parameters()), DTensor)
    return seen.dtype, seen.found


class Gradients(TrainerCallback):
    """Keeps the gradient of a step, as the optimizer gets it."""

    def __init__(self) -> None:
        self.dtype, self.found = "", list[Any]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        whole = (getattr(weight.grad, "full_tensor", lambda w=weight: w.grad)() for weight in model.parameters())
        self.found = [gradient.detach().float().cpu().numpy() for gradient in whole]


def _relative(found: list[Any], expected: list[Any]) -> float:
    one, other = (np.concatenate([each.ravel() for each in gradients]) for gradients in (found, expected))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def log_prob_spread(setting: Setting) -> Iterator[Finding]:
    """Nats by which log-probabilities differ from float32's, under autocast and as bfloat16 numbers."""
    model = text_model("0.5B", setting, torch.float32).eval()
    tokens = 64 if setting.tiny else 2048
    ids = torch.randint(0, model.config.vocab_size, (2, tokens), device=setting.device)

    def log_probs(bfloat16: bool) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(setting.device, torch.bfloat16, enabled=bfloat16):
            logits = model(ids, use_cache=False).logits
            return -cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none")

    exact, autocast = log_probs(bfloat16=False), log_probs(bfloat16=True)
    for name, values in (("autocast", autocast), ("bfloat16", autocast.bfloat16().float())):
        difference = values - exact
        what = "matrices in bfloat16, log-probabilities in float32" if name == "autocast" else "both in bfloat16"
        yield Finding(
            f"log_prob_spread.{name}",
            rounded(float(difference.std())),
            "nats",
            f"{what}: the standard deviation at a token; at most {float(difference.abs().max()):.3g}; over a sequence "
            f"of {tokens:,} tokens the sums are {', '.join(f'{each:.3g}' for each in difference.sum(dim=1).tolist())} "
            "nats off",
        )
