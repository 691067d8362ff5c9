"""What came of each response, from its text."""

from typing import Any

import pytest

from eval.grade import graded
from eval.scores import scores
from tests.support.inputs import line


def test_scores_made_again_from_the_texts_are_the_same() -> None:
    texts = [
        "<think>Two and two.</think><answer>4</answer>",
        "4",
        "The answer is 4",
        "<think>So 4",
        "<answer>5</answer>",
    ]
    lines = [line(str(n), "", text=text, kind=None, choices=None, truncated=n == 3) for n, text in enumerate(texts)]
    once = graded(lines)
    assert [each["outcome"] for each in once] == ["correct", "malformed", "malformed", "truncated", "malformed"]
    assert [each["lenient"] for each in once][:3] == ["correct"] * 3
    assert once[4]["lenient"] == "wrong"
    assert graded(once) == once
    assert scores(graded(once)) == scores(once)


WITH_OPTIONS: dict[str, Any] = {"gold": "B", "kind": "choice", "choices": ["paper", "rock", "the one which floats"]}


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("**Answer: B**", WITH_OPTIONS),
        ("Answer: **B**", WITH_OPTIONS),
        ("<ANSWER>B</ANSWER>", WITH_OPTIONS),
        ("Answer: B) rock", WITH_OPTIONS),
        ("(B) rock", WITH_OPTIONS),
        ("B. rock\nPaper is soft.", WITH_OPTIONS),
        ("B. rock because paper is soft.", WITH_OPTIONS),
        ("The correct option is B. It is hard.\n\nQuestion: Which one is soft?\nAnswer: A", WITH_OPTIONS),
        ("The answer is the one which floats.", {**WITH_OPTIONS, "gold": "C"}),
        ("48 + 24 = 72\n#### 72\n\nTom has 3 pens.\n#### 3", {"gold": "72"}),
        ("Answer:\n1,000", {"gold": "1000"}),
        ("The answer is 3.5. I hope it is correct.", {"gold": "3.5"}),
        ("The answer is 12 cm.", {"gold": "12 cm"}),
        (r"So $\boxed{\frac{1}{2}}$ is what remains.", {"gold": "0.5"}),
        (r"the correct answer is: $\frac12$.", {"gold": r"\frac{1}{2}"}),
        ("<think>It is 5.</think>\nTherefore, x = 7.", {"gold": "7"}),
    ],
)
def test_what_base_models_write_is_right_by_the_forgiving_reading_alone(text: str, question: dict[str, Any]) -> None:
    asked = {"kind": None, "choices": None, "truncated": False, **question}
    [found] = graded([line("a", "", text=text, **asked)])
    assert (found["outcome"], found["lenient"]) == ("malformed", "correct")
