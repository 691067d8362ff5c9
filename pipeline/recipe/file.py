"""The recipe's file: YAML read with the line of every mistake, before torch is imported."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML, events
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from eval.files import local
from pipeline.recipe import consistency, schema
from pipeline.recipe.problem import Problem, RecipeError, suggest
from pipeline.recipe.schema import RESERVED, Recipe
from pipeline.recipe.trl_fields import fields

MAX_BYTES = 100_000  # our choice: the longest shipped recipe has 4,000
MAX_DEPTH = 50


def load(path: Path, overrides: list[str]) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file (YAML 1.2: `1e-5` is a number, `no` is a string). Aliases and tags are refused.
        overrides: `stage.key.path=value`, or a top-level key instead of a stage.

    Raises:
        RecipeError: with all problems at once.
    """
    tree = _parse(path)
    problems = [problem for override in overrides for problem in _override(tree, override)]
    if problems:
        raise RecipeError(problems)
    plain, broken, renamed = _plain(tree), [], set()
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError as error:
        broken = [tuple(detail["loc"]) for detail in error.errors()]
        renamed = {(*loc[:-1], new) for loc in broken if (new := _RENAMED.get(_key(loc)))}
        details = [dict(detail) for detail in error.errors() if tuple(detail["loc"]) not in renamed]
        problems = [_problem(path, tree, detail) for detail in details]
        try:
            recipe = Recipe.model_validate(_without(plain, tree, broken))
        except ValidationError:
            raise RecipeError(problems) from None
    lacking = {loc[:2] for loc in broken if loc not in renamed}  # what lacks a key may be wrong for that alone
    for loc, code, message in consistency.problems(recipe, path.parent):
        if loc[:2] not in lacking:
            problems.append(Problem(_where(path, tree, loc), code, message))
    if problems:
        raise RecipeError(sorted(problems, key=lambda problem: int(problem.where.rpartition(":")[2])))
    recipe = _with_local_paths(recipe, path.parent)
    recipe._path = path
    return recipe


def where(recipe: Recipe, *loc: Any) -> str:
    """`file:line` of what stands at `loc` in the recipe's file."""
    return _where(recipe._path, _parse(recipe._path), loc)


# --- YAML -------------------------------------------------------------------------------------------------------------


