"""What came of each response, from its text."""

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
