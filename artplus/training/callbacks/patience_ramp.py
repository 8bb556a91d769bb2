"""Attack misclassified examples for more steps as training proceeds."""

from __future__ import annotations

from collections.abc import Sequence

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.training.callbacks._attack_schedule import AttackSchedule
from artplus.training.state import State


class PatienceRamp(AttackSchedule):
    r"""Raise PGD's ``patience`` by one at each of some points of training: FAT's :math:`\tau`.

    Friendly adversarial training begins with examples that are barely misclassified and ends with
    stronger ones [Zhang20]_.

    Args:
        at: Rising fractions of the planned training in [0, 1); by default those of the authors'
            script, epochs 50 and 90 of 120.

    Raises:
        ConfigurationError: in training, for an attack without ``patience``.

    References:
        .. [Zhang20] Zhang et al., "Attacks which do not kill training make adversarial learning
           stronger", ICML 2020, https://arxiv.org/abs/2002.11242
    """

    setting = "patience"

    def __init__(self, at: Sequence[float] = (50 / 120, 90 / 120)) -> None:
        super().__init__()
        self.at = tuple(_checks.fraction("each of at", point) for point in at)
        if sorted(set(self.at)) != list(self.at):
            raise ConfigurationError(f"at must hold rising fractions of training, got {at!r}")

    def value(self, initial: int, state: State) -> int:
        """The patience at this step."""
        return initial + sum(state.progress >= point for point in self.at)
