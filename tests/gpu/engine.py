"""vLLM beside the trainer: the same log-probabilities after each push, and how fast it rolls out."""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from tests.gpu.check import Finding, Setting, apart, rounded
from tests.support.families import save, save_tempted
from tests.support.pushes import STEPS, Case, lines

# Nats between the likeliest next tokens' log-probabilities: our choice, several times what rounding does to a small
# model with another attention kernel, and far less than what an optimizer step does to it.
LIMIT = {"float32": 0.01, "bfloat16": 0.2}
STILL = {"learning_rate": 1e-6, "vllm_importance_sampling_mode": "token_truncate"}
FULL = Case("full", "qwen2_5_vl")
WAYS = [FULL, replace(FULL, name="lora", lora=True), replace(FULL, name="vision tower", only="visual")]
ASLEEP = replace(FULL, name="asleep", settings={"vllm_enable_sleep_mode": True})
BANNED = Case("image tokens", "tempted", stage={"max_logp_difference": 1.0}, settings=STILL)


def pushes(setting: Setting) -> Iterator[Finding]:
    """Real GRPO steps of a small Qwen2.5-VL: the gap of engine and trainer before and after each push of weights."""
    folder = apart(save, "qwen2_5_vl", setting.folder / "model")
    for case in _cases(setting.tiny):
        path = apart(save_tempted, folder, setting.folder / "tempted") if case is BANNED else folder
        yield _finding(case, apart(lines, replace(case, model=str(path), stage=case.stage or _loose(case.dtype))))


def _cases(tiny: bool) -> list[Case]:
    """The first ones tell most."""
    if tiny:
        return [WAYS[1]]
    loose = {"dtype": "bfloat16"}
    return [*(replace(case, **loose) for case in WAYS), *WAYS, replace(ASLEEP, **loose), BANNED]


def _loose(dtype: str) -> dict[str, Any]:
    """The trainer's own alarm is not to end what measures."""
    return {"max_logp_difference": 1.0} if dtype == "bfloat16" else {}


def _finding(case: Case, told: list[dict[str, Any]]) -> Finding:
    name = f"vllm_push.{case.name.replace(' ', '_')}.{case.dtype}"
    if failed := [line["error"] for line in told if "error" in line]:
        return Finding(name, None, "nats", failed[0][:400], wrong="the run ended with an error")
    if case is BANNED:
        return Finding(name, len(told), "generations", "of a model that is drawn to image tokens, without sampling one")
    after = max(line["after"] for line in told)
    table = ", ".join(f"{line['before']:.2g} > " * ("before" in line) + f"{line['after']:.2g}" for line in told)
    stale = [line for line in told[1:] if line.get("before", 1.0) < 0.01]
    wrong = f"more than {LIMIT[case.dtype]}" if after > LIMIT[case.dtype] else ""
    wrong = wrong or ("training moved nothing; nothing was tested" if stale else "")
    what = f"the largest after a push, of {STEPS} steps; before > after: {table}"
    return Finding(name, rounded(after), "nats", what, wrong=wrong)


def rates(setting: Setting) -> Iterator[Finding]:
    """`make bench`'s rollouts: tokens a second against transformers' generate at mixed lengths, the price of a push."""
    for row in import_module("tests.bench.rollouts").results():
        yield Finding(f"rollout_rate.{row['name']}", row["value"], row["unit"], row["detail"])
