"""The recipe: one strict schema, read from YAML with the line of every mistake, before torch is imported."""

import importlib.util
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from eval.rows import Format, Source
from eval.task import load_task
from pipeline import trl_fields
from rewards.checked import OnError, checked
from rewards.load import did_you_mean, load_reward


class Strict(BaseModel):
    """Unknown keys are errors, values are not coerced, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Strict):
    path: str  # a folder or a hub id
    revision: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class Data(Strict):
    path: str  # a folder, a .jsonl, .json or .parquet file, or a hub id
    format: Format = "rows"
    split: str = "train"
    revision: str | None = None
    images: str | None = None  # the folder that image paths in the rows are relative to
    bad_rows: Literal["stop", "drop"] = "stop"  # rows that would be trained wrongly: refuse to run, or leave out

    def source(self) -> Source:
        return Source(**self.model_dump(exclude={"bad_rows"}))


class ThinkWeight(Strict):
    """`w(p)`, the weight of the think segment at progress `p`; the answer segment gets `1 - w(p)`."""

    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant", "step"] = "cosine"


class SegmentLoss(Strict):
    think_weight: ThinkWeight


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

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    use: str
    weight: float = 1.0
    bound: float = Field(default=1e6, gt=0)  # a larger value, of either sign, is a mistake
    on_error: OnError = "fail"  # what breaks the contract stops the run, or counts as 0

    def function(self, folder: Path = Path(), on_error: OnError | None = None) -> Callable[..., Any]:
        """The reward itself, its returns checked; a relative file is looked for in `folder`."""
        loaded = load_reward(self.use, dict(self.model_extra or {}), folder)
        return checked(loaded, self.bound, on_error or self.on_error)


def processes() -> int:
    """Of this job; a launcher says so."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class SftStage(Strict):
    kind: Literal["sft"]
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    data: str
    eval_data: str | None = None  # rows for the losses that `eval_strategy` asks for
    loss: Loss
    lora: Lora | None = None
    trainer: dict[str, Any] = {}

    @property
    def label(self) -> str:
        return f"{self.name} ({'SCALe' if isinstance(self.loss, SegmentLoss) else self.loss})"


class Difficulty(Strict):
    """Ask the model that the stage starts from, and keep the rows that it gets right neither never nor always."""

    samples: int = Field(gt=0)  # completions a row, at the stage's temperature
    lowest: float = Field(ge=0, le=1)  # pass rates that are kept, both ends included
    highest: float = Field(ge=0, le=1)


class GrpoStage(Strict):
    kind: Literal["grpo"]
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    data: str
    rewards: list[Reward] = Field(min_length=1)
    max_logp_difference: float = Field(default=0.1, gt=0)  # nats; above it, the engine's weights are stale: stop
    rollout_timeout: float = Field(default=120.0, gt=0)  # seconds without progress of vLLM after which the run ends
    mixed_rows: Literal["stop", "split"] = "stop"  # rows with images and rows without: refuse, or ask in turns
    dynamic_sampling: int = Field(default=0, ge=0)  # rounds in which groups without contrast are replaced (DAPO)
    difficulty: Difficulty | None = None
    lora: Lora | None = None
    trainer: dict[str, Any] = {}

    def settings(self) -> dict[str, Any]:
        """`trainer` with TRL's defaults for all that it leaves out."""
        return {key: field.default for key, field in trl_fields.fields("grpo").items()} | self.trainer

    def completions_per_generation(self) -> int:
        """Completions that all processes of this job roll out together."""
        setting = self.settings()
        steps = setting["steps_per_generation"] or setting["gradient_accumulation_steps"]
        total = setting["generation_batch_size"] or setting["per_device_train_batch_size"] * steps * processes()
        return int(total)

    @model_validator(mode="before")
    @classmethod
    def _names_are_rewards(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("rewards"), list):
            rewards = [{"use": reward} if isinstance(reward, str) else reward for reward in values["rewards"]]
            return {**values, "rewards": rewards}
        return values

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


