"""The recipe: one strict schema."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag

from eval.data.rows import Source
from eval.task import Decoding, DecodingSettings
from pipeline.recipe.trl_fields import TrainerBlock, fields
from rewards.contract import OnError, enforce_contract
from rewards.load import load_reward


class Strict(BaseModel):
    """Unknown keys are errors, values are not coerced, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Strict):
    path: str  # a folder or a hub id
    revision: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class Data(Source):
    """Rows to train on, to ask, or to watch the loss of."""

    name: str | None = None  # the hub data set's configuration
    bad_rows: Literal["fail", "drop"] = "fail"  # rows that would be trained wrongly: refuse to run, or leave out

    @property
    def configuration(self) -> str | None:
        return self.name


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
    max_abs: float = Field(default=1e6, gt=0)  # a larger value, of either sign, is a mistake
    on_error: OnError = "fail"  # what breaks the contract ends the run, or counts as 0

    def function(self, folder: Path = Path(), on_error: OnError | None = None) -> Callable[..., Any]:
        """The reward itself, its returns checked; a relative file is looked for in `folder`."""
        loaded = load_reward(self.use, dict(self.model_extra or {}), folder)
        return enforce_contract(loaded, self.max_abs, on_error or self.on_error)


_NamedOrWhole = Annotated[
    Reward,
    BeforeValidator(lambda use: {"use": use} if isinstance(use, str) else use, json_schema_input_type=str | Reward),
]


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
    min_pass_rate: float = Field(ge=0, le=1)  # rows between the two are kept, both ends included
    max_pass_rate: float = Field(ge=0, le=1)


class GrpoStage(_Stage):
    kind: Literal["grpo"]
    rewards: list[_NamedOrWhole] = Field(min_length=1)
    max_logp_difference: float = Field(default=0.1, gt=0)  # nats; above it, the engine's weights are stale: stop
    rollout_timeout: float = Field(default=120.0, gt=0)  # seconds without progress of vLLM after which the run ends
    mixed_rows: Literal["fail", "split"] = "fail"  # rows with images and rows without: refuse, or ask in turns
    dynamic_sampling: int = Field(default=0, ge=0)  # rounds in which groups without contrast are replaced (DAPO)
    difficulty: Difficulty | None = None
    trainer: Annotated[dict[str, Any], TrainerBlock("grpo", {*RESERVED["grpo"]})] = {}  # trl.GRPOConfig

    def completions_per_generation(self, processes: int) -> int:
        """Completions that all processes of a job roll out together."""
        setting = self.settings()
        steps = setting["steps_per_generation"] or setting["gradient_accumulation_steps"]
        total = setting["generation_batch_size"] or setting["per_device_train_batch_size"] * steps * processes
        return int(total)

    @property
    def label(self) -> str:
        return f"{self.name} (GRPO)"


Stage = Annotated[SftStage | GrpoStage, Discriminator("kind")]


class Evaluate(DecodingSettings):
    """Which checkpoints are asked what; how is in the settings that `python -m eval` has too."""

    tasks: list[str]  # names of shipped tasks, or YAML files
    checkpoints: list[str]  # `base` or names of stages

    def decoding(self, seed: int) -> Decoding:
        return Decoding(seed=seed, **self.model_dump(include={*DecodingSettings.model_fields}))


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
