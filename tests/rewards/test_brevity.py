"""The reward for brevity."""

from rewards.brevity import brevity
from tests.support.responses import RIGHT, WRONG


def test_brevity_pays_the_shorter_of_two_right_responses_more_and_no_wrong_one() -> None:
    ids = [[0] * length for length in (10, 30, 50, 10)]
    paid = brevity([RIGHT, RIGHT, RIGHT, WRONG], completion_ids=ids, answer=["7"] * 4, budget=40)
    assert paid == [0.75, 0.25, 0.0, 0.0]
