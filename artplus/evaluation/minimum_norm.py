"""An attack that seeks the nearest mistake, however far, judged by a radius."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus.attacks._base import Attack, Budget, Inner, check_budget, scaled
from artplus.model import LossModel
from artplus.spaces import InputSpace


@dataclass(frozen=True)
class MinimumNorm:
    """A minimum-norm attack (DeepFool, HopSkipJump) and the radius by which it is judged.

    Such attacks have no radius of their own: they return the smallest perturbation they find.
    The judge counts an example as fooled only if that is within ``eps``; a longer one leaves the
    example as it was, and is no violation.

    Args:
        attack: Seeks short perturbations; its own ``eps`` is ignored.
        eps: Radius to judge by, in the units of ``x``.
        norm: ``numpy.inf``, 2 or 1; the norm that it is judged by.
        minimises: Whether the attack makes this norm small, so that needing more than ``eps`` is a
            result. One that does not (a rotation, few features, another norm) shows nothing where
            it goes farther, and is broken if it never came within ``eps``.
    """

    attack: Attack
    eps: Budget
    norm: float = torch.inf
    minimises: bool = True

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)

    @property
    def targeted(self) -> bool:
        """Whether the attack takes targets for ``y``."""
        return bool(getattr(self.attack, "targeted", False))

    def __call__(
        self,
        model: LossModel,
        x: Tensor,
        y: Tensor,
        *,
        space: InputSpace = InputSpace(),
        inner: Inner | None = None,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Craft; the result may lie outside the radius. See :class:`artplus.attacks.Attack`."""
        return self.attack(model, x, y, space=space, inner=inner, start=start, generator=generator)

    def with_eps(self, scale: float) -> MinimumNorm:
        """The same attack, judged by the radius multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))
