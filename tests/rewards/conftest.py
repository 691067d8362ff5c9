"""No worker outlives the tests that used it."""

from collections.abc import Iterator

import pytest

from rewards.grading import algebra


@pytest.fixture(autouse=True, scope="module")
def _no_worker_left() -> Iterator[None]:
    yield
    algebra.close()
