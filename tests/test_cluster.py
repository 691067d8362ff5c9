"""The Dockerfile and the cluster files, by the tools and schemas of their own; the Slurm script on real ranks."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from pipeline.recipe.file import load
from tests.support.inputs import ROOT, two_short_stages, wait_for_a_loss

CLUSTER = ROOT / "recipes" / "cluster"
BIN = Path(sys.executable).parent


def _lost(asked: Any, understood: Any, place: str = "") -> list[str]:
    """Where a schema's own reading of a file lacks what the file says."""
    if isinstance(asked, dict):
        gone = [f"{place}/{key}" for key in asked if key not in understood]
        return gone + [
            each
            for key in asked.keys() & understood.keys()
            for each in _lost(asked[key], understood[key], f"{place}/{key}")
        ]
    if isinstance(asked, list):
        pairs = enumerate(zip(asked, understood, strict=True))
        return [each for index, (a, b) in pairs for each in _lost(a, b, f"{place}/{index}")]
    return [] if asked == understood else [place]


def test_the_linters_find_nothing() -> None:
    subprocess.run([BIN / "hadolint", "--failure-threshold", "style", ROOT / "Dockerfile"], check=True)
    subprocess.run([BIN / "shellcheck", CLUSTER / "run.sbatch"], check=True)


def test_the_job_is_kubernetes() -> None:
    job = yaml.safe_load((CLUSTER / "job.yaml").read_text())
    kubernetes_validate.validate(job, "1.37", strict=True)
    job["spec"]["template"]["spec"]["terminationGracePeriod"] = 900
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


def test_the_train_job_is_kubeflows() -> None:
    asked = yaml.safe_load((CLUSTER / "trainjob.yaml").read_text())
    read = TrainerV1alpha1TrainJob.from_dict(asked)
    assert read is not None
    assert not _lost(asked, read.to_dict())
    asked["spec"]["trainer"]["gracePeriod"] = 900
    wrong = TrainerV1alpha1TrainJob.from_dict(asked)
    assert wrong is not None
    assert _lost(asked, wrong.to_dict()) == ["/spec/trainer/gracePeriod"]


