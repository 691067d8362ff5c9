"""Tasks: small YAML files that say which rows to ask and how long a response may be; and how responses are drawn."""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from eval.data.formats import Format
from eval.data.rows import Source

SHIPPED = Path(__file__).parent / "tasks"


class Task(BaseModel):
    """One held-out set. Paths are relative to the task's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    path: str
    format: Format = "rows"
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    file: str | None = None
    images: str | None = None
    columns: dict[str, str] = {}  # the format's name of a column: the data's own
    limit: int | None = Field(default=None, gt=0)  # the first so many rows; None = all
    max_new_tokens: int = Field(gt=0)

    def source(self) -> Source:
        return Source(**self.model_dump(exclude={"name", "limit", "max_new_tokens"}))


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn."""

    batch_size: int  # prompts decoded together, per rank
    samples: int  # sampled responses a row, beside the greedy one
    temperature: float  # of the samples
    seed: int
    image_removed: bool = True  # rows with images also without them, greedily: what the text alone gives away


def is_scored(out: Path, task: Task, decoding: Decoding) -> bool:
    """Whether `out` holds the scores of just this: the same task, drawn the same way. The batch size may differ."""
    try:
        made = json.loads((out / "scores.json").read_text(encoding="utf-8"))["made"]
    except (FileNotFoundError, KeyError):
        return False
    asked = {"task": task.model_dump(), **asdict(decoding)}
    return all(made.get(key) == value for key, value in asked.items() if key != "batch_size")


@lru_cache
def load_task(name: str) -> Task:
    """A shipped task by name, or a YAML file.

    Raises:
        ValueError: there is no such task, or its file is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SHIPPED / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise ValueError(f"no task {name!r}. Shipped: {known}; yours: the path of a YAML file")
    try:
        task = Task.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {details}") from None
    local = {
        key: str((path.parent / value).resolve())
        for key in ("path", "images")
        if (value := getattr(task, key)) and (path.parent / value).exists()
    }
    return task.model_copy(update=local)
