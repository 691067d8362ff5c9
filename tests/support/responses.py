"""Completions as rewards get them: right, wrong and malformed ones to a question whose answer is 7."""

from rewards.response import render

RIGHT, WRONG, MALFORMED = render("a", "7"), render("a", "8"), "<think>a</think>7"


def conversation(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
