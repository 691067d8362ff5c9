"""Rollouts by the real engine, colocated and in a server of its own: what may not be sampled, and what ends a run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline.rollout.engine import check_server
from tests.support.families import save_retied

ROOT = Path(__file__).resolve().parents[3]
BOUND_S = 60.0  # how soon a job ends after its engine did; `rollout_timeout` is a fifth of it, the default is 120 s

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="rolls out with vLLM: make setup installs it"),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
ON_CPU = {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_CI_ENV": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def _run(*command: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _output(process: subprocess.Popen[str], limit: float = 300) -> str:
    try:
        return process.communicate(timeout=limit)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


# --- colocated --------------------------------------------------------------------------------------------------------


HANG = """
import sys, time
from pathlib import Path
from tests.support.pushes import Case, trainer
trained = trainer(Case("hang", sys.argv[1], stage={"rollout_timeout": 4.0}), Path(sys.argv[2]))
engine = trained.vllm_generation.llm.llm_engine
engine.step = lambda: time.sleep(10_000)
trained.train()
"""


def test_a_generation_that_hangs_ends_the_process_with_its_cause(small: Callable[[str], Path], tmp_path: Path) -> None:
    process = _run("-c", HANG, str(small("qwen3")), str(tmp_path), folder=tmp_path)
    output = _output(process)
    assert process.returncode == 1
    assert "ERROR vLLM, generating, has made no progress for 4 s (rollout_timeout)" in output
    assert "engine.step = " not in output.split("ERROR")[-1]
    assert "line 7 in <lambda>" in output, "where it hangs is shown"


CONTRAST = """
def contrast(completions, **columns):
    return [float(len(set(completion[0]["content"]))) for completion in completions]
"""


def _stage(path: Path, rows: Path, **trainer: Any) -> dict[str, Any]:
    """A recipe of one GRPO stage that would go on for long."""
    reward = path.parent / "contrast.py"
    reward.write_text(CONTRAST)
    stage = {
        "name": "grpo",
        "kind": "grpo",
        "data": "rows",
        "rewards": [f"{reward}:contrast"],
        "rollout_timeout": BOUND_S / 5,
        "trainer": {
            "max_steps": 3,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 12,
            "use_vllm": True,
            "vllm_max_model_length": 256,
            **trainer,
        },
    }
    return {
        "name": "served",
        "model": {"path": str(path), "dtype": "float32"},
        "data": {"rows": {"path": str(rows)}},
        "stages": [stage],
    }


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = []
    for index in range(4):
        Image.new("RGB", (60 + 20 * index, 60), (index * 60, 90, 10)).save(tmp_path / f"{index}.png")
        lines.append({"id": index, "question": f"What is {index}?", "answer": "1", "images": [f"{index}.png"]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "rows.jsonl"


def test_a_rank_that_dies_with_its_engine_ends_the_job(
    small: Callable[[str], Path], rows: Path, tmp_path: Path
) -> None:
    content = _stage(small("qwen2_5_vl"), rows, max_steps=100_000)
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = _run(*torchrun, str(ROOT / "pipeline" / "run.py"), "recipe.json", folder=tmp_path)
    _wait_for_steps(process, tmp_path, 2)
    ranks = [child for child in _children(process.pid) if "run.py" in _command(child)]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    output = _output(process, BOUND_S)
    assert process.returncode not in (0, None)
    assert "Signal 9 (SIGKILL) received by PID" in output or "exitcode  : -9" in output
    assert not (tmp_path / "runs" / "served" / "grpo" / "COMPLETE").exists()


def _children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


def _wait_for_steps(process: subprocess.Popen[str], folder: Path, count: int, limit: float = 200) -> None:
    metrics, deadline = folder / "runs" / "served" / "grpo" / "metrics.jsonl", time.monotonic() + limit
    while not metrics.exists() or metrics.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- a server ---------------------------------------------------------------------------------------------------------

OPTIONS = ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs"]
OPTIONS += ["--max-logprobs", "-1", "--enable-scale-out", "--max-model-len", "256"]


@pytest.fixture(scope="module")
def untied(small: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vLLM's reload on a CPU leaves a tied head behind; a colocated engine's is mended, a server's is out of reach."""
    return save_retied(small("qwen2_5_vl"), tmp_path_factory.mktemp("served") / "untied", tied=False)


