"""The tables in `tests/rewards`: pairs with their verdicts, gamed completions, hostile answers."""

import json
from pathlib import Path
from typing import Any

SLOW = r"\exp(\exp(\exp(99)))"  # passes the look at its shape, and takes more than minutes


def table(name: str) -> list[dict[str, Any]]:
    """The rows of `rewards/<name>.jsonl`."""
    lines = (Path(__file__).parents[1] / "rewards" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def hostile_answers() -> list[str]:
    """Answers made to hang, crash or fool a verifier; long ones are written as `before` x `times` around `answer`."""
    return [
        row.get("before", "") * row.get("times", 0) + row["answer"] + row.get("after", "") * row.get("times", 0)
        for row in table("hostile")
    ]
