"""A user's mistake, as the one line that it gets."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake of the user: where, a stable code, what is wrong and what to do."""

    where: str
    code: str
    message: str
    id: str | None = None  # of a row
    count: int = 1  # more than 1 where one line stands for several

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
def as_recipe_error(where: str, code: str) -> Iterator[None]:
    """Around what only a user's mistake can break: its ValueError or OSError becomes one clear line."""
    try:
        yield
    except RecipeError:
        raise
    except (ValueError, OSError) as error:
        raise RecipeError([Problem(where, code, str(error).splitlines()[0])]) from error


def suggest(word: str, known: list[str]) -> str:
    """What an unknown `word` may have been meant for; all that is known, if that is not much."""
    if near := difflib.get_close_matches(word, known, n=1):
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(known)}" if len(known) < 20 else ""
