"""The statistics of comparisons hold in experiments whose truth is known."""

import re

import pytest

from tests.support import experiments
from tests.support.experiments import claims, few_images, row, sampled
from tests.support.inputs import ROOT


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.scores.RESAMPLES", 400)


@pytest.mark.slow
@pytest.mark.parametrize("place", experiments.PLACES, ids=[f"{place[0]}-seeds" for place in experiments.PLACES])
def test_a_promised_difference_is_found_and_none_is_claimed(place: tuple[int, int, float]) -> None:
    """Power 0.70 to 0.88 where 0.8 is promised, and at most 6% false alarms, each within 200 trials' own noise."""
    _, found, claimed = row(*place, trials=200)
    assert 0.70 - 0.06 <= found <= 0.88 + 0.05
    assert claimed <= 0.06 + 0.03


@pytest.mark.slow
def test_a_page_of_sampled_comparisons_claims_nothing_that_is_not_there() -> None:
    """Ten tasks, 200 rows, 4 samples, no true difference: without a test of its own, 42% of pages named a winner."""
    assert claims(sampled, 60) <= 0.12


@pytest.mark.slow
def test_rows_that_stand_and_fall_with_their_image_are_one_observation() -> None:
    assert claims(few_images, 200) <= 0.09


def test_the_readme_shows_the_table_of_these_experiments() -> None:
    """Its numbers are within what is required; `python -m tests.support.experiments` prints it."""
    page = (ROOT / "eval" / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d.]+) points \| (\d+)% \| ([\d.]+)% \|$", page, re.MULTILINE)
    assert [(int(seeds), int(n.replace(",", ""))) for seeds, n, *_ in rows] == [
        place[:2] for place in experiments.PLACES
    ]
    for _, _, promised, found, claimed in rows:
        assert 0 < float(promised) < 100
        assert 70 <= int(found) <= 88
        assert float(claimed) <= 6
