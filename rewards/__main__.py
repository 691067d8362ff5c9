"""`python -m rewards score answers.jsonl --out scores.jsonl`: what would a reward say?"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from .accuracy import Verdict, verdicts
from .contract import RewardError, enforce_contract
from .dry_run import call
from .grading import algebra
from .grading.verify import Kind, Question, verify_all
from .load import load_reward
from .response import completion_text

_CHUNK = 1024  # lines judged together


def main(arguments: list[str]) -> int:
    """Exit code: 0 all lines are scored, 2 a file or the reward cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m rewards", description="Try rewards on completions, without a model."
    )
    score = parser.add_subparsers(dest="command", required=True).add_parser(
        "score",
        help="one line of scores for each line of completions",
        description='A line in: {"id", "completion", "answer", "kind"?, "choices"?, "truncated"?}, and what else a '
        'reward reads. A line out: {"id", "reward", "outcome"}.',
    )
    score.add_argument("completions", type=Path, metavar="IN", help="JSON lines")
    score.add_argument("--out", type=Path, required=True, metavar="OUT")
    score.add_argument(
        "--reward", default="accuracy", help="a shipped name, file.py:function or package.module.function"
    )
    score.add_argument(
        "--argument", action="append", default=[], metavar="NAME=VALUE", help="of the reward; JSON, or else text"
    )
    score.add_argument("--bare", action="store_true", help="a completion is an answer alone, without tags")
    options = parser.parse_args(arguments)
    try:
        loaded = load_reward(options.reward, dict(map(_argument, options.argument)), Path())
        reward = enforce_contract(loaded, max_abs=float("inf"))
        with options.completions.open("rb") as lines, options.out.open("w", encoding="utf-8") as out:
            counts, total = Counter[str](), 0.0
            while chunk := list(islice(lines, _CHUNK)):
                for result in _scores(chunk, reward, options):
                    out.write(json.dumps(result) + "\n")
                    counts[result["outcome"]] += 1
                    total += result["reward"] or 0.0
    except (OSError, ValueError, RewardError) as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 2
    finally:
        algebra.close()
    number = sum(counts.values())
    shares = ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common())
    print(f"{options.reward}: mean {total / max(number, 1):.4f} over {number} lines ({shares})", file=sys.stderr)
    return 0


def _argument(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _scores(lines: list[bytes], reward: Any, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rows = [_row(line) for line in lines]
    if options.bare:
        questions = [Question(row["completion"], row["answer"], row["kind"], row["choices"]) for row in rows]
        graded = [Verdict(outcome) for outcome in verify_all(questions)]
    else:
        names = ("completion", "answer", "kind", "choices", "truncated")
        graded = verdicts(*([row[name] for row in rows] for name in names))
    if options.reward == "accuracy":
        values = [verdict.outcome.reward for verdict in graded]
    else:
        values = call(reward, [row["completion"] for row in rows], rows)
    for row, value, verdict in zip(rows, values, graded, strict=True):
        yield {"id": row["id"], "reward": value, "outcome": verdict.outcome.value}


def _row(line: bytes) -> dict[str, Any]:
    """The row that `line` writes; what is missing or of the wrong type becomes the value that scores as nothing."""
    try:
        row = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        row = {}
    row = row if isinstance(row, dict) else {}
    answer, choices = row.get("answer"), row.get("choices")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    listed = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    return {
        **row,
        "id": row.get("id"),
        "completion": _text(row.get("completion")),
        "answer": answer if isinstance(answer, str) else "",
        "kind": row.get("kind") if row.get("kind") in get_args(Kind) else None,
        "choices": choices if listed and choices else None,
        "truncated": row.get("truncated") is True,
    }


def _text(completion: Any) -> str:
    """A completion as text: a string, or TRL's list of messages."""
    try:
        text = completion_text(completion)
    except (TypeError, KeyError, IndexError):
        return ""
    return text if isinstance(text, str) else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
