"""An attack on slices of the batch, one after the other: the same result with less memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Attack, Budget, check_part
from artplus.attacks._call import BaseAttack, run_attack
from artplus.attacks._problem import Problem


@dataclass(frozen=True)
class Microbatched(BaseAttack):
    """Run ``attack`` on at most ``size`` examples at a time.

    Attacks treat examples independently and run in evaluation mode, so slices give the same result
    as the whole batch, up to the rounding of convolutions. Random starts are drawn in the same
    order. Use it when memory is short; the training step still sees the whole batch.

    Args:
        attack: The attack to run.
        size: Largest number of examples at a time.

    Example:
        >>> from artplus.attacks import PGD, Microbatched
        >>> Microbatched(PGD(eps=0.1), 64).eps
        0.1
    """

    attack: Attack
    size: int

    def __post_init__(self) -> None:
        check_part(self, self.attack)
        object.__setattr__(self, "size", _checks.count("size", self.size))

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
        """Whether the attack has a loss of its own and accepts no inner loss."""
        return bool(getattr(self.attack, "climbs_own", False))

    @property
    def random_start(self) -> bool:
        """Whether the attack starts at a random point, so that no start noise is needed."""
        return bool(getattr(self.attack, "random_start", True))

    def run(self, problem: Problem) -> Tensor:
        """The attack on one slice after the other."""
        indices = torch.arange(len(problem), device=problem.z0.device)
        parts = [problem.take(rows) for rows in indices.split(self._slice_size(len(problem)))]
        return torch.cat([run_attack(self.attack, part, part.start) for part in parts])

    def _slice_size(self, n: int) -> int:
        """Size of nearly equal slices, as few as possible; a small last slice would be inefficient.

        It is a multiple of 16 if ``size`` allows, since a CPU draws normal numbers in blocks of 16.
        """
        if n <= self.size:
            return self.size
        equal = -(-n // -(-n // self.size))
        return min(self.size, -(-equal // 16) * 16) if self.size >= 16 else equal

    def with_eps(self, scale: float) -> Microbatched:
        """The same attack with radius and step length multiplied by ``scale``."""
        return replace(self, attack=self.attack.with_eps(scale))
