"""The built-in objectives, each with the attack of its paper."""

from __future__ import annotations

import torch

from artplus.attacks import PGD
from artplus.losses import (
    Weight,
    at,
    hinge,
    input_gradient,
    logit_pairing,
    mart,
    mix,
    mse,
    trades,
)
from artplus.trainers._base import Recipe, register_trainer
from artplus.training.callbacks import EpsWarmup


def _pgd(eps: float, norm: float, steps: int, *, random_start: bool = True) -> PGD:
    """PGD whose steps are 2.5 eps / steps long, the rule of Madry et al."""
    return PGD(eps=eps, norm=norm, steps=steps, random_start=random_start)


@register_trainer("at")
def at_trainer(*, eps: float, norm: float = torch.inf, steps: int = 10) -> Recipe:
    """Madry et al., 2018: PGD from a random start, the loss at x' alone."""
    return Recipe(objective=at(), attack=_pgd(eps, norm, steps))


@register_trainer("mix")
def mix_trainer(
    *, eps: float, norm: float = torch.inf, lam: Weight = 1.0, steps: int = 10
) -> Recipe:
    """Goodfellow et al., 2015, with PGD: clean loss plus λ times adversarial loss."""
    return Recipe(objective=mix(lam=lam), attack=_pgd(eps, norm, steps))


@register_trainer("trades")
def trades_trainer(
    *, eps: float, norm: float = torch.inf, lam: Weight = 6.0, steps: int = 10
) -> Recipe:
    """Zhang et al., 2019: PGD on the divergence, from x plus 0.001 Gaussian noise."""
    return Recipe(objective=trades(lam=lam), attack=_pgd(eps, norm, steps, random_start=False))


@register_trainer("mart")
def mart_trainer(
    *, eps: float, norm: float = torch.inf, lam: Weight = 5.0, steps: int = 10
) -> Recipe:
    """Wang et al., 2020: PGD on the model's own loss; boosted and misclassification-aware."""
    return Recipe(objective=mart(lam=lam), attack=_pgd(eps, norm, steps))


@register_trainer("hinge")
def hinge_trainer(
    *,
    eps: float,
    norm: float = torch.inf,
    lam: Weight = 1.0,
    kappa: float = 1.0,
    steps: int = 10,
) -> Recipe:
    """A hinge on the margin at x', which PGD makes as large as it can."""
    return Recipe(objective=hinge(lam=lam, kappa=kappa), attack=_pgd(eps, norm, steps))


@register_trainer("mse")
def mse_trainer(
    *, eps: float, norm: float = torch.inf, lam: Weight = 10.0, steps: int = 10
) -> Recipe:
    """Squared gap of probabilities, which PGD makes as large as it can."""
    return Recipe(objective=mse(lam=lam), attack=_pgd(eps, norm, steps))


@register_trainer("logit_pairing")
def logit_pairing_trainer(
    *, eps: float, norm: float = torch.inf, lam: Weight = 0.5, steps: int = 10
) -> Recipe:
    """Kannan et al., 2018: both losses, and logits pulled together."""
    return Recipe(objective=logit_pairing(lam=lam), attack=_pgd(eps, norm, steps))


@register_trainer("input_gradient")
def input_gradient_trainer(
    *, lam: Weight = 0.1, gradient_norm: float = 2, squared: bool = False
) -> Recipe:
    """Ross and Doshi-Velez, 2018: a penalty on the input gradient, no attack."""
    return Recipe(objective=input_gradient(lam=lam, norm=gradient_norm, squared=squared))


@register_trainer("fgsm_rs")
def fgsm_rs_trainer(*, eps: float, warmup: float = 0.25) -> Recipe:
    """Wong et al., 2020: one L∞ step of 1.25 eps from a random start, the cheapest of all.

    The gradient sign plus noise. Differs from the paper: the radius is ramped over the first
    ``warmup`` of training, without which a large radius overfits catastrophically (accuracy under
    PGD falls to zero within an epoch), and the start is clipped to the valid range.
    """
    attack = PGD(eps=eps, steps=1, step_size=1.25 * eps, random_start=True)
    return Recipe(objective=at(), attack=attack, callbacks=(EpsWarmup(fraction=warmup),))
