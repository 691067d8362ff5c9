"""The real command with FSDP2 or DeepSpeed on CPUs, where accelerate 1.15 falls back to DDP: it is told what it has.

Only what accelerate finds out about its devices is replaced; the sharding itself, over gloo, is PyTorch's and
DeepSpeed's own. Run as `sharded_run.py RECIPE [override...]`, with the environment of a launch file.
"""

import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_find_devices, _set_up = PartialState._prepare_backend, AcceleratorState.__init__


def _with_gloo(self: PartialState, cpu: bool, *rest: Any) -> tuple[str, DistributedType]:
    """DeepSpeed is set up for `cpu=False` alone."""
    return _find_devices(self, True, *rest)


def _with_fsdp(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
    _set_up(self, *arguments, fsdp_plugin=fsdp_plugin, **settings)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin or self.fsdp_plugin  # a later call only looks at the state
        if fsdp_plugin is not None and self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)


def shard_on_cpus() -> None:
    PartialState._prepare_backend = _with_gloo
    AcceleratorState.__init__ = _with_fsdp


if __name__ == "__main__":
    from pipeline.main import main

    shard_on_cpus()
    sys.exit(main(sys.argv[1:]))
