"""The launcher's side of a job: its ranks, its ports, how it shards the model, and what it must not decide.

`accelerate launch`, torchrun and Slurm say what they want in environment variables, which are read and set here alone.
"""

import os
import socket
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

_OF_A_RANK = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def processes() -> int:
    """Ranks of this job; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_rank() -> bool:
    """Whether this process speaks, writes and decides for the job."""
    return int(os.environ.get("RANK", "0")) == 0


def is_launched() -> bool:
    """Whether a launcher started this process, and not a user's shell."""
    return bool({"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys())


@cache  # once a process: a stage reads its rows after the check has
def tell(message: str) -> None:
    """Print `message` to stderr, from the first rank alone."""
    if is_first_rank():
        print(message, file=sys.stderr, flush=True)


def sharding() -> str:
    """How accelerate's launcher shards the model over the ranks: `none`, `fsdp2`, `zero2` or `zero3`."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp2"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return "zero2" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "2" else "zero3"
    return "none"


def problems() -> Iterator[str]:
    """Why this launch would leave no whole model at the end of a stage, and what to set."""
    if sharding() == "fsdp2":
        for name, needed in {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}.items():
            if os.environ.get(name) != needed:
                message = f"accelerate's {name.lower()} is {os.environ.get(name)}, and nothing could be handed on; "
                yield f"{message}set {name.lower()}: {needed} (recipes/accelerate/fsdp2.yaml)"
    if sharding() == "zero3" and os.environ.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL") != "true":
        message = "accelerate's zero3_save_16bit_model is off, and nothing could be handed on; set it to true"
        yield f"{message} (recipes/accelerate/zero3.yaml)"


def layers_to_shard(model: Any) -> list[str]:
    """The classes of the layers of `model` that FSDP gathers one at a time.

    Delete when accelerate skips classes that do not occur (1.15 takes all of `_no_split_modules` and raises: those of
    LLaVA-NeXT and Gemma-3 have layers of CLIP's and SigLIP's text towers; huggingface/transformers#38141).
    """
    return sorted({type(module).__name__ for module in model.modules()} & set(model._no_split_modules or ()))


def overrule(dtype: str, layers: list[str]) -> None:
    """Set what the recipe decides and the launcher would: precision, the port of an engine, the layers that FSDP cuts.

    Args:
        dtype: of the recipe's model.
        layers: from `layers_to_shard`, under FSDP2.
    """
    if processes() == 1:
        # Left alone, TRL gives an engine the first of four fixed ports that is free: the same to two runs that start
        # together, and the second ends. Delete when the system chooses (`trainer/utils.py:98`; huggingface/trl#3979).
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    # It would win over a float32 recipe. Delete when `bf16: false` wins (`transformers/training_args.py:1582`).
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if dtype == "bfloat16" else "no"
    if layers:
        os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", ",".join(layers))


def forget_rank() -> None:
    """Make this process none of the job's ranks."""
    for name in _OF_A_RANK:
        os.environ.pop(name, None)


def leave_process_group(environment: dict[str, str]) -> None:
    """End torch's process group; `environment` becomes that of the rank's next process. Called by every rank.

    Several ranks agree on a fresh port: the launcher's own store serves only one process group.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    dist.barrier()
    if dist.get_world_size() > 1:
        port = [_free_port() if dist.get_rank() == 0 else 0]
        dist.broadcast_object_list(port)
        environment |= {"MASTER_PORT": str(port[0]), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port
