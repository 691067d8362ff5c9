"""The reward for form alone."""

from rewards.format import format
from tests.support.responses import MALFORMED, RIGHT, WRONG, conversation


def test_format_pays_for_form_alone() -> None:
    assert format([conversation(RIGHT), WRONG, MALFORMED]) == [1.0, 1.0, 0.0]
