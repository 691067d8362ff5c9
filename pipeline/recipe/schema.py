"""The recipe: one strict schema."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag

from eval.data.formats import Format
from eval.data.rows import Source
from pipeline.recipe.trl_fields import TrainerBlock, fields
from rewards.contract import OnError, checked
from rewards.load import load_reward


class Strict(BaseModel):
    """Unknown keys are errors, values are not coerced, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Strict):
    path: str  # a folder or a hub id
    revision: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class Data(Strict):
    path: str  # a folder, a .jsonl, .json or .parquet file, or a hub id
    format: Format = "rows"
    split: str = "train"
    revision: str | None = None
    file: str | None = None  # one file of the folder or of the hub's repository
    images: str | None = None  # the folder that image paths in the rows are relative to
    columns: dict[str, str] = {}  # the format's name of a column: the data's own
    bad_rows: Literal["stop", "drop"] = "stop"  # rows that would be trained wrongly: refuse to run, or leave out

    @property
    def place(self) -> str:
        """Where the rows stand, for messages."""
        return f"{self.path}/{self.file}" if self.file else self.path

    def source(self) -> Source:
        return Source(**self.model_dump(exclude={"bad_rows"}))


class ThinkWeight(Strict):
    """`w(p)`, the weight of the think segment at progress `p`."""

    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant", "step"] = "cosine"


class SegmentLoss(Strict):
    think_weight: ThinkWeight
    answer_weight: float | None = Field(default=None, gt=0)  # of every step; else `1 - w(p)`


NamedLoss = Literal["token_mean", "sample_token_mean"]
Loss = Annotated[
    Annotated[NamedLoss, Tag("named")] | Annotated[SegmentLoss, Tag("segments")],
    Discriminator(lambda loss: "named" if isinstance(loss, str) else "segments"),
]


class Lora(Strict):
    r: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    load_in_4bit: bool = False  # QLoRA: train on a base in NF4, merge into the whole one


class Reward(BaseModel):
    """A reward by name, file or dotted path; every further key is an argument of the function."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    use: str
    weight: float = 1.0
    bound: float = Field(default=1e6, gt=0)  # a larger value, of either sign, is a mistake
    on_error: OnError = "fail"  # what breaks the contract stops the run, or counts as 0

    def function(self, folder: Path = Path(), on_error: OnError | None = None) -> Callable[..., Any]:
        """The reward itself, its returns checked; a relative file is looked for in `folder`."""
        loaded = load_reward(self.use, dict(self.model_extra or {}), folder)
        return checked(loaded, self.bound, on_error or self.on_error)


_NamedOrWhole = Annotated[
    Reward,
    BeforeValidator(lambda use: {"use": use} if isinstance(use, str) else use, json_schema_input_type=str | Reward),
]


def processes() -> int:
    """Of this job; a launcher says so."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharding() -> str:
    """How accelerate's launcher cuts the model over this job's processes: `none`, `fsdp2`, `zero2` or `zero3`."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp2"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return "zero2" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "2" else "zero3"
    return "none"


# What a stage decides itself, or what the loss cannot carry; a recipe that sets it would be overruled silently.
_RESERVED_BOTH = {
    "output_dir": "the run folder is fixed: runs/<name>/<stage>",
    "seed": "set `seed` at the top of the recipe",
    "data_seed": "set `seed` at the top of the recipe",
    "model_init_kwargs": "set `model` at the top of the recipe",
    "resume_from_checkpoint": "the same command resumes by itself",
    "ignore_data_skip": "a run that resumes sees the rows that it would have seen",
    "save_only_model": "nothing could be resumed from such a checkpoint",
    "enable_jit_checkpoint": "a signal always ends the run at a checkpoint, on all ranks alike",
    "trust_remote_code": "code that a model brings along is never run; every family that we train is in transformers",
    "load_best_model_at_end": "a stage hands on the weights of its last step",
    "chat_template_path": "every stage uses the template of the model; save the one you want with its processor",
    "reward_weights": "give each reward its `weight`",
}
_MEANS = "the loss is a mean over the think and answer tokens of each response, over all ranks"
_RESERVED_SFT = {
    "packing": "segments need one sequence a row",
    "padding_free": "segments need one sequence a row",
    "truncation_mode": "no row is cut: one that is too long is refused, or left out with `bad_rows: drop`",
    "loss_type": _MEANS,
    "label_smoothing_factor": _MEANS,
    "assistant_only_loss": _MEANS,
    "completion_only_loss": _MEANS,
    "average_tokens_across_devices": _MEANS,
}
_RESERVED_GRPO = {
    "eval_strategy": "a grpo stage has no rows to evaluate on; `evaluate` scores its checkpoint",
    "log_completions": "completions are always saved: runs/<name>/<stage>/completions",
    "num_completions_to_print": "completions are saved, not printed: runs/<name>/<stage>/completions",
}
RESERVED = {"sft": _RESERVED_BOTH | _RESERVED_SFT, "grpo": _RESERVED_BOTH | _RESERVED_GRPO}


class _Stage(Strict):
    kind: str
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    data: str
    lora: Lora | None = None
    trainer: dict[str, Any] = {}

    def settings(self) -> dict[str, Any]:
        """`trainer` with TRL's defaults for all that it leaves out."""
        return {key: field.default for key, field in fields(self.kind).items()} | self.trainer


