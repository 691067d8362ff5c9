"""The punishment of loops."""

import pytest

from rewards.repetition import repetition


def test_repetition_is_the_share_of_ngrams_that_came_before() -> None:
    loop, fresh = [1, 2] * 10, list(range(20))
    assert repetition(completion_ids=[loop, fresh, [1]], ngram=2) == pytest.approx([-(1 - 2 / 19), 0.0, 0.0])
