"""An attack that seeks the nearest mistake, however far, judged by a radius."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from artplus.attacks._base import Attack, Budget, Inner, check_budget, scaled
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree


@dataclass(frozen=True)
class MinimumNorm:
    """A minimum-norm attack (DeepFool, HopSkipJump) and the radius by which it is judged.

    Such attacks have no radius of their own: they return the smallest perturbation they find. An
    example counts as fooled only if its perturbation is within ``eps``. A longer one is put back,
    and is no violation.

    Args:
        attack: Seeks short perturbations; its own ``eps`` is ignored.
        eps: Radius to judge by, in the units of ``x``.
        norm: The norm that it is judged by: ``numpy.inf``, 2 or 1.
        minimises: Whether the attack makes this norm small, so that a perturbation longer than
            ``eps`` is a result. An attack that does not (a rotation, few features, another norm) is
            broken if none of its perturbations is within ``eps``.
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
        x: Tree,
        y: Tree,
        *,
        space: Space = InputSpace(),
        inner: Inner | None = None,
        start: Tree | None = None,
        generator: torch.Generator | None = None,
    ) -> Tree:
        """Craft; the result may lie outside the radius. See :class:`artplus.attacks.Attack`."""
        return self.attack(model, x, y, space=space, inner=inner, start=start, generator=generator)

    def with_eps(self, scale: float) -> MinimumNorm:
        """The same attack, judged by the radius multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))
