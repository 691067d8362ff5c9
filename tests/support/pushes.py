"""Real GRPO steps with a real vLLM engine; prints what engine and trainer think of the same tokens around each push.

Run as `pushes.py CASE...`; each case is a JSON object (`Case`). An engine cannot be taken down in a process, so each
case has a child of its own, forked after the imports. One JSON line a push, or what ended the case: the largest gap
between the engine's and the trainer's next-token log-probabilities, over the engine's 20 likeliest tokens of each
probe, before and after it.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

if not torch.cuda.is_available():
    os.environ |= {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_CI_ENV": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}

from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback
from trl import GRPOConfig

from eval.chat import ChatFormat
from eval.data.rows import prompt
from eval.decode import vision_token_ids
from pipeline.handoff import adapter_settings, save_model
from pipeline.recipe.schema import Lora
from pipeline.recipe.trainer_arguments import sampling_settings
from pipeline.rollout.alarms import DIFFERENCE
from pipeline.rollout.trainer import RolloutTrainer
from tests.support.steps import grpo_stage

STEPS = 3


@dataclass(frozen=True)
class Case:
    """What is trained, from which folder."""

    name: str
    model: str
    lora: bool = False
    only: str | None = None  # train only the parameters with this in their name
    dtype: str = "float32"
    settings: dict[str, Any] | None = None  # of GRPOConfig
    stage: dict[str, Any] | None = None  # keys of the recipe's stage
    save: str | None = None


def probes(chat: ChatFormat) -> list[tuple[str, list[Image.Image]]]:
    """Prompts, for a VLM with an image: of different sizes, one of them also seen in training."""
    images = [Image.new("RGB", (60, 60), (0, 90, 10)), Image.new("RGB", (110, 60), (200, 30, 90))]
    return [
        (chat.prompt_text(f"What is {number} plus 2?", [image] if chat.is_vlm else []), [image] if chat.is_vlm else [])
        for number, image in enumerate(images)
    ]


def contrast(completions: Any, **_: Any) -> list[float]:
    """Differs between most completions, so that there is a gradient."""
    return [float(len(set(completion[0]["content"]))) for completion in completions]


def trainer(case: Case, out: Path) -> RolloutTrainer:
    """A trainer of four questions, asked again at each step, with their images if the model sees any."""
    chat = ChatFormat(case.model)
    rows: dict[str, Any] = {"prompt": [prompt(f"What is {number} plus 2?") for number in range(4)]}
    if chat.is_vlm:
        rows["images"] = [[Image.new("RGB", (60 + 20 * number, 60), (number * 60, 90, 10))] for number in range(4)]
    on_cpu = not torch.cuda.is_available()
    settings = {
        "output_dir": str(out),
        "per_device_train_batch_size": 8,
        "num_generations": 2,
        "max_completion_length": 16,
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "use_vllm": True,
        "vllm_max_model_length": 512,
        "vllm_gpu_memory_utilization": 0.2,
        "report_to": "none",
        "bf16": case.dtype == "bfloat16",
        "use_cpu": on_cpu,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": case.dtype if case.lora else "float32"},  # as the pipeline has it
        "generation_kwargs": sampling_settings({}, vision_token_ids(chat.config), True),
        **(case.settings or {}),
    }
    lora = Lora(r=4, alpha=8, target_modules="all-linear") if case.lora else None
    made = RolloutTrainer(
        model=case.model,
        chat=chat,
        stage=grpo_stage(**(case.stage or {})),
        reward_funcs=[contrast],
        args=GRPOConfig(**settings),
        train_dataset=Dataset.from_dict(rows),
        **adapter_settings(lora, case.dtype),
    )
    made.remove_callback(PrinterCallback)
    for name, weight in made.model.named_parameters():
        if case.only and case.only not in name:
            weight.requires_grad_(False)
    return made


def gap(of: RolloutTrainer) -> float:
    """The largest difference of next-token log-probabilities between engine and trainer, over the probes."""
    return max(_gap(of, text, images) for text, images in probes(of.chat))


def _gap(of: RolloutTrainer, text: str, images: list[Image.Image]) -> float:
    from vllm import SamplingParams

    ids = of.chat.ids(text)
    request: dict[str, Any] = {"prompt_token_ids": ids}
    inputs = of.chat.tokenizer([text], add_special_tokens=False, return_tensors="pt")
    if images:
        request["multi_modal_data"] = {"image": images[0]}
        inputs = of.chat.processor(text=[text], images=[images], add_special_tokens=False, return_tensors="pt")
    asked = SamplingParams(max_tokens=1, temperature=1.0, logprobs=20)
    answer = of.vllm_generation.llm.generate([request], asked, use_tqdm=False)[0]
    assert answer.prompt_token_ids == inputs["input_ids"][0].tolist(), "the engine read another prompt"
    model = of.model
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=of.args.bf16):
        logits = model(**inputs.to(model.device)).logits[0, -1].float()
    model.train(was_training)
    expected = logits.log_softmax(dim=-1)
    found = answer.outputs[0].logprobs[0]
    return max(abs(one.logprob - float(expected[token])) for token, one in found.items())


def _tell(line: dict[str, Any]) -> None:
    """In one write, so that the children's lines do not mix."""
    print(json.dumps(line) + "\n", end="", flush=True)


def run(case: Case, tell: Callable[[dict[str, Any]], None] = _tell) -> None:
    """Train the case; `tell` gets what is found, and what goes wrong."""
    try:
        _run(case, tell)
    except Exception as error:
        tell({"case": case.name, "error": f"{type(error).__name__}: {error}"})


def lines(case: Case) -> list[dict[str, Any]]:
    """What `run` tells."""
    told: list[dict[str, Any]] = []
    run(case, told.append)
    return told


def _run(case: Case, tell: Callable[[dict[str, Any]], None]) -> None:
    """Train for a few steps, with the engine looked at before and after each push."""
    os.environ["MASTER_PORT"] = str(20_000 + os.getpid() % 10_000)  # the other child's is another one
    with tempfile.TemporaryDirectory() as out:
        trained = trainer(case, Path(out))
        generation, push = trained.vllm_generation, trained.vllm_generation.sync_weights

        def watched() -> None:
            before = gap(trained)
            push()
            tell({"case": case.name, "step": trained.state.global_step, "before": before, "after": gap(trained)})

        if generation.enable_sleep_mode:  # it answers nothing between generations: what the trainer measured
            trained.train()
            for line in trained.state.log_history[:-1]:
                tell({"case": case.name, "step": line["step"], "after": line[DIFFERENCE]})
            tell({"case": case.name, "step": "slept at level 1", "after": _after_a_nap(trained)})
        else:
            generation.sync_weights = watched
            trained.train()
            generation.sync_weights()
        if case.save:
            save_model(trained, Path(case.save), case.dtype, rollouts="vllm")


def _after_a_nap(of: RolloutTrainer) -> float:
    """The gap when the engine, pushed to, has slept at level 1, which keeps its weights in main memory."""
    of.vllm_generation.sync_weights()
    engine = of.vllm_generation.llm
    engine.wake_up(tags=["kv_cache"])
    engine.sleep(level=1)
    engine.wake_up()
    return gap(of)


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = [Case(**json.loads(argument)) for argument in sys.argv[1:]]
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        pool.map(run, cases, chunksize=1)
