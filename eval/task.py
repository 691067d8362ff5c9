"""Tasks: small YAML files that say which rows to ask and how long a response may be; and how responses are drawn."""

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from eval.data.rows import Source
from eval.files import local

SHIPPED = Path(__file__).parent / "tasks"


class Task(Source):
    """One held-out set. Paths are relative to the task's file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    config: str | None = None
    split: str = "test"
    limit: int | None = Field(default=None, gt=0)  # the first so many rows; None = all
    max_new_tokens: int = Field(gt=0)

    @property
    def configuration(self) -> str | None:
        return self.config


# What every response is drawn with, greedy or sampled, by both backends, whatever the checkpoint itself asks for.
NEUTRAL = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


class DecodingSettings(BaseModel):
    """What a recipe's `evaluate` block and `python -m eval` say alike of how responses are drawn."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    batch_size: int = Field(default=64, gt=0)  # prompts decoded together, per rank
    samples: int = Field(default=0, ge=0)  # sampled responses a row, beside the greedy one
    temperature: float = Field(default=1.0, gt=0)  # of the samples
    image_removed: bool = True  # rows with images also without them, greedily: what the text alone gives away


class Decoding(DecodingSettings):
    """How the responses of one evaluation are drawn."""

    seed: int = 0  # of the samples


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
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {details}") from None
    paths = {key: local(value, path.parent) for key in ("path", "images") if (value := getattr(task, key))}
    return task.model_copy(update=paths)
