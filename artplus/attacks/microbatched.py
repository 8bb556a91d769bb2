"""An attack on slices of the batch, one after the other: same examples, less memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Attack, Budget
from artplus.attacks._call import BaseAttack, solved
from artplus.attacks._problem import Problem


@dataclass(frozen=True)
class Microbatched(BaseAttack):
    """Run ``attack`` on at most ``size`` examples at a time.

    Attacks treat each example by itself and run in evaluation mode, so slices give what the whole
    batch gives, up to the rounding of convolutions; random starts are drawn in the same order. It
    is for where memory is short; the step on the weights still sees the whole batch.

    Args:
        attack: What to run.
        size: Most examples at a time.

    Example:
        >>> from artplus.attacks import PGD, Microbatched
        >>> Microbatched(PGD(eps=0.1), 64).eps
        0.1
    """

    attack: Attack
    size: int

    def __post_init__(self) -> None:
        _checks.count("size", self.size)

    @property
    def eps(self) -> Budget:
        """Radius of the attack."""
        return self.attack.eps

    @property
    def norm(self) -> float:
        """Norm of the attack."""
        return self.attack.norm

    @property
    def targeted(self) -> bool:
        """Whether the attack takes targets for ``y``."""
        return bool(getattr(self.attack, "targeted", False))

    @property
    def climbs_own(self) -> bool:
        """Whether the attack climbs a loss of its own, and so takes no inner loss."""
        return bool(getattr(self.attack, "climbs_own", False))

    @property
    def random_start(self) -> bool:
        """Whether the attack begins at a random point, so that no noise need be added."""
        return bool(getattr(self.attack, "random_start", True))

    def run(self, problem: Problem) -> Tensor:
        """One part after the other."""
        numbers = torch.arange(len(problem), device=problem.z0.device)
        parts = [problem.take(rows) for rows in numbers.split(self._even(len(problem)))]
        return torch.cat([solved(self.attack, part, part.start) for part in parts])

    def _even(self, n: int) -> int:
        """Slices as few as must be and nearly alike: a small last one would cost much for little.

        In multiples of 16 where there is room, since a processor draws normal numbers by 16.
        """
        if n <= self.size:
            return self.size
        even = -(-n // -(-n // self.size))
        return min(self.size, -(-even // 16) * 16) if self.size >= 16 else even

    def with_eps(self, scale: float) -> Microbatched:
        """The same with radius and step length of the attack multiplied by ``scale``."""
        return replace(self, attack=self.attack.with_eps(scale))
