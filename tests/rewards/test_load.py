"""Rewards by name, by file and by dotted path."""

import asyncio
import inspect
from pathlib import Path

import pytest

from rewards.load import load_reward
from rewards.response import render

MINE = """
def brevity(completions, budget=10, **kwargs):
    return [float(len(text) <= budget) for text in completions]

async def slow(completions, **kwargs):
    return [1.0 for _ in completions]

def closed(completions):
    return [1.0 for _ in completions]
"""
DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Limit:
    chars: int

def short(completions, **kwargs):
    return [float(len(text) <= Limit(3).chars) for text in completions]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"mine": MINE, "typed": DATACLASS, "broken": "def f(:", "raises": "import json\njson.loads('')", "text": ""}
    for name, content in files.items():
        (tmp_path / f"{name}.py").write_text(content)
    (tmp_path / "text.py").rename(tmp_path / "text.txt")
    return tmp_path


def test_a_shipped_reward_is_found_by_name(folder: Path) -> None:
    reward = load_reward("accuracy", {}, folder)
    assert reward.__name__ == "accuracy"
    assert reward(completions=[render("a", "7")], answer=["7"]) == [1.0]


def test_a_function_in_a_file_gets_its_arguments(folder: Path) -> None:
    reward = load_reward("mine.py:brevity", {"budget": 3}, folder)
    assert reward.__name__ == "brevity"
    assert reward(completions=["abc", "abcd"], prompts=[]) == [1.0, 0.0]


def test_a_file_may_define_dataclasses(folder: Path) -> None:
    assert load_reward("typed.py:short", {}, folder)(completions=["abc", "abcd"]) == [1.0, 0.0]


def test_an_async_reward_stays_async(folder: Path) -> None:
    reward = load_reward("mine.py:slow", {}, folder)
    assert inspect.iscoroutinefunction(reward)
    assert asyncio.run(reward(completions=["a"])) == [1.0]


def test_a_reward_of_trl_is_found_by_its_path(folder: Path) -> None:
    reward = load_reward("trl.rewards.think_format_reward", {}, folder)
    assert reward(completions=[[{"content": "<think>a</think>b"}]]) == [1.0]


@pytest.mark.parametrize(
    ("use", "arguments", "message"),
    [
        ("acuracy", {}, "Did you mean 'accuracy'"),
        ("missing.py:brevity", {}, "no file"),
        ("mine.py:brevty", {}, "Did you mean 'brevity'"),
        ("mine.py:closed", {}, r"must accept \*\*kwargs"),
        ("mine.py:brevity", {"bugdet": 3}, "takes no argument 'bugdet'"),
        ("no_such_package.reward", {}, "No module named"),
        ("math.pi", {}, "is a float"),
        ("broken.py:f", {}, r"SyntaxError: .*broken.py, line 1"),
        ("raises.py:f", {}, r"JSONDecodeError: .*decoder.py:\d+"),
        ("text.txt:f", {}, "text.txt is no Python file"),
    ],
)
def test_a_reward_that_cannot_be_used_is_named(folder: Path, use: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward(use, arguments, folder)
