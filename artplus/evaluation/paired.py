"""An interval of the difference of two accuracies on the same examples: a paired bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.evaluation.intervals import Interval


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    r"""Percentile interval of ``mean(after) - mean(before)``, resampling pairs [Efron93]_.

    Both models are evaluated on the same examples, so the difference varies less than two separate
    intervals suggest. An example contributes 1 (gained), -1 (lost) or 0, so resampling n of them
    with replacement is a multinomial draw of these three counts.

    Like the interval of an accuracy, it covers the draw of the test examples alone, and neither the
    training seed nor attacks that are too weak.

    Args:
        before: ``(n,)`` booleans, on which examples one model is right.
        after: The same of the other model, in the same order.
        resamples: Number of bootstrap samples.
        seed: Of their draw.
        level: Confidence level, in (0, 1).

    Raises:
        ConfigurationError: for arrays of different length, or empty ones.

    Example:
        >>> low, high = paired_bootstrap([True] * 40 + [False] * 60, [True] * 70 + [False] * 30)
        >>> bool(low < 0.3 < high)
        True

    References:
        .. [Efron93] Efron and Tibshirani, "An introduction to the bootstrap", 1993.
    """
    old, new = _booleans("before", before), _booleans("after", after)
    if len(old) != len(new):
        raise ConfigurationError(
            f"before and after must be about the same examples, got {len(old)} and {len(new)}"
        )
    _checks.count("resamples", resamples)
    if not 0 < _checks.fraction("level", level):
        raise ConfigurationError(f"level must lie in (0, 1), got {level!r}")
    n = len(old)
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    shares = np.array([gained, lost, n - gained - lost]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    differences = (drawn[:, 0] - drawn[:, 1]) / n
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _booleans(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or not np.isin(array, (0, 1)).all():
        raise ConfigurationError(f"{name} must be (n,) booleans of at least one example")
    return array.astype(bool)
