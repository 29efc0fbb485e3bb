"""Claims against a champion: Holm's correction, and how often equal policies or a true loss get through."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from saferflow.data.rows import Answered
from saferflow.evaluation.noninferiority import claims_of, exact, holm

EVERY = ("safety", "safety", 0.0, lambda row: True)
WITHIN = ("safety_loss", "safety", 5.0, lambda row: True)


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_keeps_their_order_and_is_at_most_bonferroni(values):
    adjusted = holm(values)
    assert adjusted.keys() == values.keys()
    for name, p in values.items():
        assert p <= adjusted[name] <= min(1.0, len(values) * p) + 1e-12
    ordered = sorted(values, key=values.get)
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 4000), st.sampled_from([0.0, 0.01, 0.03, 0.1]))
def test_the_exact_test_is_the_binomials_tail(better, worse, agreeing, margin):
    images = max(1, better + worse + agreeing)
    told = exact(better, worse, images, margin)
    if margin:
        assert told == pytest.approx(binom.cdf(max(0, worse - better), images, margin), rel=1e-8, abs=1e-300)
    else:
        assert told == pytest.approx(binom.sf(better - 1, better + worse, 0.5), rel=1e-8, abs=1e-300)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def answered(safe: np.ndarray) -> list[Answered]:
    """One row an image, safe or not."""
    return [
        Answered(f"r{i}", "p", "safety", f"i{i}", "", 3 if one else 1, 3, 3, False, True, False, "refuse", "S1", "none",
                 "none", "", "")
        for i, one in enumerate(safe)
    ]  # fmt: skip


def shown(difference: float, test, rows: int, runs: int) -> float:
    """How often a claim is shown at 5% where the true difference in safety, in shares, is `difference`."""
    generator, times = np.random.default_rng(1), 0
    for run in range(runs):
        champion = generator.random(rows) < 0.7
        flips = generator.random(rows) < 0.15  # as many rows change either way, but for the difference
        candidate = np.where(flips, generator.random(rows) < 0.7, champion)
        better = generator.random(rows) < abs(difference) / (0.3 if difference > 0 else 0.7)
        candidate = np.where(better, difference > 0, candidate)
        [claim] = claims_of(answered(candidate), answered(champion), [test], resamples=300, seed=run)
        times += claim.adjusted <= 0.05
    return times / runs


def test_equal_policies_are_rarely_called_better():
    assert shown(0.0, EVERY, rows=200, runs=150) <= 0.10  # 5% and three standard errors


def test_a_loss_of_the_margin_is_rarely_called_within_it():
    assert shown(-0.05, WITHIN, rows=200, runs=150) <= 0.10


def test_equal_policies_are_shown_to_be_within_the_margin_with_enough_rows():
    assert shown(0.0, WITHIN, rows=800, runs=40) >= 0.8


@pytest.mark.parametrize(("rows", "shown"), [(1, False), (10, False), (40, False), (400, True)])
def test_policies_that_agree_everywhere_are_within_the_margin_only_on_enough_rows(rows, shown):
    """Of no loss on n images the most likely true loss that 5% of samples hide is about 3 / n: 60 rows for 5 points."""
    same = answered(np.ones(rows))
    [claim] = claims_of(same, same, [WITHIN], resamples=2000, seed=1)
    assert (claim.adjusted <= 0.05) == shown
    assert claim.rows_needed(0.95, 1) > 0
    assert shown or claim.rows_needed(0.95, 1) > rows


def test_one_row_that_got_better_proves_nothing():
    [claim] = claims_of(answered(np.ones(1)), answered(np.zeros(1)), [EVERY], resamples=2000, seed=1)
    assert claim.adjusted > 0.05


def test_a_measure_that_no_row_asks_for_is_not_shown():
    [claim] = claims_of(answered(np.ones(5)), answered(np.ones(5)), [("general_loss", "general", 3.0, lambda row: True)],
                     resamples=50, seed=1)  # fmt: skip
    assert (claim.improvement, claim.adjusted) == (None, 1.0)


def test_the_rows_needed_grow_with_the_square_of_the_precision():
    [claim] = claims_of(
        answered(np.arange(400) % 4 > 0), answered(np.arange(400) % 3 > 0), [WITHIN], resamples=300, seed=1
    )
    assert claim.rows_needed(0.95, 1) == pytest.approx(400 * (claim.detectable(0.95, 1) / 5) ** 2, abs=1)
    assert claim.detectable(0.95, 4) > claim.detectable(0.95, 1)
