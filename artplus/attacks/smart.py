"""The attacks of SMART: of the paper, and of its authors' code (Jiang et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Budget, check_budget, scaled
from artplus.attacks._call import BaseAttack
from artplus.attacks._problem import Problem
from artplus.errors import ConfigurationError
from artplus.geometry import clip, moved

Variant = Literal["paper", "mt-dnn"]
VARIANTS = ("paper", "mt-dnn")


def check_variant(variant: str) -> None:
    """Refuse anything but ``"paper"`` and ``"mt-dnn"``."""
    _checks.choice("variant", variant, VARIANTS)


@dataclass(frozen=True, kw_only=True)
class SMARTAttack(BaseAttack):
    r"""Ascend the gradient itself from a little Gaussian noise [Jiang20]_.

    .. math:: \delta_0 \sim N(0, \sigma^2), \qquad
              \delta \leftarrow \Pi_{\|\delta\|_p \le \epsilon} (\delta + \eta \nabla L)

    Unlike :class:`PGD`, a step is not normalised: where the loss is flat it is short.

    ``variant="mt-dnn"`` is what the authors' code does. There is no projection; instead every
    token's perturbation is divided by its largest entry, plus 1e-6. So each token moves by about
    the whole radius, however small ε, η and σ are: their code has no radius, which is ε = 1 here,
    and the ``epsilon`` of their settings is that 1e-6. That differs from the paper by five orders
    of magnitude.

    Args:
        eps: Radius: 1e-5 in the paper, in the units of BERT's embeddings; 1 for the authors' code.
        norm: ``numpy.inf`` as in the paper, 2 or 1; the authors' code is for L∞ only.
        step_size: η, which multiplies the gradient of an example's loss, >= 0; 1e-3 in the paper.
            It belongs to the units of the inputs, so it does not follow a relative radius.
        noise: σ, in the units of the radius; 1e-5 in the paper and the code.
        steps: Number of gradients; 1 in the paper.
        variant: ``"paper"`` or ``"mt-dnn"``.

    Raises:
        ConfigurationError: at construction, for values that cannot work.

    References:
        .. [Jiang20] Jiang et al., "SMART: robust and efficient fine-tuning for pre-trained natural
           language models through principled regularized optimization", ACL 2020,
           https://arxiv.org/abs/1911.03437
    """

    eps: Budget
    norm: float = torch.inf
    step_size: float = 1e-3
    noise: Budget = 1e-5
    steps: int = 1
    variant: Variant = "paper"

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        check_budget(self.noise, self.norm)
        _checks.nonnegative("step_size", self.step_size)
        _checks.count("steps", self.steps)
        check_variant(self.variant)
        if self.variant == "mt-dnn" and self.norm != torch.inf:
            raise ConfigurationError(
                f"variant='mt-dnn' divides each token by its largest entry, which is L-infinity; "
                f"got norm={self.norm!r}. Leave out norm=, or use variant='paper'"
            )

    def run(self, problem: Problem) -> Tensor:
        """The last point, inside ball and region."""
        z, region, retract = problem.z0, problem.region, problem.retraction()
        noise = torch.randn(z.shape, generator=problem.generator, device=z.device, dtype=z.dtype)
        point = clip(z + region.restrict(noise * problem.resolve(self.noise)), region)
        for _ in range(self.steps):
            _, slope = problem.value_and_grad(point)
            point = moved(point, region.restrict(slope), self.step_size)
            if self.variant == "mt-dnn":
                delta = point - z
                point = moved(z, delta / (delta.abs().amax(-1, keepdim=True) + 1e-6), problem.eps)
            point = retract(point)
        return point

    def with_eps(self, scale: float) -> SMARTAttack:
        """The same attack with ``eps``, ``noise`` and ``step_size`` multiplied by ``scale``."""
        return replace(
            self,
            eps=scaled(self.eps, scale),
            noise=scaled(self.noise, scale),
            step_size=self.step_size * scale,
        )
