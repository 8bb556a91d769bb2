"""The virtual adversarial direction, by power iteration (Miyato et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Budget, check_budget, scaled
from artplus.attacks._call import BaseAttack
from artplus.attacks._problem import Problem
from artplus.geometry import clip, moved


@dataclass(frozen=True, kw_only=True)
class PowerIteration(BaseAttack):
    r"""One gradient a small random step away from ``x``, then a step of length ε [Miyato18]_.

    .. math:: d \leftarrow \arg\max_{\|d\|_p \le 1} \langle d, \nabla L(x + \xi d) \rangle, \qquad
              x' = x + \epsilon d

    from a random unit direction d. A divergence from the prediction at ``x`` is flat there, and to
    second order it is a quadratic form; repeated gradients a little away turn d towards the form's
    dominant eigenvector. In L∞ and L1 the steepest step takes the gradient's place.

    Args:
        eps: Radius, the length of the perturbation.
        norm: 2 as in the paper, ``numpy.inf`` or 1.
        xi: Length ξ of the small step, in the same norm; default ``eps / 50``, the authors' 0.1 at
            their radius of 5 for text. Half-precision networks round smaller steps away: give a
            larger one there.
        steps: Number of gradients K; 1 in the paper.

    Example:
        >>> import torch
        >>> from artplus.losses import make_loss
        >>> from artplus.model import LossModel
        >>> model, x, y = LossModel(torch.nn.Linear(4, 3)), torch.rand(2, 4), torch.tensor([0, 2])
        >>> x_adv = PowerIteration(eps=0.1)(model, x, y, inner=make_loss("vat").inner)
        >>> (x_adv - x).norm(dim=1)
        tensor([0.1000, 0.1000])

    References:
        .. [Miyato18] Miyato et al., "Virtual adversarial training: a regularization method for
           supervised and semi-supervised learning", TPAMI 2018, https://arxiv.org/abs/1704.03976
    """

    eps: Budget
    norm: float = 2
    xi: Budget | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        _checks.count("steps", self.steps)
        if self.xi is not None:
            check_budget(self.xi, self.norm)

    def run(self, problem: Problem) -> Tensor:
        """The point at distance ε in the last direction, inside ball and region."""
        xi = problem.eps / 50 if self.xi is None else problem.resolve(self.xi)
        ball, region, z = problem.ball, problem.region, problem.z0
        noise = torch.randn(z.shape, generator=problem.generator, device=z.device, dtype=z.dtype)
        direction = ball.steepest(region.restrict(noise))
        for _ in range(self.steps):
            _, slope = problem.value_and_grad(clip(moved(z, direction, xi), region))
            direction = ball.steepest(region.restrict(slope))
        return problem.retraction()(moved(z, direction, problem.eps))

    def with_eps(self, scale: float) -> PowerIteration:
        """The same attack with ``eps`` and ``xi`` multiplied by ``scale``."""
        xi = None if self.xi is None else scaled(self.xi, scale)
        return replace(self, eps=scaled(self.eps, scale), xi=xi)
