"""Whose memory is it: what a process leaves to the next one, and what the KL reference takes.

Run as `memory.py`, it is the process that holds most of the GPU and replaces itself, and then the one that looks.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from tests.gpu.check import Finding, Setting, launched_alone, rounded

HELD = 0.75  # of the GPU, before the process is replaced: 60 GB of 80
LEFT = 0.5e9  # bytes that may be missing afterwards: our choice, less than one layer of a 7B model in float32
PATIENCE = 10.0  # seconds
FOUND = "GPU_CHECK_FOUND"  # what the first process has found, for the second


def exec_frees_gpu(setting: Setting) -> Iterator[Finding]:
    """Bytes that are gone for the process after `exec`, as the pipeline goes from one stage to the next."""
    environment = {**os.environ, **launched_alone(), **({"ACCELERATE_USE_CPU": "true"} if setting.tiny else {})}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    facts = json.loads(done.stdout.splitlines()[-1])
    held, lost = facts["held"] / 1e9, facts["lost"] / 1e9
    what = "resident memory of the process" if setting.tiny else "of the GPU, by mem_get_info"
    yield Finding(
        "exec_frees_gpu",
        rounded(lost),
        "GB",
        f"{what}: {held:.1f} GB were held before exec with a group of one over {facts['backend']}; "
        f"{facts['first'] / 1e9:.2f} GB of them are missing when the next process looks, {lost:.2f} GB "
        f"{facts['waited']:.1f} s later",
        wrong=f"more than {LEFT / 1e9} GB do not come back" if facts["lost"] > LEFT else "",
    )


def used_bytes() -> int:
    """Bytes that are taken: of the GPU by everyone, or of main memory by this process."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free
    import psutil

    return int(psutil.Process().memory_info().rss)


def _hold() -> None:
    """Fill the memory and replace this process, as a stage does at its end."""
    from accelerate import PartialState

    from pipeline import launch, stages

    environment = dict(os.environ)
    state = PartialState()
    torch.ones(1, device=state.device).sum().item()
    before = used_bytes()
    size = int(HELD * torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 300_000_000
    block = torch.zeros(size, dtype=torch.uint8, device=state.device)
    torch.distributed.all_reduce(block[:8])
    assert launch.processes() == 1
    facts = {"before": before, "held": used_bytes() - before, "backend": torch.distributed.get_backend_config()}
    stages._exec_next({**environment, FOUND: json.dumps(facts)})


def _look() -> None:
    facts = json.loads(os.environ[FOUND])
    if torch.cuda.is_available():
        torch.ones(1, device="cuda").sum().item()
    else:  # what the first process had imported is held by this one too
        importlib.import_module("pipeline.stages")
        importlib.import_module("accelerate").PartialState()
    begun, first = time.monotonic(), used_bytes() - facts["before"]
    while (lost := used_bytes() - facts["before"]) > LEFT and time.monotonic() - begun < PATIENCE:
        time.sleep(0.1)
    print(json.dumps({**facts, "first": max(first, 0), "lost": max(lost, 0), "waited": time.monotonic() - begun}))


# --- the KL reference -------------------------------------------------------------------------------------------------


def reference_peak(setting: Setting) -> Iterator[Finding]:
    """What a forward pass of the reference takes beside its shard, cut as TRL cuts it and as the policy is cut."""
    from accelerate import Accelerator
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from trl.models.utils import prepare_fsdp

    from tests.gpu.precision import launch_sharded
    from tests.gpu.sizes import text_model
    from tests.support.measures import peak_bytes

    launch_sharded(setting)
    accelerator, found = Accelerator(), {}
    for name, cut in (("trl", prepare_fsdp), ("policy", lambda model, _: fsdp2_prepare_model(accelerator, model))):
        model = text_model("0.5B", setting, torch.float32).eval()
        weights, layer, head = map(_count, (model, model.model.layers[0], model.lm_head))
        ids = torch.randint(0, 100, (1, 16 if setting.tiny else 512), device=setting.device)
        if name == "policy":
            os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = type(model.model.layers[0]).__name__
            accelerator.state.fsdp_plugin.set_auto_wrap_policy(model)
        sharded = cut(model, accelerator)
        found[name] = peak_bytes(lambda model=sharded, ids=ids: _forward(model, ids))
        del model, sharded
    whole, planned = 2 * weights, 2 * (2 * layer + head)
    for name, what in (("trl", "as TRL's prepare_fsdp cuts it"), ("policy", "as accelerate cuts the policy")):
        yield Finding(
            f"reference_peak.{name}",
            rounded(found[name] / whole),
            "ratio",
            f"{what}: a forward pass takes {found[name] / 1e6:,.4g} MB beside the shard, where all weights in bfloat16 "
            f"are {whole / 1e6:,.4g} MB and the plan counts {planned / 1e6:,.4g} MB, two layers and the head "
            f"({weights / 1e6:,.3g}M parameters, one rank)",
        )


def _count(model: Any) -> int:
    return sum(int(weight.numel()) for weight in model.parameters())


def _forward(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        model(ids, use_cache=False, logits_to_keep=1)


if __name__ == "__main__":
    _look() if FOUND in os.environ else _hold()