@pytest.fixture(scope="module", autouse=True)
def server(untied: Path) -> Iterator[tuple[int, subprocess.Popen[Any]]]:
    """The real server with the README's options, starting while other tests run: its port and its process."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = int(free.getsockname()[1])
    gpu = {"CUDA_VISIBLE_DEVICES": "1"} if torch.cuda.device_count() > 1 else {}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(untied)),
            *("--dtype", "float32", "--port", str(port), *OPTIONS),
        ],
        env={**ENVIRONMENT, **ON_CPU, **gpu, "VLLM_SERVER_DEV_MODE": "1"},
        cwd=untied,
        stdout=(untied.parent / "server.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield port, process
    os.killpg(process.pid, signal.SIGCONT)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _served(model: Path, rows: Path, folder: Path, port: int, **trainer: Any) -> subprocess.Popen[str]:
    """The command, in server mode."""
    address = {"vllm_mode": "server", "vllm_server_host": "localhost", "vllm_server_port": port}
    (folder / "recipe.json").write_text(json.dumps(_stage(model, rows, **address, **trainer)))
    if torch.cuda.device_count() > 1:  # weights go over NCCL
        return _run(str(ROOT / "pipeline" / "run.py"), "recipe.json", folder=folder, CUDA_VISIBLE_DEVICES="0")
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (weights / file.name).write_bytes(file.read_bytes())
    return _run(str(ROOT / "tests" / "support" / "server_run.py"), str(weights), "recipe.json", folder=folder)


def test_a_server_that_is_not_there_is_named_before_any_weights_load(untied: Path, rows: Path, tmp_path: Path) -> None:
    process = _served(untied, rows, tmp_path, 9, vllm_server_timeout=1.0)
    output = _output(process)
    assert process.returncode == 2, output
    assert "waiting up to 1 s for the vLLM server at http://localhost:9" in output
    assert "no vLLM server answers at http://localhost:9 within 1 s (vllm_server_timeout); start it with: " in output
    assert "VLLM_SERVER_DEV_MODE=1 vllm serve" in output
    assert "Loading weights" not in output
    assert "Traceback" not in output


def test_a_server_that_lacks_an_option_is_told_which(server: tuple[int, Any]) -> None:
    config = {"vllm_server_host": "localhost", "vllm_server_port": server[0], "vllm_server_base_url": None}
    args: Any = SimpleNamespace(**config, vllm_server_timeout=120.0, vllm_max_model_length=256)
    check_server(args, "model", print)
    args.vllm_max_model_length = 512
    message = (
        r"lacks --max-model-len 512 \(it has 256, the recipe's vllm_max_model_length is 512\); start it with: VLLM"
    )
    with pytest.raises(ValueError, match=message):
        check_server(args, "model", print)


def test_a_server_rolls_out_with_the_trainers_weights_and_images_until_it_dies(
    untied: Path, rows: Path, tmp_path: Path, server: tuple[int, subprocess.Popen[Any]]
) -> None:
    """Three runs: one that ends well, one whose server stands still, and one whose server is killed."""
    port, process = server
    job = _served(untied, rows, tmp_path, port)
    output = _output(job)
    assert job.returncode == 0, output + (untied.parent / "server.log").read_text()[-3000:]
    run = tmp_path / "runs" / "served"
    lines = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward" in line]
    assert len(steps) == 3
    assert all(step["grad_norm"] > 0 for step in steps)
    assert max(step["sampling/sampling_logp_difference/mean"] for step in steps) < 0.05
    assert json.loads((run / "grpo" / "COMPLETE").read_text())["rollouts"] == "vllm"

    for how, expected in ((signal.SIGSTOP, "it does not answer: ReadTimeout"), (signal.SIGKILL, "ConnectionError")):
        shutil.rmtree(run)
        job = _served(untied, rows, tmp_path, port, max_steps=100_000)
        _wait_for_steps(job, tmp_path, 2)
        os.killpg(process.pid, how)
        output = _output(job, BOUND_S)
        assert job.returncode == 1
        assert f"the vLLM server at http://localhost:{port}, " in output
        assert expected in output
        os.killpg(process.pid, signal.SIGCONT)
