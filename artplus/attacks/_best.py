"""The best example met so far, for each of a batch: a fooled one first, then by value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from artplus.attacks._base import column
from artplus.attacks._problem import Problem


@dataclass(frozen=True)
class Best:
    """Candidates and how good they are; none is edited in place.

    Attributes:
        z: ``(batch, ...)``.
        value: What the attack climbs, ``(batch,)``.
        fooled: Which candidates reach the attack's aim, ``(batch,)`` booleans; all false where
            nothing is right or wrong.
    """

    z: Tensor
    value: Tensor
    fooled: Tensor

    def better(self, other: Best) -> Best:
        """Per example the better of the two; the present one if they are equal.

        With more than two classes the largest loss is not always a mistake, so a fooled example
        beats any that is not.
        """
        take = (other.fooled & ~self.fooled) | (
            (other.fooled == self.fooled) & (other.value > self.value)
        )
        return Best(
            torch.where(column(take, self.z), other.z, self.z),
            torch.where(take, other.value, self.value),
            self.fooled | other.fooled,
        )

    def robust(self) -> Tensor:
        """Numbers of the examples not fooled yet, ``(m,)``; waits for the device."""
        return (~self.fooled).nonzero().squeeze(1)

    def take(self, rows: Tensor) -> Best:
        """Those of the examples ``rows``."""
        return Best(self.z[rows], self.value[rows], self.fooled[rows])

    def replaced(self, other: Best, rows: Tensor) -> Best:
        """``other`` for the examples ``rows``, the present ones for the rest."""
        return Best(
            self.z.index_copy(0, rows, other.z),
            self.value.index_copy(0, rows, other.value),
            self.fooled.index_copy(0, rows, other.fooled),
        )

    def merged(self, other: Best, rows: Tensor) -> Best:
        """The better of the two where ``other`` holds only the examples ``rows``."""
        return self.replaced(self.take(rows).better(other), rows)


def evaluated(problem: Problem, z: Tensor) -> Best:
    """``z`` with its values and with whether it reaches the attack's aim."""
    with torch.no_grad():
        value = problem.value(z)
        if not problem.over_classes:
            return Best(z, value, torch.zeros_like(value, dtype=torch.bool))
        return Best(z, value, problem.fooled(problem.predict(z)))
