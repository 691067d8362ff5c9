"""`python -m rewards score answers.jsonl --out scores.jsonl`: what would a reward say?"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, get_args

from .accuracy import verdicts
from .completions import PASSES, READ, Completions, Line, read_completions
from .contract import Reward, RewardError, enforce_contract
from .dry_run import call
from .grading import algebra
from .grading.verify import Kind, Outcome, Question, verify_all
from .load import load_reward

_CHUNK = 1024  # lines judged together
_KINDS = get_args(Kind)
# What a reward gets with every completion, here and in training, whatever the data have
_GIVEN = {"id", "completion", "answer", "kind", "choices", "truncated", "prompts", "completions", "completion_ids"}
_GIVEN |= {"trainer_state", "log_extra", "log_metric"}


def main(arguments: list[str]) -> int:
    """Exit code: 0 all lines are scored, 2 a file, the reward or the kind of a line cannot be used."""
    options = _options(arguments)
    try:
        _check_place(options.out, options.completions)
        bound = dict(map(_argument, options.argument))
        loaded = load_reward(options.reward, bound, Path())
        _check_names(bound, _GIVEN, options.completions)
        return _score(options, bound, enforce_contract(loaded, max_abs=float("inf")))
    except (OSError, ValueError, RewardError) as error:
        _say(f"ERROR {error}")
        return 2
    finally:
        algebra.close()


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rewards", description="Try rewards on completions, without a model."
    )
    score = parser.add_subparsers(dest="command", required=True).add_parser(
        "score",
        help="one line of scores for each line of completions",
        description='A line in: {"id", "completion", "answer", "kind"?, "choices"?, "truncated"?}, and what else a '
        'reward reads. A line out: {"id", "reward", "outcome"}.',
    )
    score.add_argument("completions", type=Path, metavar="IN", help=READ)
    score.add_argument("--out", type=Path, required=True, metavar="OUT", help="JSON lines; replaced when all is scored")
    score.add_argument(
        "--reward", default="accuracy", help="a shipped name, file.py:function or package.module.function"
    )
    score.add_argument(
        "--argument", action="append", default=[], metavar="NAME=VALUE", help="of the reward; JSON, or else text"
    )
    score.add_argument("--bare", action="store_true", help="a completion is an answer alone, without tags")
    return parser.parse_args(arguments)


def _check_place(out: Path, source: Path) -> None:
    if out.is_dir():
        raise ValueError(f"--out {out}: is a folder; name a file")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.is_file() and source.exists() and out.samefile(source):
        raise ValueError(f"--out {out}: is the input itself; name another file")


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--argument {text!r}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _check_names(bound: Mapping[str, Any], columns: Container[str], source: Path) -> None:
    """A function that gets both is called with the column, and the argument would be lost."""
    for name in bound:
        if name in columns:
            said = f"--argument {name}: a reward gets {name!r} with each line of {source}"
            raise ValueError(f"{said}; give it there, or rename one of the two")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# --- all lines --------------------------------------------------------------------------------------------------------


class _Tally:
    """The rewards and outcomes of lines."""

    def __init__(self) -> None:
        self.outcomes = Counter[str]()
        self.sum, self.rewards = 0.0, 0

    def add(self, reward: float | None, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if reward is not None:
            self.sum += reward
            self.rewards += 1

    def __str__(self) -> str:
        lines = self.outcomes.total()
        shares = ", ".join(f"{outcome} {count}" for outcome, count in self.outcomes.most_common())
        if not self.rewards:
            return f"no mean, none of {lines} lines has a reward ({shares})"
        without = f"; {lines - self.rewards} without a reward" if self.rewards < lines else ""
        return f"mean {self.sum / self.rewards:.4f} over {self.rewards} lines ({shares}){without}"


def _score(options: argparse.Namespace, bound: Mapping[str, Any], reward: Reward) -> int:
    """Write a line of scores for each line, and say what was read and what came of it."""
    source: Path = options.completions
    read = read_completions(source)
    every, parts = _Tally(), dict[str, _Tally]()
    unknown: list[str] = []  # where, and what
    with _replacing(options.out) as out:
        while chunk := list(islice(read.lines, _CHUNK)):
            _check_names(bound, {name for line in chunk for name in line.row}, source)
            for line, (value, outcome) in zip(chunk, _scores(chunk, reward, options), strict=True):
                scores = {"id": line.row["id"], "reward": value, "outcome": outcome.value}
                out.write(json.dumps(scores, default=str) + "\n")  # a table's id may be a date
                for tally in (every, parts.setdefault(line.part, _Tally())):
                    tally.add(value, outcome)
                if not _is_known(line):
                    unknown.append(f"line {every.outcomes.total()}: {line.row['kind']!r:.60}")
    _say_what_was_read(source, read, parts)
    _say(f"{options.reward}: {every}")
    passes = [name for name in PASSES if name in parts]
    for name in passes if len(passes) > 1 else []:
        _say(f"{options.reward}, {name}: {parts[name]}")
    if unknown:
        count = f"{len(unknown)} lines have an unknown kind and get no reward; the first is {unknown[0]}"
        _say(f"ERROR {source}: {count}. Known: {', '.join(_KINDS)}")
    return 2 if unknown else 0


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of `path` at the end, unless something fails; a pipe is written as it comes."""
    if (path.exists() and not path.is_file()) or path.is_relative_to("/dev"):
        with path.open("a", encoding="utf-8") as file:  # /dev/stdout may be a file that has other lines too
            yield file
        return
    place = Path(os.path.realpath(path))  # a link stays one
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    with part.open("x", encoding="utf-8") as file:
        try:
            yield file
            file.close()
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)


