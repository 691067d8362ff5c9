"""The punishment of responses that near their budget."""

from rewards.overlong import overlong


def test_overlong_falls_from_the_margin_to_the_budget() -> None:
    ids = [[0] * length for length in (0, 80, 90, 100, 500)]
    assert overlong(completion_ids=ids, budget=100, margin=20, completions=[]) == [0.0, 0.0, -0.5, -1.0, -1.0]
