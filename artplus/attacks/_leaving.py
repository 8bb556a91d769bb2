"""Fooled examples leave a batch in the middle of a run, so that its passes are on the rest only."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

EVERY = 8


class Best(Protocol):
    """The best example met so far, for each of a batch."""

    def take(self: B, rows: Tensor) -> B:
        """Those of the examples ``rows``."""
        ...

    def replaced(self: B, other: B, rows: Tensor) -> B:
        """``other`` for the examples ``rows``, the present ones for the rest."""
        ...


B = TypeVar("B", bound=Best)


def leave(step: int, fooled: Tensor) -> Tensor | None:
    """Numbers of the examples that stay after ``step``, counted from 1; ``None`` if all do.

    Looks at steps 1, 2, 4, 8 and then at every eighth: only there does the host wait for the
    device. Between looks fooled examples are carried along, which changes no other.

    Args:
        step: Steps done.
        fooled: ``(batch,)`` booleans of the examples still in the batch.
    """
    if step % EVERY and step not in (1, 2, 4):
        return None
    rows = (~fooled).nonzero().squeeze(1)
    return None if len(rows) == len(fooled) else rows


def rejoined(best: B, left: list[tuple[B, Tensor]]) -> B:
    """The whole batch again.

    Args:
        best: Of the examples that stayed to the end.
        left: What was known of a batch when some left it, and the numbers of those that stayed.
    """
    for whole, rows in reversed(left):
        best = whole.replaced(best, rows)
    return best