class Recipe(Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    seed: int = 0
    model: Model
    data: dict[str, Data]
    stages: list[Stage] = Field(min_length=1)
    evaluate: Evaluate | None = None
    _path: Path = PrivateAttr(default=Path("recipe"))

    def revision_of(self, model_in: str) -> str | None:
        """The pinned revision, where `model_in` is the recipe's model and not what a stage left."""
        return self.model.revision if model_in == self.model.path else None

    def where(self, *loc: Any) -> str:
        """`file:line` of what stands at `loc` in the recipe's file."""
        return _where(self._path, _parse(self._path), loc)


@dataclass(frozen=True)
class Problem:
    """One mistake of the user: where, a stable code, what is wrong and what to do."""

    where: str
    code: str
    message: str
    id: str | None = None  # of a row

    def __str__(self) -> str:
        return f"ERROR {self.where} id={self.id or '-'} {self.code}: {self.message}"

    def json(self) -> str:
        return json.dumps(asdict(self))


class RecipeError(ValueError):
    """The recipe cannot run; `problems` lists every reason that was found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@contextmanager
def mistakes(where: str, code: str) -> Iterator[None]:
    """Around what only a user's mistake can break: its ValueError or OSError becomes one clear line."""
    try:
        yield
    except RecipeError:
        raise
    except (ValueError, OSError) as error:
        raise RecipeError([Problem(where, code, str(error).splitlines()[0])]) from error


def load(path: Path, overrides: list[str]) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file (YAML 1.2: `1e-5` is a number, `no` is a string).
        overrides: `stage.key.path=value`, or a top-level key instead of a stage.

    Raises:
        RecipeError: with all problems at once.
    """
    tree = _parse(path)
    problems = [problem for override in overrides if (problem := _override(tree, override))]
    if problems:
        raise RecipeError(problems)
    try:
        recipe = Recipe.model_validate(_plain(tree))
    except ValidationError as error:
        raise RecipeError([_problem(path, tree, dict(detail)) for detail in error.errors()]) from None
    problems = [
        Problem(_where(path, tree, loc), code, message)
        for loc, code, message in [
            *_references(recipe),
            *_trainers(recipe),
            *_rewards(recipe, path.parent),
            *_tasks(recipe, path.parent),
        ]
    ]
    if problems:
        raise RecipeError(problems)
    recipe = _with_local_paths(recipe, path.parent)
    recipe._path = path
    return recipe


def _parse(path: Path) -> CommentedMap:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError([Problem(str(path), "recipe_missing", f"cannot read the recipe: {error.strerror}")]) from None
    try:
        tree = YAML(typ="rt").load(io.StringIO(text))
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = str(error.problem).split(" with value")[0].replace("found d", "d")
        raise RecipeError([Problem(f"{path}:{line}", "duplicate_key", f"{what}; keep one of them")]) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise RecipeError([Problem(f"{path}:{line}", "yaml", f"not valid YAML: {error.problem}")]) from None
    if not isinstance(tree, CommentedMap):
        raise RecipeError([Problem(f"{path}:1", "yaml", "a recipe is a mapping with name, model, data and stages")])
    return tree


def _plain(node: Any) -> Any:
    """The tree as plain Python; round-trip scalars (`1.0e-5`, quoted text) lose their formatting."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node


def _override(tree: CommentedMap, override: str) -> Problem | None:
    """Set one value in the tree; only the last part of the path may be new."""
    path, equals, text = override.partition("=")
    first, *rest = path.split(".")
    stages = {stage.get("name"): stage for stage in tree.get("stages") or [] if isinstance(stage, dict)}
    known = [*map(str, stages), *Recipe.model_fields]
    if not equals or first not in known or (first in stages and not rest):
        return Problem(
            "command line",
            "override",
            f"{override!r}: expected stage.key.path=value, starting with one of: {', '.join(known)}",
        )
    node: Any = stages.get(first, tree)
    *parents, last = rest if first in stages else [first, *rest]
    for key in parents:
        node = node.setdefault(key, CommentedMap())
        if not isinstance(node, dict):
            return Problem("command line", "override", f"{override!r}: {key!r} is not a mapping in the recipe")
    node[last] = YAML(typ="safe").load(text)
    return None


def _walk(tree: Any, loc: tuple[Any, ...]) -> Iterator[tuple[Any, int | None, Any]]:
    """The parts of `loc` that stand in the tree: each key, its line (None if set on the command line), its value."""
    for key in loc:
        in_mapping = isinstance(tree, CommentedMap) and key in tree
        if in_mapping or (isinstance(tree, CommentedSeq) and isinstance(key, int) and key < len(tree)):
            position = (tree.lc.data or {}).get(key)
            tree = tree[key]
            yield key, position[0] + 1 if position else None, tree


def _where(path: Path, tree: Any, loc: tuple[Any, ...]) -> str:
    """`file:line` of the deepest part of `loc` that has a line."""
    lines = [line for _, line, _ in _walk(tree, loc) if line]
    return f"{path}:{lines[-1] if lines else 1}"


def _problem(path: Path, tree: CommentedMap, detail: dict[str, Any]) -> Problem:
    """One pydantic error as one line of advice."""
    loc = tuple(detail["loc"])
    where, name = _where(path, tree, loc), ".".join(_named(tree, loc))
    match detail["type"]:
        case "extra_forbidden":
            known = _known_keys(loc)
            return Problem(where, "unknown_key", f"{name}: unknown key. {_advice(str(loc[-1]), known)}")
        case "missing":
            return Problem(where, "missing_key", f"{name}: required key is missing")
        case _:
            return Problem(where, "bad_value", f"{name}: {detail['msg']}, got {detail.get('input')!r:.80}")


def _named(tree: Any, loc: tuple[Any, ...]) -> list[str]:
    """`loc` in the user's words: stages by name, without the schema's own markers."""
    parts: list[str] = []
    key = None
    for key, _, value in _walk(tree, loc):
        if isinstance(key, int) and isinstance(value, dict) and "name" in value:
            parts = [str(value["name"])]
        else:
            parts.append(str(key))
    return parts if key == loc[-1] else [*parts, str(loc[-1])]


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    """The keys that the schema has beside the unknown one at `loc`."""
    model: type[BaseModel]
    match loc[:-1]:
        case ("model",):
            model = Model
        case ("data", _):
            model = Data
        case ("evaluate",):
            model = Evaluate
        case ("stages", _, kind):
            model = SftStage if kind == "sft" else GrpoStage
        case ("stages", _, _, "lora"):
            model = Lora
        case ("stages", _, _, "difficulty"):
            model = Difficulty
        case ("stages", _, _, "loss", _):
            model = SegmentLoss
        case ("stages", _, _, "loss", _, "think_weight"):
            model = ThinkWeight
        case _:
            model = Recipe
    return list(model.model_fields)


def _advice(word: str, known: list[str]) -> str:
    return did_you_mean(word, known) or f"Known: {', '.join(known)}"


Found = tuple[tuple[Any, ...], str, str]  # where in the tree, code, message


def _references(recipe: Recipe) -> list[Found]:
    """Names that must exist elsewhere in the recipe."""
    found: list[Found] = []
    names = [stage.name for stage in recipe.stages]
    for index, stage in enumerate(recipe.stages):
        for key in ("data", "eval_data"):
            data = getattr(stage, key, None)
            if data is not None and data not in recipe.data:
                message = f"{stage.name}.{key}: no data {data!r}. {_advice(data, list(recipe.data))}"
                found.append((("stages", index, key), "unknown_data", message))
        if stage.name in names[:index] or stage.name in {"base", "eval"}:
            found.append(
                (
                    ("stages", index, "name"),
                    "stage_name",
                    f"{stage.name!r} is taken; names must be unique, not base or eval",
                )
            )
    for index, name in enumerate(recipe.evaluate.on if recipe.evaluate else []):
        if name not in ["base", *names]:
            message = f"evaluate.on: no checkpoint {name!r}. {_advice(name, ['base', *names])}"
            found.append((("evaluate", "on", index), "unknown_checkpoint", message))
    return found


# What a stage decides itself, or what the loss cannot carry; a recipe that sets it would be overruled silently.
_RESERVED = {
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


def _trainers(recipe: Recipe) -> list[Found]:
    """TRL's own settings: names, types, and the arithmetic of a GRPO batch."""
    found: list[Found] = []
    for index, stage in enumerate(recipe.stages):
        known, before = trl_fields.fields(stage.kind), len(found)
        reserved = _RESERVED | (_RESERVED_SFT if stage.kind == "sft" else _RESERVED_GRPO)
        for key, value in stage.trainer.items():
            loc, name = ("stages", index, "trainer", key), f"{stage.name}.trainer.{key}"
            if key in reserved:
                found.append((loc, "reserved_key", f"{name}: {reserved[key]}"))
            elif key not in known:
                found.append((loc, "unknown_key", f"{name}: unknown to TRL. {_advice(key, list(known))}"))
            elif problem := _wrong_type(value, known[key].type):
                found.append((loc, "bad_value", f"{name}: {problem}, got {value!r:.80}"))
        if stage.lora and stage.lora.load_in_4bit and (problem := _no_4bit(stage)):
            found.append((("stages", index, "lora", "load_in_4bit"), "load_in_4bit", f"{stage.name}.lora: {problem}"))
        asks = stage.trainer.get("eval_strategy", "no") != "no"
        if stage.kind == "sft" and asks != (stage.eval_data is not None):
            message = f"{stage.name}: eval_data and trainer.eval_strategy (steps or epoch) need each other"
            found.append((("stages", index), "eval_data", message))
        if stage.kind == "grpo" and len(found) == before:
            found += _group_arithmetic(index, stage)
    return found


def _no_4bit(stage: SftStage | GrpoStage) -> str | None:
    if stage.kind == "grpo":
        return "load_in_4bit is for sft stages; rollouts would come from a model that is rounded otherwise"
    if not is_installed("bitsandbytes"):
        return "load_in_4bit needs bitsandbytes: pip install 'balanced-thinking[qlora]'"
    return None


def _wrong_type(value: Any, expected: Any) -> str | None:
    try:
        TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return None


def is_installed(package: str) -> bool:
    """Whether `package` can be imported; it is not imported for that."""
    return importlib.util.find_spec(package) is not None


def _group_arithmetic(index: int, stage: GrpoStage) -> list[Found]:
    setting, loc = stage.settings(), ("stages", index, "trainer")
    steps = setting["steps_per_generation"] or setting["gradient_accumulation_steps"]
    total, group = stage.completions_per_generation(), setting["num_generations"]
    found: list[Found] = []
    if total % group:
        batch = setting["per_device_train_batch_size"]
        message = (
            f"{stage.name}.trainer: per_device_train_batch_size {batch} x {processes()} processes x {steps} steps a "
            f"generation = {total} completions, which num_generations {group} does not divide"
        )
        if "WORLD_SIZE" not in os.environ:
            message += f"; a multiple of {group // math.gcd(total, group)} processes would do, from a launcher"
        found.append((loc, "batch_arithmetic", message))
    found += _save_points(stage, (*loc, "save_steps"), total, setting)
    length, completion = setting["vllm_max_model_length"], setting["max_completion_length"]
    if setting["use_vllm"] and length is not None and length <= completion:
        message = (
            f"{stage.name}.trainer: vllm_max_model_length {length} holds prompt and completion, and "
            f"max_completion_length is {completion}, which leaves nothing for the prompt"
        )
        found.append(((*loc, "vllm_max_model_length"), "too_long", message))
    corrected = setting["use_vllm"] and setting["vllm_importance_sampling_correction"]
    if setting["loss_type"] == "vespo" and corrected and setting["vllm_importance_sampling_mode"].startswith("seq"):
        message = (
            f"{stage.name}.trainer: loss_type vespo needs vllm_importance_sampling_mode token_truncate or token_mask"
        )
        found.append(((*loc, "loss_type"), "bad_value", message))
    own = setting["generation_kwargs"] or {}
    for key in {"seed", "n"} & own.keys():
        message = f"{stage.name}.trainer.generation_kwargs.{key}: leave it out; {_NOT_FOR_GROUPS[key]}"
        found.append(((*loc, "generation_kwargs"), "reserved_key", message))
    if setting["use_vllm"] and not is_installed("vllm"):
        message = (
            f"{stage.name}.trainer.use_vllm: vLLM is not installed. On GPUs: pip install 'balanced-thinking[vllm]';"
            " on a CPU: see README, install; or set use_vllm: false to roll out with transformers"
        )
        found.append(((*loc, "use_vllm"), "vllm_missing", message))
    if stage.difficulty and stage.difficulty.lowest > stage.difficulty.highest:
        message = f"{stage.name}.difficulty: lowest {stage.difficulty.lowest} is above highest"
        found.append((("stages", index, "difficulty"), "bad_value", message))
    return found


def _save_points(stage: GrpoStage, loc: tuple[Any, ...], completions: int, setting: dict[str, Any]) -> list[Found]:
    """That each save falls between two generations: the completions of one are in no checkpoint."""
    save, accumulation, passes = (
        setting[key] for key in ("save_steps", "gradient_accumulation_steps", "num_iterations")
    )
    saves = setting["save_strategy"] == "steps" and save >= 1 and not 0 < setting["max_steps"] <= save
    per_generation = max(completions // (setting["per_device_train_batch_size"] * processes()), 1)
    every = per_generation * passes
    if not saves or save * accumulation % every == 0:
        return []
    unit = every // math.gcd(every, accumulation)
    message = (
        f"{stage.name}.trainer.save_steps: {save:g} steps x gradient_accumulation_steps {accumulation} = "
        f"{save * accumulation:g} batches; a generation serves steps_per_generation {per_generation} x num_iterations "
        f"{passes} = {every}: a checkpoint within one cannot be resumed exactly. A multiple of {unit} can, such as "
        f"{math.ceil(save / unit) * unit}"
    )
    return [(loc, "save_steps", message)]


_NOT_FOR_GROUPS = {
    "seed": "with one, all completions of a group would be the same",
    "n": "num_generations says how many completions a prompt gets",
}


def _rewards(recipe: Recipe, folder: Path) -> list[Found]:
    found: list[Found] = []
    for index, stage in enumerate(recipe.stages):
        names: list[str] = []
        for number, reward in enumerate(stage.rewards if stage.kind == "grpo" else []):
            loc = ("stages", index, "rewards", number)
            try:
                names.append(reward.function(folder).__name__)
            except ValueError as error:
                found.append((loc, "reward", f"{stage.name}.rewards: {error}"))
                continue
            if names.count(names[-1]) > 1:
                message = f"{stage.name}.rewards: two are called {names[-1]!r}, and the metrics go by name; keep one"
                found.append((loc, "reward_name", message))
    return found


def _tasks(recipe: Recipe, folder: Path) -> list[Found]:
    found: list[Found] = []
    for index, task in enumerate(recipe.evaluate.tasks if recipe.evaluate else []):
        try:
            load_task(_local(task, folder))
        except ValueError as error:
            found.append((("evaluate", "tasks", index), "task", f"evaluate.tasks: {error}"))
    return found


def _local(path: str, folder: Path) -> str:
    """Paths in a recipe are relative to its folder; what is not there stays as it is (a hub id, a task's name)."""
    return str((folder / path).resolve()) if (folder / path).exists() else path


def _with_local_paths(recipe: Recipe, folder: Path) -> Recipe:
    tree = recipe.model_dump()
    tree["model"]["path"] = _local(tree["model"]["path"], folder)
    for data in tree["data"].values():
        data["path"] = _local(data["path"], folder)
        data["images"] = _local(data["images"], folder) if data["images"] else None
    for stage in tree["stages"]:
        for reward in stage.get("rewards", []):
            file, colon, name = reward["use"].rpartition(":")
            reward["use"] = f"{_local(file, folder)}{colon}{name}" if colon else name
    if tree["evaluate"]:
        tree["evaluate"]["tasks"] = [_local(task, folder) for task in tree["evaluate"]["tasks"]]
    return Recipe.model_validate(tree)