class SftStage(_Stage):
    kind: Literal["sft"]
    eval_data: str | None = None  # rows for the losses that `eval_strategy` asks for
    loss: Loss
    trainer: Annotated[dict[str, Any], TrainerBlock("sft", {*RESERVED["sft"]})] = {}  # trl.SFTConfig

    @property
    def label(self) -> str:
        return f"{self.name} ({'SCALe' if isinstance(self.loss, SegmentLoss) else self.loss})"


class Difficulty(Strict):
    """Ask the model that the stage starts from, and keep the rows that it gets right neither never nor always."""

    samples: int = Field(gt=0)  # completions a row, at the stage's temperature
    lowest: float = Field(ge=0, le=1)  # pass rates that are kept, both ends included
    highest: float = Field(ge=0, le=1)


class GrpoStage(_Stage):
    kind: Literal["grpo"]
    rewards: list[_NamedOrWhole] = Field(min_length=1)
    max_logp_difference: float = Field(default=0.1, gt=0)  # nats; above it, the engine's weights are stale: stop
    rollout_timeout: float = Field(default=120.0, gt=0)  # seconds without progress of vLLM after which the run ends
    mixed_rows: Literal["stop", "split"] = "stop"  # rows with images and rows without: refuse, or ask in turns
    dynamic_sampling: int = Field(default=0, ge=0)  # rounds in which groups without contrast are replaced (DAPO)
    difficulty: Difficulty | None = None
    trainer: Annotated[dict[str, Any], TrainerBlock("grpo", {*RESERVED["grpo"]})] = {}  # trl.GRPOConfig

    def completions_per_generation(self) -> int:
        """Completions that all processes of this job roll out together."""
        setting = self.settings()
        steps = setting["steps_per_generation"] or setting["gradient_accumulation_steps"]
        total = setting["generation_batch_size"] or setting["per_device_train_batch_size"] * steps * processes()
        return int(total)

    @property
    def label(self) -> str:
        return f"{self.name} (GRPO)"


Stage = Annotated[SftStage | GrpoStage, Discriminator("kind")]


class Evaluate(Strict):
    tasks: list[str]  # names of shipped tasks, or YAML files
    on: list[str]  # `base` or names of stages
    batch_size: int = Field(default=64, gt=0)  # prompts decoded together, per rank
    samples: int = Field(default=0, ge=0)  # sampled completions an item, beside the greedy one
    temperature: float = Field(default=1.0, gt=0)  # of the samples
    image_removed: bool = True  # rows with images also without them, greedily: what the text alone gives away


class Recipe(Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    seed: int = 0
    model: Model
    data: dict[str, Data]
    stages: list[Stage] = Field(min_length=1)
    evaluate: Evaluate | None = None
    _path: Path = PrivateAttr(default=Path("recipe"))

    @property
    def tasks(self) -> list[str]:
        """What checkpoints are evaluated on."""
        return self.evaluate.tasks if self.evaluate else []

    def revision_of(self, model_in: str) -> str | None:
        """The pinned revision, where `model_in` is the recipe's model and not what a stage left."""
        return self.model.revision if model_in == self.model.path else None


def local(path: str, folder: Path) -> str:
    """Paths in a recipe are relative to its folder; what is not there stays as it is (a hub id, a task's name)."""
    return str((folder / path).resolve()) if (folder / path).exists() else path
