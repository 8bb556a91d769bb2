"""FGM, BIM and MIM: the classic attacks, each a setting of PGD."""

from __future__ import annotations

import torch

from artplus.attacks._base import Budget
from artplus.attacks.pgd import PGD


def fgm(
    eps: Budget, *, norm: float = torch.inf, random_start: bool = False, targeted: bool = False
) -> PGD:
    """Fast gradient (sign) method: one step to the edge of the ball [Goodfellow15]_.

    Args:
        eps: Radius, in the units of ``x``.
        norm: ``numpy.inf`` (the sign method), 2 or 1.
        random_start: Step from a random point of the ball; the result is projected into the ball.
        targeted: ``y`` holds targets.

    Example:
        >>> fgm(0.1).steps, fgm(0.1).step_size
        (1, 0.1)

    References:
        .. [Goodfellow15] Goodfellow et al., "Explaining and harnessing adversarial examples",
           ICLR 2015, https://arxiv.org/abs/1412.6572
    """
    return PGD(
        eps=eps, norm=norm, step_size=eps, steps=1, random_start=random_start, targeted=targeted
    )


def bim(
    eps: Budget,
    *,
    norm: float = torch.inf,
    step_size: Budget | None = None,
    steps: int = 10,
    targeted: bool = False,
) -> PGD:
    """Basic iterative method: repeated FGM steps from ``x`` [Kurakin17]_.

    Args:
        eps: Radius, in the units of ``x``.
        norm: ``numpy.inf`` (as in the paper), 2 or 1.
        step_size: Length of a step; default ``2.5 * eps / steps``.
        steps: Number of gradient steps.
        targeted: ``y`` holds targets.

    References:
        .. [Kurakin17] Kurakin et al., "Adversarial examples in the physical world",
           ICLR workshop 2017, https://arxiv.org/abs/1607.02533
    """
    return PGD(
        eps=eps,
        norm=norm,
        step_size=step_size,
        steps=steps,
        random_start=False,
        targeted=targeted,
    )


def mim(
    eps: Budget,
    *,
    norm: float = torch.inf,
    step_size: Budget | None = None,
    steps: int = 10,
    decay: float = 1.0,
    targeted: bool = False,
) -> PGD:
    r"""Momentum iterative method: BIM along an accumulated gradient (Dong et al., 2018).

    Args:
        eps: Radius, in the units of ``x``.
        norm: ``numpy.inf`` (as in the paper), 2 or 1.
        step_size: Length of a step; default ``2.5 * eps / steps``.
        steps: Number of gradient steps.
        decay: :math:`\mu`, 1.0 in the paper.
        targeted: ``y`` holds targets.
    """
    return PGD(
        eps=eps,
        norm=norm,
        step_size=step_size,
        steps=steps,
        decay=decay,
        random_start=False,
        targeted=targeted,
    )
