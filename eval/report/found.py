"""What can be read of a run's folder. What is missing or damaged is noted, and ends nothing; but for the recipe."""

import codecs
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.report.published import cleaned, private
from eval.task import Task, load_task

Row = dict[str, Any]
# Of recipe.json, what older code did not store.
_UNTOLD: Row = {"processes": None, "data": {}, "model": None, "rewards": {}, "versions": {}, "git": None}
_RESPONSE = {"id": str, "sample": int, "image_removed": bool, "outcome": str, "question": str, "gold": str}


def read_recipe(run: Path) -> Row:
    """`recipe.json`, as `pipeline.checkpoint.run_identity` stores it: the one file without which nothing can be shown.

    Raises:
        ValueError: it is not there, is damaged, or has keys of before their renaming.
    """
    path = run / "recipe.json"
    if not path.is_file():
        raise ValueError(f"{run}: no run folder, since it holds no recipe.json")
    try:
        stored = _object(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {_why(error)}") from None
    if stored is None:
        raise ValueError(f"{path}: damaged, so nothing says what this run is: no JSON object")
    if _is_old(stored):
        advice = "its keys are from before the renames that CHANGELOG lists; report it with what made it"
        raise ValueError(f"{run}: {advice}")
    try:
        _Stored.model_validate(stored)
    except ValidationError as error:
        [first, *_] = error.errors()
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: damaged, so nothing says what this run is: {where}: {first['msg']}") from None
    return {**_UNTOLD, **stored}


def _is_old(stored: Row) -> bool:
    evaluate = stored["recipe"].get("evaluate") if isinstance(stored.get("recipe"), dict) else None
    return isinstance(evaluate, dict) and "on" in evaluate


class _Part(BaseModel):
    """What the report takes from `recipe.json`; the rest may be anything."""

    model_config = ConfigDict(strict=True)


class _Place(_Part):
    path: str


class _Reward(_Part):
    use: str
    weight: float


class _Stage(_Part):
    name: str
    kind: str
    data: str | None = None
    rewards: list[_Reward] = []


class _Evaluate(_Part):
    tasks: list[str]
    checkpoints: list[str]


class _Recipe(_Part):
    name: str
    model: _Place
    data: dict[str, _Place] = {}
    stages: list[_Stage] = Field(min_length=1)
    evaluate: _Evaluate | None


class _Stored(_Part):
    recipe: _Recipe
    processes: int | None = None
    data: dict[str, str] = {}
    model: str | None = None
    rewards: dict[str, str] = {}
    versions: dict[str, str] = {}
    git: str | None = None


class Found:
    """A run's files, read as far as they can be; and what of them is missing, by paths relative to the run."""

    def __init__(self, run: Path, stored: Row, missing: Iterable[Row] = ()) -> None:
        self.run = run
        self._private = private(stored, run)
        self._missing = {each["path"]: {**each} for each in missing}

    @property
    def missing(self) -> list[Row]:
        """A path (or in words what is meant), the problem, and whether it is `usual` while a run goes on, of each."""
        return [*self._missing.values()]

    def lacks(self, what: Path | str, problem: str, usual: bool = False) -> str:
        """Note that `what`, a path or words, is missing or damaged. Returns the problem as it may be published."""
        name = what.relative_to(self.run).as_posix() if isinstance(what, Path) else what
        problem = cleaned(problem, self._private)
        noted = self._missing.setdefault(name, {"path": name, "problem": problem, "usual": usual})
        if problem not in noted["problem"]:
            noted |= {"problem": f"{noted['problem']}; {problem}", "usual": usual and noted["usual"]}
        return problem

    def json(self, path: Path) -> Row | None:
        """The object in a file."""
        try:
            found = _object(path.read_bytes())
        except OSError as error:
            self.lacks(path, _why(error))
            return None
        if found is None:
            self.lacks(path, "is no JSON object")
        return found

    def lines(self, path: Path, growing: bool = False) -> Iterator[tuple[int, Row]]:
        """The objects in a file of JSON lines, one after the other, each with its offset; other lines are left out.

        Args:
            growing: the file is being written, so that half a line at its end is usual.
        """
        number = offset = bad = first = 0
        line = b""
        try:
            with path.open("rb") as file:  # in it `\n` alone ends a line
                for number, line in enumerate(file, 1):
                    if (found := _object(line)) is not None:
                        yield offset, found
                    elif line.strip():
                        bad, first = bad + 1, first or number
                    offset += len(line)
        except OSError as error:
            self.lacks(path, _why(error))
            return
        if not number:
            self.lacks(path, "is empty", usual=growing)
        elif growing and (bad, first) == (1, number) and not line.endswith(b"\n"):
            self.lacks(path, "its last line is cut, as it is while a stage writes it and after a kill", usual=True)
        elif bad == 1:
            self.lacks(path, f"line {first:,} is no JSON object and is left out")
        elif bad:
            self.lacks(path, f"{bad:,} of its lines are no JSON objects and are left out, the first is line {first:,}")

    def responses(self, path: Path) -> Iterator[tuple[int, Row]]:
        """The lines of a `completions.jsonl` that have what is needed to count and to compare them."""
        bad, lacking = 0, ""
        for offset, line in self.lines(path):
            wrong = [key for key, kind in _RESPONSE.items() if not isinstance(line.get(key), kind)]
            if not wrong and isinstance(line.setdefault("image", None), str | None):
                yield offset, line
            else:
                bad, lacking = bad + 1, lacking or ", ".join(wrong or ["image"])
        if bad:
            self.lacks(path, f"{bad:,} of its lines lack {lacking} or have it of another type, and are left out")

    def lines_at(self, path: Path, offsets: Iterable[int]) -> dict[int, Row]:
        """Some of them again, by offset."""
        try:
            with path.open("rb") as file:
                found = {offset: _object(_line_at(file, offset)) for offset in offsets}
        except OSError as error:
            self.lacks(path, _why(error))
            return {}
        return {offset: line for offset, line in found.items() if line is not None}

    def metrics(self, stage: str) -> list[Row]:
        """The numbers that a stage logged, each line with its `step`."""
        folder = self.run / stage
        path, growing = folder / "metrics.jsonl", not (folder / "COMPLETE").exists()
        if growing and not path.exists():
            return []
        logged, without, wild = [], 0, []
        for _, line in self.lines(path, growing):
            if not is_number(line.get("step")):
                without += 1
                continue
            wild += [f"{name} at step {line['step']}" for name, value in line.items() if _is_wild(value)]
            logged.append({name: value for name, value in line.items() if is_number(value)})
        if without:
            self.lacks(path, f"{without:,} of its lines have no step and are left out")
        if wild:
            message = f"{len(wild):,} values are NaN or infinite and are left out of the curves, the first is {wild[0]}"
            self.lacks(path, message)
        return logged

    def manifest(self, stage: str) -> Row:
        """What `COMPLETE` says; empty where the stage is not complete."""
        path = self.run / stage / "COMPLETE"
        found = self.json(path) if path.exists() else None
        if found is None:
            return {}
        kinds = {"steps": is_number, "seconds": is_number, "files": _are_files}
        if lacking := [name for name, fits in kinds.items() if not fits(found.get(name))]:
            self.lacks(path, f"lacks {', '.join(lacking)}")
        if found.keys() & {"files"} and not (self.run / stage / "model").is_dir():
            self.lacks(path.with_name("model"), "is not there")
        return {name: value for name, value in found.items() if name not in lacking}

    def tasks(self, evaluate: Row | None) -> tuple[dict[str, Task], bool]:
        """The recipe's tasks by name, and whether all of their files can be read."""
        found, problems = {}, 0
        for name in evaluate["tasks"] if evaluate else []:
            try:
                task = load_task(name)
                found[task.name] = task
            except (OSError, ValueError, RecursionError) as error:
                problems += 1
                self.lacks(f"task {Path(name).name}", f"{error}; every task is shown that has scores")
        return found, not problems


def is_number(value: Any) -> bool:
    """Whether it is a finite one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # NaN is not


def _is_wild(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _are_files(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and {"path", "sha256"} <= each.keys() for each in value
    )


def _object(text: bytes) -> Row | None:
    try:
        found = json.loads(text.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _line_at(file: Any, offset: int) -> bytes:
    file.seek(offset)
    line: bytes = file.readline()
    return line


def _why(error: OSError) -> str:
    return "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
