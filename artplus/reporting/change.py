"""How much something changed: examples gained and lost with a test, values with their sign."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artplus.evaluation import wording
from artplus.evaluation.intervals import Interval
from artplus.evaluation.paired import mcnemar, paired_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from artplus.evaluation.section import Unit


@dataclass(frozen=True)
class Paired:
    """Two accuracies on the same examples.

    Attributes:
        gained: Number of examples that are right only afterwards.
        lost: Number of examples that were right only before.
        p_value: Of McNemar's exact test that gains and losses are equally likely.
        interval: 95 % interval of the change, which leaves out zero exactly where the p-value is
            below 0.05.
    """

    gained: int
    lost: int
    p_value: float
    interval: Interval

    @property
    def points(self) -> str:
        """The interval in percentage points."""
        low, high = self.interval
        return f"{points(low)} to {points(high)}"

    @property
    def p(self) -> str:
        """The p-value with ``=``, or a small one as a bound."""
        return "< 0.001" if self.p_value < 0.001 else f"= {self.p_value:.2g}"


def paired(old: NDArray[Any] | None, new: NDArray[Any] | None) -> Paired | None:
    """Gains and losses, and whether chance explains their difference.

    Args:
        old: ``(n,)`` booleans, which examples were right before; ``None`` if unknown.
        new: The same afterwards.
    """
    if old is None or new is None:
        return None
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    return Paired(gained, lost, mcnemar(gained, lost), paired_interval(old, new))


def signed(value: float | None, unit: Unit) -> str:
    """A difference as text: points of a percentage, else a number with its sign.

    Example:
        >>> signed(0.125, "percent"), signed(-3.0, "count"), signed(0.5, "number")
        ('+12.5 pts', '-3', '+0.5')
    """
    if value is None or not math.isfinite(value):
        return wording.NONE
    if unit == "percent":
        return f"{points(value)} pts"
    if value == 0:
        return "0"
    return f"{value:+,.0f}" if unit == "count" else f"{value:+.3g}"


def points(share: float) -> str:
    """A difference of shares in percentage points; without a sign if it rounds to zero.

    Example:
        >>> points(0.125), points(-1e-9)
        ('+12.5', '0.0')
    """
    text = f"{100 * share:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text