def test_both_shard_as_the_launch_file_does() -> None:
    settings = yaml.safe_load((ROOT / "recipes" / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
    job = yaml.safe_load((CLUSTER / "trainjob.yaml").read_text())
    given = {each["name"]: each.get("value") for each in job["spec"]["trainer"]["env"]}
    script = (CLUSTER / "run.sbatch").read_text()
    for key in ("fsdp_version", "fsdp_state_dict_type", "fsdp_auto_wrap_policy", "fsdp_reshard_after_forward"):
        value = str(settings[key]).lower() if isinstance(settings[key], bool) else str(settings[key])
        assert given[key.upper()] == value
        assert f"{key.upper()}={value}" in script
    assert given["ACCELERATE_USE_FSDP"] == "true"
    assert "ACCELERATE_USE_FSDP=true" in script


SRUN = """\
#!{python}
# As srun does: the command once a task, each with its number, in a process group of its own, which gets a signal;
# ends with the largest code.
import itertools, os, signal, subprocess, sys
options = [*itertools.takewhile(lambda each: each.startswith("--"), sys.argv[1:])]
command, own = sys.argv[1 + len(options):], dict(each.split("=", 1) for each in options)
tasks = [
    subprocess.Popen(
        command,
        env={{**os.environ, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}},
        start_new_session=True,
    )
    for number in range(int(own["--ntasks"]))
]
signal.signal(signal.SIGTERM, lambda *_: [os.killpg(task.pid, signal.SIGTERM) for task in tasks])
open(os.environ["PIDS"] + ("-server" if "--output" in own else ""), "w").write(str(os.getpid()))
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """\
#!/bin/sh
[ "$1" = show ] && echo "$3" | tr , '\\n'
[ "$1" = requeue ] && echo "$2" >> "$REQUEUED"
exit 0
"""


def _stand_ins(folder: Path, **scripts: str) -> None:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, **scripts}.items():
        (folder / name).write_text(text.replace("{python}", sys.executable).replace("{{", "{").replace("}}", "}"))
        (folder / name).chmod(stat.S_IRWXU)


RANK = """\
#!/bin/bash
# A rank that saves for a while when it is told to stop.
echo "$RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $@" >> "$FOLDER/ranks"
trap 'sleep 1; exit 143' TERM
sleep 60 & wait
"""
SERVER = """\
#!/bin/bash
trap 'touch "$FOLDER/stopped"; exit' TERM
printf '%s\\n' "$@" > "$FOLDER/server"
sleep 60 & wait
"""


def test_the_slurm_script_has_a_server_on_the_last_node_which_outlives_the_signal(tmp_path: Path) -> None:
    """The script alone: what it starts are stand-ins. What it asks of vLLM and of the recipe, these read themselves."""
    _stand_ins(tmp_path, python=RANK, vllm=SERVER)
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "0", "SLURM_NTASKS": "6", "SLURM_NNODES": "3"}
    slurm |= {"SLURM_JOB_NODELIST": "node1,node2,node3", "REQUEUED": str(tmp_path / "requeued"), "SERVES": "some/model"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FOLDER": str(tmp_path)}
    environment["PIDS"] = str(tmp_path / "pid")
    recipe = ROOT / "recipes" / "full.yaml"
    job = subprocess.Popen(["bash", CLUSTER / "run.sbatch", str(recipe)], cwd=tmp_path, env=environment)
    ranks, server = tmp_path / "ranks", tmp_path / "server"
    deadline = time.monotonic() + 30
    while not (server.exists() and ranks.exists() and len(ranks.read_text().splitlines()) == 4):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    steps = [int((tmp_path / name).read_text()) for name in ("pid", "pid-server")]
    for step in steps:
        os.kill(step, signal.SIGTERM)
    assert job.wait(30) == 143
    assert not (tmp_path / "stopped").exists()
    started = subprocess.run(["pgrep", "-f", str(tmp_path / "vllm")], capture_output=True, text=True).stdout.split()
    assert started
    for each in (*map(int, started), steps[1]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    lines = [line.split() for line in ranks.read_text().splitlines()]
    assert sorted(line[:3] for line in lines) == [[str(rank), "4", "2"] for rank in range(4)]
    assert all(line[3:5] == ["pipeline/run.py", str(recipe)] for line in lines)
    read = load(recipe, [argument for argument in lines[0][5:] if not argument.startswith("name=")])
    assert read.stages[1].settings()["vllm_server_base_url"] == "http://node3:8000"
    serve, *arguments = server.read_text().splitlines()
    assert (serve, arguments[0]) == ("serve", "some/model")
    asked = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    assert (asked.port, asked.logprobs_mode, asked.enable_scale_out) == (8000, "processed_logprobs", True)


@pytest.mark.slow
def test_the_slurm_script_stops_at_a_checkpoint_is_queued_again_and_goes_on(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    """Two ranks, without a launcher; Slurm's own two commands are stand-ins, the ranks and the signal are real."""
    _stand_ins(tmp_path)
    recipe = two_short_stages(tmp_path, str(small("llama")))
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
    slurm |= {"SLURM_JOB_NODELIST": "127.0.0.1", "REQUEUED": str(tmp_path / "requeued"), "PIDS": str(tmp_path / "pid")}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}"}
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = ["bash", CLUSTER / "run.sbatch", str(recipe)]
    folder, log = tmp_path / "runs" / "small-3", tmp_path / "log"
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log.open("ab"), stderr=subprocess.STDOUT)

    job = start()
    wait_for_a_loss(job, log)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert job.wait(120) == 143, log.read_text()
    assert (tmp_path / "requeued").read_text() == "4711\n"
    assert start().wait(240) == 0, log.read_text()
    assert (folder / "grpo" / "COMPLETE").exists()
    assert "step 600/600" in log.read_text()
