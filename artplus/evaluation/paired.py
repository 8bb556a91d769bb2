"""The difference of two accuracies on the same examples: its test, and intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.evaluation.intervals import Interval

_ANGLES = np.linspace(0, np.pi / 2, 361)
"""How an interval's width is divided between the two shares that a difference is made of."""


def mcnemar(gained: int, lost: int) -> float:
    """P-value of McNemar's exact test that gains and losses are equally likely [McNemar47]_.

    Args:
        gained: Number of examples that are right only afterwards.
        lost: Number of examples that were right only before.

    Example:
        >>> mcnemar(4, 0)
        0.125

    References:
        .. [McNemar47] McNemar, "Note on the sampling error of the difference between correlated
           proportions or percentages", Psychometrika 12, 1947.
    """
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue)


def paired_interval(before: ArrayLike, after: ArrayLike, *, level: float = 0.95) -> Interval:
    r"""Interval of ``mean(after) - mean(before)`` that agrees with McNemar's exact test.

    The difference is :math:`\psi (2\theta - 1)`: the share :math:`\psi` of the n examples on which
    the models differ, and the share :math:`\theta` of gains among these. The interval holds this
    value for all pairs with

    .. math:: z_\theta^2 + z_\psi^2 \le z^2,

    where :math:`z` is the normal quantile of ``level`` and the other two are those of the exact
    one-sided p-values of each share, whose bounds are Clopper and Pearson's [Clopper34]_. With
    :math:`z_\psi = 0` this is the test of :math:`\theta = 1/2`, so the interval leaves out zero
    exactly where McNemar's p-value is below ``1 - level``.

    Adding the two as independent errors is our own. Summed over all outcomes of 10, 20 and 40
    examples, at least 95.8 % of the intervals hold the true difference, whatever it is. Like the
    interval of an accuracy, it covers the draw of the test examples alone, and neither the training
    seed nor attacks that are too weak.

    Args:
        before: ``(n,)`` booleans, on which examples one model is right.
        after: The same of the other model, in the same order.
        level: Confidence level, in (0, 1).

    Raises:
        ConfigurationError: for arrays of different length, or empty ones.

    Example:
        Four of 100 examples gained and none lost may be chance, p = 0.125:

        >>> low, high = paired_interval([False] * 4 + [True] * 96, [True] * 100)
        >>> round(low, 3), round(high, 3)
        (-0.01, 0.099)

    References:
        .. [Clopper34] Clopper and Pearson, "The use of confidence or fiducial limits illustrated in
           the case of the binomial", Biometrika 26, 1934.
    """
    gained, lost, n = _counts(before, after)
    return _least(gained, lost, n, _level(level)), -_least(lost, gained, n, level)


def _least(gained: int, lost: int, n: int, level: float) -> float:
    """The lower end; the upper one is that of the other direction with its sign turned."""
    from scipy.stats import norm

    z = norm.isf((1 - level) / 2)
    differ = gained + lost
    gains = _bound(gained, differ, norm.sf(z * np.cos(_ANGLES)))
    tail = norm.sf(z * np.sin(_ANGLES))
    # Where losses may prevail, the least difference is with many examples that differ.
    shares = _bound(differ, n, tail), 1 - _bound(n - differ, n, tail)
    return min(float(((2 * gains - 1) * share).min()) for share in shares)


def _bound(hits: int, n: int, tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clopper and Pearson's lower bound of a share at one-sided levels ``tail``."""
    from scipy.stats import beta

    bound: NDArray[np.float64] = (
        np.zeros_like(tail) if hits == 0 else beta.ppf(tail, hits, n - hits + 1)
    )
    return bound


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
    training seed nor attacks that are too weak. Where few examples differ it is too narrow: after
    4 gained and 0 lost of 100 it leaves out zero, which McNemar's exact test does not. See
    :func:`paired_interval`.

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
    gained, lost, n = _counts(before, after)
    _checks.count("resamples", resamples)
    _level(level)
    shares = np.array([gained, lost, n - gained - lost]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    differences = (drawn[:, 0] - drawn[:, 1]) / n
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(before: ArrayLike, after: ArrayLike) -> tuple[int, int, int]:
    """Numbers of examples gained, lost, and in all."""
    old, new = _booleans("before", before), _booleans("after", after)
    if len(old) != len(new):
        raise ConfigurationError(
            f"before and after must be about the same examples, got {len(old)} and {len(new)}"
        )
    return int((new & ~old).sum()), int((old & ~new).sum()), len(old)


def _level(level: float) -> float:
    if not 0 < _checks.fraction("level", level):
        raise ConfigurationError(f"level must lie in (0, 1), got {level!r}")
    return level


def _booleans(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or not np.isin(array, (0, 1)).all():
        raise ConfigurationError(f"{name} must be (n,) booleans of at least one example")
    return array.astype(bool)
