"""The fields of TRL's config classes, read from their source, so that a misspelt key is found without torch."""

import ast
import importlib.util
import typing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_CLASSES = {"sft": ("trl", "trainer/sft_config.py"), "grpo": ("trl", "trainer/grpo_config.py")}
_BASES = [("transformers", "training_args.py"), ("trl", "trainer/base_config.py")]


class Field(NamedTuple):
    """One setting of a trainer: its type as far as it is plain Python (`Any` otherwise) and its literal default."""

    type: Any
    default: Any


@lru_cache
def fields(kind: str) -> dict[str, Field]:
    """Every field that `trl.SFTConfig` (`sft`) or `trl.GRPOConfig` (`grpo`) takes, inherited ones included."""
    found: dict[str, Field] = {}
    for package, file in [*_BASES, _CLASSES[kind]]:
        tree = ast.parse((_folder(package) / file).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and _is_config(node):
                found.update(_annotated(node))
    return found


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; run `make setup`")
    return Path(spec.origin).parent


def _is_config(node: ast.ClassDef) -> bool:
    return node.name.endswith(("Config", "TrainingArguments"))


def _annotated(node: ast.ClassDef) -> dict[str, Field]:
    return {
        statement.target.id: Field(_type(statement.annotation), _default(statement.value))
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if not statement.target.id.startswith("_")
    }


def _type(annotation: ast.expr) -> Any:
    try:
        return eval(ast.unparse(annotation), dict(vars(typing)))
    except (NameError, TypeError):  # a class of transformers: accepted here, checked when the stage starts
        return Any


def _default(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    try:
        return ast.literal_eval(value) if value is not None else None
    except ValueError:
        return None
