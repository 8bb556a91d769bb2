"""The best example met so far, for each of a batch: a fooled one first, then by loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from artplus.attacks._base import Climb, column
from artplus.model import LossModel


@dataclass(frozen=True)
class Found:
    """Candidates and how good they are; none is edited in place.

    Attributes:
        x_adv: ``(batch, *input)``.
        value: What the attack climbs, ``(batch,)``.
        fooled: Which candidates reach the attack's aim, ``(batch,)`` booleans; all false outside
            classification.
    """

    x_adv: Tensor
    value: Tensor
    fooled: Tensor

    def better(self, other: Found) -> Found:
        """Per example the better of the two; the present one if they are equal.

        With more than two classes the largest loss is not always a mistake, so a fooled example
        beats any that is not.
        """
        take = (other.fooled & ~self.fooled) | (
            (other.fooled == self.fooled) & (other.value > self.value)
        )
        return Found(
            torch.where(column(take, self.x_adv), other.x_adv, self.x_adv),
            torch.where(take, other.value, self.value),
            self.fooled | other.fooled,
        )

    def standing(self) -> Tensor:
        """Numbers of the examples not fooled yet, ``(m,)``; waits for the device."""
        return (~self.fooled).nonzero().squeeze(1)

    def take(self, rows: Tensor) -> Found:
        """Those of the examples ``rows``."""
        return Found(self.x_adv[rows], self.value[rows], self.fooled[rows])

    def replaced(self, other: Found, rows: Tensor) -> Found:
        """``other`` for the examples ``rows``, the present ones for the rest."""
        return Found(
            self.x_adv.index_copy(0, rows, other.x_adv),
            self.value.index_copy(0, rows, other.value),
            self.fooled.index_copy(0, rows, other.fooled),
        )

    def merged(self, other: Found, rows: Tensor) -> Found:
        """The better of the two where ``other`` holds only the examples ``rows``."""
        return self.replaced(self.take(rows).better(other), rows)


def judge(
    model: LossModel, x_adv: Tensor, climb: Climb, y: Tensor, *, targeted: bool = False
) -> Found:
    """``x_adv`` with its values and with whether it reaches the attack's aim."""
    with torch.no_grad():
        value = climb(x_adv)
        if not model.criterion.over_classes:
            return Found(x_adv, value, torch.zeros_like(value, dtype=torch.bool))
        return Found(x_adv, value, model.wrong(model(x_adv), y) ^ targeted)
