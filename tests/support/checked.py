"""A good recipe to be checked, with its rows, and what the check finds."""

import json
from pathlib import Path
from typing import Any, NamedTuple

GOOD = """\
name: checked
model: {{path: {model}, dtype: float32}}
data:
  cold: {{path: cold.jsonl, images: images}}
  rl: {{path: rl.jsonl, images: images}}
stages:
  - name: sft
    kind: sft
    data: cold
    loss: {{think_weight: {{start: 0.9, end: 0.1}}}}
    trainer:
      max_length: 400
      num_train_epochs: 2
  - name: grpo
    kind: grpo
    data: rl
    rewards: [accuracy, {{use: format, weight: 0.1}}]
    trainer: {{num_generations: 4, per_device_train_batch_size: 4, max_completion_length: 1500, max_steps: 3}}
evaluate: {{tasks: [held.yaml], checkpoints: [base, grpo]}}
"""


class Found(NamedTuple):
    place: str
    code: str
    id: str


class Checked(NamedTuple):
    code: int
    problems: list[Found]
    text: str


def row(number: int) -> dict[str, Any]:
    picture = [f"{number % 6}.png"]
    return {
        "id": f"r{number}",
        "question": f"What is {number}?",
        "think": f"I see {number}.",
        "answer": "7",
        "images": picture,
    }


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