def _parse(path: Path) -> CommentedMap:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise RecipeError([Problem(str(path), "recipe_missing", f"cannot read the recipe: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError([Problem(f"{path}:{line}", "yaml", "not UTF-8 text; is it a recipe?")]) from None
    if len(content) > MAX_BYTES:
        message = f"{len(content):,} bytes; a recipe has at most {MAX_BYTES:,}"
        raise RecipeError([Problem(str(path), "yaml_too_large", message)])
    tree = _load(text, lambda line: f"{path}:{line}")
    if not isinstance(tree, CommentedMap):
        raise RecipeError([Problem(f"{path}:1", "yaml", "a recipe is a mapping with name, model, data and stages")])
    return tree


def _load(text: str, at: Any) -> Any:
    """The YAML tree of `text`; `at(line)` says where a problem is.

    Raises:
        RecipeError: it is not YAML, or uses what makes a recipe dangerous or ambiguous.
    """
    try:
        if problems := [Problem(at(line), code, message) for line, code, message in _pitfalls(text)]:
            raise RecipeError(problems)
        return YAML(typ="rt").load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError([Problem(at(line), "yaml", f"not valid YAML: {error.problem}")]) from None
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise RecipeError([Problem(at(line), "yaml", f"not valid YAML: {error.reason}")]) from None


_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


def _pitfalls(text: str) -> Iterator[tuple[int, str, str]]:
    """Lines with what is valid YAML and no good recipe, found before anything is built of it."""
    open_: list[dict[str, int] | None] = []  # the keys of each open mapping with their lines; None for a list
    is_key = False
    for event in YAML().parse(io.StringIO(text)):
        line = event.start_mark.line + 1
        if isinstance(event, events.CollectionEndEvent):
            open_.pop()
            is_key = bool(open_) and open_[-1] is not None
            continue
        if not isinstance(event, events.NodeEvent):
            continue
        yield from ((line, code, message) for code, message in _pitfall(event))
        if isinstance(event, events.CollectionStartEvent):
            if is_key and open_ and open_[-1] is not None:
                yield line, "yaml", "a key is a word, not a mapping or a list"
                return
            open_.append({} if isinstance(event, events.MappingStartEvent) else None)
            if len(open_) > MAX_DEPTH:
                yield line, "yaml_too_deep", f"more than {MAX_DEPTH} levels deep; a recipe has six"
                return
            is_key = isinstance(event, events.MappingStartEvent)
            continue
        keys = open_[-1] if open_ else None
        if is_key and keys is not None and isinstance(event, events.ScalarEvent):
            if event.value in keys:
                message = f"duplicate key {event.value!r}, first in line {keys[event.value]}; keep one of them"
                yield line, "duplicate_key", message
            keys.setdefault(event.value, line)
        is_key = keys is not None and not is_key


def _pitfall(event: events.Event) -> Iterator[tuple[str, str]]:
    if isinstance(event, events.AliasEvent):
        yield "yaml_alias", f"alias *{event.anchor}: write the value out; each line of a recipe stands for itself"
    elif tag := getattr(event, "tag", None):
        yield "yaml_tag", f"tag {tag}: a recipe has plain values only"
    if isinstance(event, events.ScalarEvent) and event.implicit[0]:
        if event.value == "<<":
            yield "yaml_alias", "merge key <<: write the keys out; each line of a recipe stands for itself"
        if _LEADING_ZERO.fullmatch(event.value):
            number = event.value.replace("_", "").lstrip("+-0") or "0"
            yield (
                "yaml_ambiguous",
                f"{event.value} is octal to some readers of YAML and decimal to others; write {number}",
            )


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


def _without(plain: dict[str, Any], tree: CommentedMap, broken: list[tuple[Any, ...]]) -> dict[str, Any]:
    """The values but for those at `broken`, so that the rest can be checked."""
    for loc in broken:
        *parents, last = [key for key, _, _ in _walk(tree, loc)] or [None]
        node: Any = plain
        for key in parents:
            node = node[key] if isinstance(node, list) else node.get(key, {})
        if isinstance(node, dict) and last == loc[-1]:
            value = node.pop(last, None)
            if new := _RENAMED.get(_key(loc)):
                node.setdefault(new, value)
    return plain


def _override(tree: CommentedMap, override: str) -> list[Problem]:
    """Set one value in the tree; only the last part of the path may be new."""
    path, equals, text = override.partition("=")
    first, *rest = path.split(".")
    listed = tree.get("stages") if isinstance(tree.get("stages"), list) else []
    stages = {stage.get("name"): stage for stage in listed if isinstance(stage, dict)}
    known = [*map(str, stages), *Recipe.model_fields]
    if not equals or first not in known or (first in stages and not rest):
        expected = f"expected stage.key.path=value, starting with one of: {', '.join(known)}"
        return [Problem("command line", "override", f"{override!r}: {expected}")]
    node: Any = stages.get(first, tree)
    *parents, last = rest if first in stages else [first, *rest]
    for key in parents:
        node = node.setdefault(key, CommentedMap())
        if not isinstance(node, dict):
            return [Problem("command line", "override", f"{override!r}: {key!r} is not a mapping in the recipe")]
    try:
        node[last] = _plain(_load(text, lambda line: "command line"))
    except RecipeError as error:
        return error.problems
    return []


# --- where a problem is, in the user's words --------------------------------------------------------------------------


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


# Two last parts of a place, or a key and its value, that have other names since 0.1.0.
_RENAMED: dict[tuple[Any, ...], str] = {
    ("evaluate", "on"): "checkpoints",
    ("difficulty", "lowest"): "min_pass_rate",
    ("difficulty", "highest"): "max_pass_rate",
    ("bad_rows", "stop"): "fail",
    ("mixed_rows", "stop"): "fail",
}


def _problem(path: Path, tree: CommentedMap, detail: dict[str, Any]) -> Problem:
    """One pydantic error as one line of advice."""
    loc = tuple(detail["loc"])
    place, name, value = _where(path, tree, loc), ".".join(_named(tree, loc)), detail.get("input")
    match detail["type"]:
        case "extra_forbidden":
            parent, key = _key(loc)
            if new := _RENAMED.get((parent, key)):
                return Problem(place, "unknown_key", f"{name} is `{new}` now")
            if parent != "trainer":
                known = list(_MODELS.get(parent, Recipe).model_fields)
                return Problem(place, "unknown_key", f"{name}: unknown key. {suggest(key, known)}")
            if why := RESERVED[loc[2]].get(key):
                return Problem(place, "reserved_key", f"{name}: {why}")
            known = list(fields(loc[2]).keys() - RESERVED[loc[2]].keys())
            return Problem(place, "unknown_key", f"{name}: unknown to TRL. {suggest(key, known)}")
        case "missing":
            return Problem(place, "missing_key", f"{name}: required key is missing")
        case "union_tag_invalid":
            message = f"{name}.kind: {detail['ctx']['tag']!r:.80} is no kind of stage; sft or grpo"
            return Problem(_where(path, tree, (*loc, "kind")), "bad_value", message)
        case "union_tag_not_found":
            return Problem(place, "missing_key", f"{name}.kind: required key is missing; sft or grpo")
        case "literal_error" if new := _RENAMED.get((loc[-1], str(value))):
            return Problem(place, "bad_value", f"{name}: `{loc[-1]}: {value}` is `{loc[-1]}: {new}` now")
        case _:
            message = f"{name}: {detail['msg']}, got {value!r:.80}{_yaml_advice(detail['type'], value)}"
            return Problem(place, "bad_value", message)


def _yaml_advice(kind: str, value: Any) -> str:
    if kind == "bool_type" and isinstance(value, str) and value.lower() in {"yes", "no", "on", "off"}:
        return "; write true or false, which is what YAML 1.2 calls them"
    if kind in {"float_type", "int_type"} and isinstance(value, str):
        return "; leave the quotes out" if re.fullmatch(r"[-+.\deE_]+", value) else ""
    if kind == "string_type" and value is not None:
        return f"; quote it: '{str(value).lower() if isinstance(value, bool) else value}'"
    return ""


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


_MODELS: dict[Any, type[BaseModel]] = {  # by the key, or the tag of a union, that a mapping stands under
    "model": schema.Model,
    "data": schema.Data,
    "sft": schema.SftStage,
    "grpo": schema.GrpoStage,
    "lora": schema.Lora,
    "difficulty": schema.Difficulty,
    "segments": schema.SegmentLoss,
    "think_weight": schema.ThinkWeight,
    "evaluate": schema.Evaluate,
}


def _key(loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the last key of `loc` stands under, and it; a data set's name, a word of the user's, is passed over."""
    return (None, *(loc[:1] + loc[2:] if loc[:1] == ("data",) else loc))[-2:]


def _with_local_paths(recipe: Recipe, folder: Path) -> Recipe:
    tree = recipe.model_dump()
    tree["model"]["path"] = local(tree["model"]["path"], folder)
    for data in tree["data"].values():
        data["path"] = local(data["path"], folder)
        data["images"] = local(data["images"], folder) if data["images"] else None
    for stage in tree["stages"]:
        for reward in stage.get("rewards", []):
            file, colon, name = reward["use"].rpartition(":")
            reward["use"] = f"{local(file, folder)}{colon}{name}" if colon else name
    if tree["evaluate"]:
        tree["evaluate"]["tasks"] = [local(task, folder) for task in tree["evaluate"]["tasks"]]
    return Recipe.model_validate(tree)
