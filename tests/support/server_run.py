"""The real command in server mode on a CPU: weights reach the server over the file system instead of NCCL.

TRL sends them over NCCL, which needs two GPUs. The server here is told to reload them from a folder; all else, from
rollouts and images to failures, is what runs on a cluster. Run as `server_run.py FOLDER RECIPE [override...]`.
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from safetensors.torch import save_file
from trl.generation.vllm_client import VLLMClient

from pipeline.main import main

FOLDER, *ARGUMENTS = sys.argv[1:]


def _from_the_folder(self: VLLMClient, metadata: Any, named_params: Any) -> None:
    save_file({name: weight.detach().clone() for name, weight in named_params}, Path(FOLDER) / "model.safetensors")
    reload = {"method": "reload_weights", "kwargs": {"weights_path": FOLDER}}
    self._post(f"{self.base_url}/collective_rpc", json=reload)


VLLMClient.init_communicator = lambda self, device: None
VLLMClient.update_named_params = _from_the_folder

if __name__ == "__main__":
    sys.exit(main(ARGUMENTS))