def _say_what_was_read(source: Path, read: Completions, parts: Mapping[str, _Tally]) -> None:
    counts = {part: tally.outcomes.total() for part, tally in parts.items()}
    named = ", ".join(f"{count} {part}" for part, count in counts.items() if part)
    _say(f"{source.name}: {read.kind}, {sum(counts.values())} lines{f' ({named})' if named else ''}")
    if worked_out := [name for name in read.lacks if name != "truncated"]:
        _say(f"it has no column {', '.join(worked_out)}: worked out from the answers")
    if "truncated" in read.lacks:
        _say("it has no column truncated: no line counts as cut off")


# --- some lines -------------------------------------------------------------------------------------------------------


def _is_known(line: Line) -> bool:
    return line.row["kind"] in (None, *_KINDS)


def _scores(lines: list[Line], reward: Reward, options: argparse.Namespace) -> Iterator[tuple[float | None, Outcome]]:
    """The reward and the outcome of each line; a line of an unknown kind is shown to no reward."""
    rows = [line.row for line in lines if _is_known(line)]
    outcomes = _bare_outcomes(rows) if options.bare else _outcomes(rows)
    if options.reward == "accuracy":
        values = [outcome.reward for outcome in outcomes]
    else:
        values = call(reward, [row["completion"] for row in rows], rows) if rows else []
    known = iter(zip(values, outcomes, strict=True))
    for line in lines:
        yield next(known) if _is_known(line) else (None, Outcome.ANSWER_UNUSABLE)


def _outcomes(rows: list[dict[str, Any]]) -> list[Outcome]:
    names = ("completion", "answer", "kind", "choices", "truncated")
    return [verdict.outcome for verdict in verdicts(*([row[name] for row in rows] for name in names))]


def _bare_outcomes(rows: list[dict[str, Any]]) -> list[Outcome]:
    graded = verify_all(Question(row["completion"], row["answer"], row["kind"], row["choices"]) for row in rows)
    return [Outcome.TRUNCATED if row["truncated"] else outcome for row, outcome in zip(rows, graded, strict=True)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
