"""The image as `make image` built it: a recipe inside it, stopped by its runtime's signal, gone on with.

Its entry point, user, folders and environment are those that the image says; buildah runs it without a daemon.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.inputs import two_short_stages, wait_for_a_loss

IMAGE = "localhost/balanced-thinking-cpu"
ENVIRONMENT = {**os.environ, "BUILDAH_ISOLATION": "chroot"}


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _is_built() -> bool:
    if shutil.which("buildah") is None or os.geteuid() != 0:
        return False
    looked = subprocess.run(["buildah", "inspect", "--type", "image", IMAGE], env=ENVIRONMENT, capture_output=True)
    return looked.returncode == 0


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _is_built(), reason="no image: make image, as root on Debian")]


@pytest.fixture
def container() -> Iterator[str]:
    name = _buildah("from", IMAGE)
    yield name
    _buildah("rm", name)


@pytest.fixture
def folder(small: Callable[[str], Path], tmp_path: Path) -> Path:
    """With `data`, which the container sees as /data."""
    data = tmp_path / "data"
    shutil.copytree(small("llama"), data / "model")
    two_short_stages(data, "model", use_vllm=True, vllm_max_model_length=128)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in tmp_path.parents[:3]:  # pytest's own folders are for their user alone
        parent.chmod(0o755)
    return tmp_path


def _start(container: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    config = json.loads(_buildah("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
    assert config["User"] == "1000"
    assert {"/app/runs", "/cache"} <= config["Volumes"].keys()
    command = ["buildah", "run", "--volume", f"{folder / 'data'}:/data:ro", "--env", "HF_HUB_OFFLINE=1"]
    command += ["--env", f"OMP_NUM_THREADS={os.cpu_count()}", container, "--"]
    command += [*config["Entrypoint"], "/data/small.yaml"]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=log.open("ab"), stderr=subprocess.STDOUT)


def test_a_stopped_container_saves_ends_with_143_and_the_next_one_goes_on(container: str, folder: Path) -> None:
    log = folder / "log"
    run = _start(container, folder, log)
    wait_for_a_loss(run, log)
    [tini] = [each for each in psutil.Process(run.pid).children(recursive=True) if each.name() == "tini"]
    assert tini.uids().real == 1000
    tini.send_signal(signal.SIGTERM)  # as a runtime stops a container: its first process gets it
    assert run.wait(120) == 143, log.read_text()[-3000:]
    assert "and saved; run the same command again to resume" in log.read_text()

    assert _start(container, folder, log).wait(300) == 0, log.read_text()[-3000:]
    assert "resuming from runs/short/sft/checkpoints/" in log.read_text()
    # On the image's own volume: buildah 1.28 at times mounts it over one of ours.
    run_folder = "/app/runs/short"
    results = json.loads(_buildah("run", container, "--", "cat", f"{run_folder}/results.json"))
    assert results["stages"][1]["rollouts"] == "vllm"
    assert _buildah("run", container, "--", "stat", "--format", "%u", f"{run_folder}/report.html") == "1000"
