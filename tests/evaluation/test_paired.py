"""Differences of accuracies on the same examples: the exact test and its interval, a bootstrap."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, multinomial, norm

from artplus.errors import ConfigurationError
from artplus.evaluation import paired_bootstrap, paired_interval
from artplus.evaluation.paired import mcnemar
from artplus.reporting.change import paired


def resampled(before: np.ndarray, after: np.ndarray, resamples: int) -> tuple[float, float]:
    """The bootstrap written out: examples drawn with replacement, in pairs."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(resamples):
        rows = rng.integers(len(before), size=len(before))
        found.append(after[rows].mean() - before[rows].mean())
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def test_it_is_the_bootstrap_written_out() -> None:
    """Drawing the three counts is drawing the examples."""
    rng = np.random.default_rng(0)
    before = rng.random(120) < 0.5
    after = before ^ (rng.random(120) < 0.3)
    expected = resampled(before, after, 4000)
    assert paired_bootstrap(before, after) == pytest.approx(expected, abs=0.02)


def test_pairs_matter() -> None:
    """Two models that differ on few examples differ surely, whatever each interval says."""
    before = np.arange(200) < 100
    nested = np.arange(200) < 110
    crossed = np.roll(before, 95) | (np.arange(200) < 5)
    crossed[np.flatnonzero(crossed)[110:]] = False
    near = paired_bootstrap(before, nested)
    far = paired_bootstrap(before, crossed)
    assert near[0] > 0
    assert near[1] - near[0] < 0.5 * (far[1] - far[0])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=50))
def test_swapping_turns_the_sign(pairs: list[tuple[bool, bool]]) -> None:
    """The interval holds the difference, mirrors when the models are swapped, and repeats."""
    before, after = (np.array(column) for column in zip(*pairs, strict=True))
    low, high = paired_bootstrap(before, after, resamples=2000)
    assert low - 1e-9 <= after.mean() - before.mean() <= high + 1e-9
    assert paired_bootstrap(before, after, resamples=2000) == (low, high)
    back = paired_bootstrap(after, before, resamples=2000)
    assert back == pytest.approx((-high, -low), abs=0.2)
    assert paired_bootstrap(before, before) == (0.0, 0.0)


def test_the_interval_covers() -> None:
    """About 95 of 100 intervals hold the true difference."""
    rng = np.random.default_rng(0)
    hit = 0
    for _ in range(200):
        u = rng.random(150)
        low, high = paired_bootstrap(u < 0.5, rng.random(150) < 0.6, resamples=500)
        hit += low <= 0.1 <= high
    assert 0.9 <= hit / 200 <= 0.99


@pytest.mark.parametrize("interval", [paired_bootstrap, paired_interval])
def test_a_level_widens(interval) -> None:
    """More certainty, a wider interval."""
    before, after = np.arange(50) < 20, np.arange(50) < 30
    narrow, wide = (interval(before, after, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def pairs_of(gained: int, lost: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models that are both wrong where neither gains nor loses."""
    change = np.array([1] * gained + [-1] * lost + [0] * (n - gained - lost))
    return change < 0, change > 0


@cache
def outcomes(n: int) -> dict[tuple[int, int], tuple[float, float]]:
    """The interval of every outcome of n examples."""
    found = {}
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            found[gained, lost] = paired_interval(*pairs_of(gained, lost, n))
    return found


def test_four_gained_and_none_lost_of_a_hundred_may_be_chance() -> None:
    """By hand: p = 2 / 2^4, and the upper end is that of four of a hundred, Clopper and Pearson."""
    before, after = pairs_of(4, 0, 100)
    assert mcnemar(4, 0) == 2 / 2**4
    low, high = paired_interval(before, after)
    assert low < 0
    assert high == pytest.approx(beta.ppf(0.975, 5, 96))
    test = paired(before, after)
    assert test is not None and (test.p_value, test.interval) == (0.125, (low, high))
    assert paired_bootstrap(before, after)[0] > 0, "what disagreed"
    widest = beta.ppf(0.975, 1, 100)  # none of a hundred differs
    assert paired_interval(before, before) == pytest.approx((-widest, widest))


@pytest.mark.parametrize("n", [5, 12, 25])
def test_interval_and_p_value_agree_on_every_outcome(n: int) -> None:
    """Zero is left out exactly where McNemar's exact p, summed by hand, is below 0.05."""
    for (gained, lost), (low, high) in outcomes(n).items():
        differ = gained + lost
        tail = sum(binom.pmf(k, differ, 0.5) for k in range(max(gained, lost), differ + 1))
        p_value = min(1.0, 2 * tail)
        assert mcnemar(gained, lost) == pytest.approx(p_value)
        assert (low > 0 or high < 0) == (p_value < 0.05)
        assert -1 <= low <= (gained - lost) / n <= high <= 1
        assert outcomes(n)[lost, gained] == pytest.approx((-high, -low))


@pytest.mark.parametrize(("gained", "lost", "n"), [(4, 0, 30), (9, 2, 40), (3, 3, 20), (1, 6, 9)])
def test_the_interval_is_the_search_over_both_shares(gained: int, lost: int, n: int) -> None:
    """Every pair of shares, its exact one-sided p-values as normal quantiles, and the extremes."""

    def quantiles(hits: int, of: int, shares: np.ndarray) -> np.ndarray:
        above, below = binom.sf(hits - 1, of, shares), binom.cdf(hits, of, shares)
        larger = norm.isf(np.minimum(above, 0.5))  # the share is too small to be true
        return np.maximum(larger, norm.isf(np.minimum(below, 0.5)))

    shares = np.linspace(0, 1, 2001)
    far = quantiles(gained, gained + lost, shares)[:, None] ** 2
    far = far + quantiles(gained + lost, n, shares)[None] ** 2
    change = (2 * shares[:, None] - 1) * shares[None]
    inside = change[far <= norm.isf(0.025) ** 2]
    found = paired_interval(*pairs_of(gained, lost, n))
    assert found == pytest.approx((inside.min(), inside.max()), abs=2e-3)


@pytest.mark.parametrize("n", [10, 20])
def test_at_least_95_of_100_intervals_hold_the_difference(n: int) -> None:
    """Summed over all outcomes, whatever the shares of gains and losses are."""
    counts = np.array(list(outcomes(n)))
    low, high = np.array(list(outcomes(n).values())).T
    for gains in np.arange(0, 1.01, 0.1):
        for losses in np.arange(0, 1.001 - gains, 0.1):
            neither = max(0.0, 1 - gains - losses)
            probability = multinomial.pmf(
                np.column_stack([counts, n - counts.sum(1)]), n, [gains, losses, neither]
            )
            holds = (low - 1e-9 <= gains - losses) & (gains - losses <= high + 1e-9)
            assert probability[holds].sum() >= 0.95


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (([True], [True, False]), "same examples, got 1 and 2"),
        (([], []), "before must be .n,. booleans"),
        (([0.5], [True]), "before must be .n,. booleans"),
    ],
)
@pytest.mark.parametrize("interval", [paired_bootstrap, paired_interval])
def test_refusals(interval, given_: tuple[list[float], list[float]], message: str) -> None:
    """Lengths and kinds are checked."""
    with pytest.raises(ConfigurationError, match=message):
        interval(*given_)
    with pytest.raises(ConfigurationError, match="level"):
        interval([True], [True], level=0.0)
