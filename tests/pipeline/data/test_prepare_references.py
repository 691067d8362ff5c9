"""Whether references are checked is decided by the rewards of the stage, whoever wrote them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.chat import ChatFormat
from pipeline.data.prepare import rollout_rows
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.schema import Data, GrpoStage

OWN = """
from rewards.accuracy import accuracy
from rewards.contract import own_grader

def handed_on(completions, **columns):
    return accuracy(completions, **columns)

def half(completions, answer, **columns):
    return [0.5 * (value or 0.0) for value in accuracy(completions, answer, **columns)]

class Strict:
    def __call__(self, completions, **columns):
        return accuracy(completions, **columns)

strict = Strict()

@own_grader
def overlap(completions, answer, **_):
    return [float(gold in completion[-1]["content"]) for completion, gold in zip(completions, answer)]

def length(completions, **_):
    return [float(len(completion[-1]["content"])) for completion in completions]
"""


@pytest.fixture
def asked(small: Callable[[str], Path], tmp_path: Path) -> Callable[[str], list[str]]:
    """The ids that a stage with one reward can ask, of two rows, the second with a reference that nothing matches."""
    (tmp_path / "own.py").write_text(OWN)
    rows = [{"id": "good", "question": "3 + 4?", "answer": "7"}, {"id": "bad", "question": "8?", "answer": "x" * 300}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = ChatFormat(str(small("qwen3")))

    def asked(reward: str) -> list[str]:
        stage = GrpoStage.model_validate({"kind": "grpo", "name": "g", "data": "rows", "rewards": [reward]})
        return list(rollout_rows(Data(path=str(tmp_path / "rows.jsonl")), chat, stage)["id"][:])

    return asked


@pytest.mark.parametrize("name", ["handed_on", "half", "strict"])
def test_the_references_of_a_users_reward_that_reads_them_are_checked(
    asked: Callable[[str], list[str]], tmp_path: Path, name: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        asked(f"{tmp_path}/own.py:{name}")
    first, summary = refused.value.problems
    assert (first.id, first.code) == ("bad", "answer_unusable")
    assert "1 of 2 rows cannot be used (answer_unusable 1)" in summary.message


@pytest.mark.parametrize("name", ["{}/own.py:length", "{}/own.py:overlap", "format"])
def test_a_reward_that_reads_no_reference_or_grades_by_rules_of_its_own_takes_any(
    asked: Callable[[str], list[str]], tmp_path: Path, name: str
) -> None:
    assert asked(name.format(tmp_path)) == ["good", "bad"]
