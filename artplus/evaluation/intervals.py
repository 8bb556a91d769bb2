"""The Wilson interval: how far a share of n examples may be from the share of all."""

from __future__ import annotations

from artplus import _checks
from artplus.errors import ConfigurationError

Interval = tuple[float, float]


def wilson(hits: int, n: int, *, level: float = 0.95) -> Interval:
    r"""Interval of a binomial proportion by Wilson's score test [Wilson27]_.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}
                   {1 + z^2 / n}

    Unlike :math:`\hat p \pm z\,\sigma` it stays in [0, 1] and its width is not zero at 0 and 1.
    It covers the draw of the test examples alone, and neither the training seed nor an attack that
    is too weak.

    Args:
        hits: Number of successes, 0 to ``n``.
        n: Number of examples, >= 1.
        level: Confidence level, in (0, 1).

    Raises:
        ConfigurationError: if ``hits`` is no number of ``n`` examples.

    Example:
        >>> low, high = wilson(95, 100)
        >>> round(low, 3), round(high, 3)
        (0.888, 0.978)

    References:
        .. [Wilson27] Wilson, "Probable inference, the law of succession, and statistical
           inference", JASA 22, 1927.
    """
    # scipy.stats takes a second to import: only when an interval is asked for.
    from scipy.stats import binomtest

    n, hits = _checks.count("n", n), _checks.count("hits", hits, least=0)
    if hits > n:
        raise ConfigurationError(f"hits must be at most n, got {hits} of {n}")
    interval = binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)
