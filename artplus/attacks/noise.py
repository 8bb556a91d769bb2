"""Random noise as large as the ball allows, without any gradient (R3F, NEFTune)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Budget, check_budget, column, scaled
from artplus.attacks._call import BaseAttack
from artplus.attacks._problem import Problem
from artplus.geometry import Eps


@dataclass(frozen=True, kw_only=True)
class Noise(BaseAttack):
    r"""Draw each entry on its own; costs no pass through the model.

    .. math:: \delta_j \sim U(-s, s), \qquad s = \epsilon \, / \, n^{1/p}

    for the n entries that may change: the largest box inside the ball. So s is ε in L∞, as in R3F
    [Aghajanyan21]_; in L2 it is :math:`\epsilon / \sqrt{n}`, which on a sentence of L tokens of
    dimension H is NEFTune's :math:`\alpha / \sqrt{L H}` [Jain24]_ with α as the radius, and the
    start of FreeLB.

    L is the number of the sentence's own tokens, as in NEFTune's authors' code. The flag
    ``neftune_noise_alpha`` of Transformers divides by the padded length instead and adds noise to
    padding, so there the same α means less noise to a short sentence in a long batch. Tokens that
    are masked here (padding, and special tokens where they are told) neither change nor count.

    Args:
        eps: Radius: R3F's ε (1e-5) in L∞, NEFTune's α (5, 10 or 15) in L2.
        norm: ``numpy.inf``, 2 or 1.
        distribution: ``"uniform"``, or ``"normal"`` with s as the standard deviation. Normal noise
            is then brought back into the ball, which R3F's code does not do.

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(2, 4)
        >>> x_adv = Noise(eps=0.1)(model, x, torch.tensor([0, 2]))
        >>> bool((x_adv - x).abs().max() <= 0.1 + 1e-6)
        True

    References:
        .. [Aghajanyan21] Aghajanyan et al., "Better fine-tuning by reducing representational
           collapse", ICLR 2021, https://arxiv.org/abs/2008.03156
        .. [Jain24] Jain et al., "NEFTune: noisy embeddings improve instruction finetuning",
           ICLR 2024, https://arxiv.org/abs/2310.05914
    """

    eps: Budget
    norm: float = torch.inf
    distribution: Literal["uniform", "normal"] = "uniform"

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        _checks.choice("distribution", self.distribution, ("uniform", "normal"))

    def run(self, problem: Problem) -> Tensor:
        """Clean values plus noise, inside the ball and the region."""
        noise = draw(problem, problem.eps, self.distribution)
        return problem.retraction()(problem.z0 + noise)

    def with_eps(self, scale: float) -> Noise:
        """The same noise with ``eps`` multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))


def draw(problem: Problem, eps: Eps, distribution: str = "uniform") -> Tensor:
    """Noise of :class:`Noise` at radius ``eps``, shaped like ``problem.z0``; zero where masked."""
    z, normal = problem.z0, distribution == "normal"
    sample = torch.randn if normal else torch.rand
    noise = sample(z.shape, generator=problem.generator, device=z.device, dtype=z.dtype)
    noise = noise if normal else noise.mul_(2).sub_(1)
    return problem.region.restrict(noise) * (eps / _entries(problem) ** (1 / problem.ball.order))


def _entries(problem: Problem) -> Tensor:
    """How many entries of each ball may change, a column beside ``z0``; at least one."""
    z, mask = problem.z0, problem.region.mask
    if problem.space.per == "token":
        return z.new_full((1,), z.shape[-1])
    if mask is None:
        return z.new_full((1,), z[0].numel())
    free = (mask != 0).to(z.dtype).expand_as(z).flatten(1).sum(1)
    return column(free.clamp_min(1), z)
