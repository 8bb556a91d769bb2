"""The best point so far of each example: fooled points first, then the largest value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from artplus.attacks._base import column
from artplus.attacks._problem import Problem


@dataclass(frozen=True)
class Best:
    """One candidate per example with its value; immutable.

    Attributes:
        z: ``(batch, ...)``.
        value: What the attack maximises, ``(batch,)``.
        fooled: Whether the attack succeeds on the candidate, ``(batch,)`` booleans; all false for
            a task without right and wrong.
    """

    z: Tensor
    value: Tensor
    fooled: Tensor

    def better(self, other: Best) -> Best:
        """Per example the better of the two; ``self`` if they are equal.

        With more than two classes the point of largest loss is not always a mistake, so a fooled
        candidate beats any that is not.
        """
        other_wins = (other.fooled & ~self.fooled) | (
            (other.fooled == self.fooled) & (other.value > self.value)
        )
        return Best(
            torch.where(column(other_wins, self.z), other.z, self.z),
            torch.where(other_wins, other.value, self.value),
            self.fooled | other.fooled,
        )

    def robust(self) -> Tensor:
        """Indices of the examples not fooled yet, ``(m,)``; synchronises with the device."""
        return (~self.fooled).nonzero().squeeze(1)

    def take(self, rows: Tensor) -> Best:
        """The candidates of the examples ``rows``."""
        return Best(self.z[rows], self.value[rows], self.fooled[rows])

    def replaced(self, other: Best, rows: Tensor) -> Best:
        """``other`` for the examples ``rows``, ``self`` for the rest."""
        return Best(
            self.z.index_copy(0, rows, other.z),
            self.value.index_copy(0, rows, other.value),
            self.fooled.index_copy(0, rows, other.fooled),
        )

    def merged(self, other: Best, rows: Tensor) -> Best:
        """The better of the two, where ``other`` holds only the examples ``rows``."""
        return self.replaced(self.take(rows).better(other), rows)


def evaluated(problem: Problem, z: Tensor) -> Best:
    """``z`` with its values and whether the attack succeeds there."""
    with torch.no_grad():
        value = problem.value(z)
        if not problem.over_classes:
            return Best(z, value, torch.zeros_like(value, dtype=torch.bool))
        return Best(z, value, problem.fooled(problem.predict(z)))
