"""The fields of TRL's config classes, read from their source, so that a misspelt key is found without torch."""

import ast
import importlib.util
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import annotated_types as limits
from pydantic import ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

_CLASSES = {"sft": ("trl", "trainer/sft_config.py"), "grpo": ("trl", "trainer/grpo_config.py")}
_BASES = [("transformers", "training_args.py"), ("trl", "trainer/base_config.py")]
_ENUMS = [("transformers", "trainer_utils.py"), ("transformers", "training_args.py")]
_COMPARED = [
    ("trl", f"{name}.py") for name in ("trainer/grpo_trainer", "trainer/grpo_config", "generation/vllm_generation")
]

# Text that TRL compares with a few words, some of it only after the first rollouts. Delete when TRL types the words.
_WORDS = {
    *"importance_sampling_level loss_type multi_objective_aggregation scale_rewards".split(),
    *"vllm_importance_sampling_mode vllm_mode".split(),
}

# What a number must be to mean anything; TRL checks hardly any of it. What is not here may be anything.
_LIMITS: dict[str, Any] = {
    name: limit
    for limit, names in [
        (limits.Ge(-1), "max_steps top_k"),
        (limits.Ge(0), "learning_rate weight_decay max_grad_norm warmup_steps adam_epsilon beta epsilon epsilon_high"),
        (limits.Ge(0), "dataloader_num_workers"),
        (limits.Gt(0), "num_train_epochs save_steps eval_steps logging_steps temperature repetition_penalty delta"),
        (limits.Gt(0), "vllm_server_timeout"),
        (limits.Ge(1), "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps"),
        (limits.Ge(1), "generation_batch_size steps_per_generation num_iterations ref_model_sync_steps"),
        (limits.Ge(1), "max_length max_completion_length vllm_max_model_length vllm_tensor_parallel_size"),
        (limits.Ge(1), "save_total_limit dataloader_prefetch_factor"),
        (limits.Ge(2), "num_generations"),  # an advantage compares the completions of a group
        (limits.Interval(ge=0, lt=1), "adam_beta1 adam_beta2"),
        (limits.Interval(gt=0, le=1), "top_p vllm_gpu_memory_utilization"),
        (limits.Interval(ge=0, le=1), "min_p top_entropy_quantile ref_model_mixup_alpha"),
        (limits.Interval(ge=1, le=65535), "vllm_server_port vllm_group_port"),
    ]
    for name in names.split()
}
# Counts, which TRL says may be None and then multiplies. Delete when it says `int` (`trainer/grpo_config.py:480,494`).
_NEVER_NULL = {"num_generations", "max_completion_length"}


class Field(NamedTuple):
    """One setting of a trainer: its type as far as it is plain Python (`Any` otherwise) and its literal default."""

    type: Any
    default: Any


class TrainerBlock:
    """Makes a `dict` of the schema a `trainer:` block: TRL's own names, types and ranges, each mistake at its key."""

    def __init__(self, kind: str, without: set[str]) -> None:
        self.kind, self.without = kind, without

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        allowed = {name: field.type for name, field in fields(self.kind).items() if name not in self.without}
        block = TypedDict(f"{self.kind.title()}Trainer", allowed, total=False)  # type: ignore[misc]
        block.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
        return handler.generate_schema(block)


@cache
def fields(kind: str) -> dict[str, Field]:
    """Every field that `trl.SFTConfig` (`sft`) or `trl.GRPOConfig` (`grpo`) takes, inherited ones included."""
    by_name: dict[str, Field] = {}
    for package, file in [*_BASES, _CLASSES[kind]]:
        for node in ast.walk(_tree(package, file)):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "TrainingArguments")):
                by_name.update(_annotated(kind, node))
    return by_name


@cache
def _tree(package: str, file: str) -> ast.Module:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; run `make setup`")
    return ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))


def _annotated(kind: str, node: ast.ClassDef) -> Iterator[tuple[str, Field]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if not name.startswith("_"):
                words = _words(name) if kind == "grpo" and name in _WORDS else None
            expected = Literal[tuple(words)] if words else _limited(name, _type(statement.annotation))
            yield name, Field(expected, _default(statement.value))


def _type(annotation: ast.expr) -> Any:
    try:
        expected = eval(ast.unparse(annotation), dict(vars(typing)) | _enums())
    except (NameError, TypeError):  # a class of transformers: accepted here, checked when the stage starts
        return Any
    choices = [part for part in get_args(expected) if part in _enums().values()]
    return choices[0] if choices else expected  # `SchedulerType | str` takes no other text than a SchedulerType's


def _limited(name: str, expected: Any) -> Any:
    """The type with what its values must be; of a union, its numbers."""
    if name not in _LIMITS or expected is Any:
        return expected
    if name in _NEVER_NULL:
        expected = int
    if get_origin(expected) in {typing.Union, types.UnionType}:
        return typing.Union[tuple(_limited(name, part) for part in get_args(expected))]  # noqa: UP007
    return Annotated[expected, _LIMITS[name]] if expected in {int, float} else expected


@cache
def _enums() -> dict[str, Any]:
    """transformers' enumerations of words, as what may stand in a recipe."""
    enums: dict[str, Any] = {}
    for package, file in _ENUMS:
        for node in ast.walk(_tree(package, file)):
            if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases):
                values = [_default(each.value) for each in node.body if isinstance(each, ast.Assign)]
                enums[node.name] = Literal[tuple(value for value in values if isinstance(value, str))]
    return enums


@cache
def _words(name: str) -> list[str]:
    """The words that TRL compares the setting `name` with."""
    words: set[str] = set()
    for package, file in _COMPARED:
        for node in ast.walk(_tree(package, file)):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == name:
                values = [_default(each) for each in node.comparators]
                words |= {word for each in values for word in ([each] if isinstance(each, str) else each)}
    return sorted(words)


def _default(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    try:
        return ast.literal_eval(value) if value is not None else None
    except ValueError:
        return None
