"""Differences of accuracies on the same examples: a bootstrap of pairs, and its use in compare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artplus.errors import ConfigurationError
from artplus.evaluation import paired_bootstrap


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


def test_a_level_widens() -> None:
    """More certainty, a wider interval."""
    before, after = np.arange(50) < 20, np.arange(50) < 30
    narrow, wide = (paired_bootstrap(before, after, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (([True], [True, False]), "same examples, got 1 and 2"),
        (([], []), "before must be .n,. booleans"),
        (([0.5], [True]), "before must be .n,. booleans"),
    ],
)
def test_refusals(given_: tuple[list[float], list[float]], message: str) -> None:
    """Lengths and kinds are checked."""
    with pytest.raises(ConfigurationError, match=message):
        paired_bootstrap(*given_)
    with pytest.raises(ConfigurationError, match="level"):
        paired_bootstrap([True], [True], level=0.0)
