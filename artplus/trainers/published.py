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
from artplus.training.callbacks import EpsWarmup, PatienceRamp, WarmStart
from artplus.training.steps import AWP, Free


def _pgd(eps: float, norm: float, steps: int, *, random_start: bool = True) -> PGD:
    """PGD with steps of length 2.5 eps / steps, the rule of Madry et al."""
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
    """Wang et al., 2020: PGD on the model's own loss; a boosted, misclassification-aware loss."""
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
    """A hinge on the margin at x'; PGD maximises the margin itself."""
    return Recipe(objective=hinge(lam=lam, kappa=kappa), attack=_pgd(eps, norm, steps))


@register_trainer("mse")
def mse_trainer(
    *, eps: float, norm: float = torch.inf, lam: Weight = 10.0, steps: int = 10
) -> Recipe:
    """Squared difference of the probabilities at x and x', which PGD maximises."""
    return Recipe(objective=mse(lam=lam), attack=_pgd(eps, norm, steps))


@register_trainer("logit_pairing")
def logit_pairing_trainer(
    *, eps: float, norm: float = torch.inf, lam: Weight = 0.5, steps: int = 10
) -> Recipe:
    """Kannan et al., 2018: clean and adversarial loss, and a penalty on the gap of the logits."""
    return Recipe(objective=logit_pairing(lam=lam), attack=_pgd(eps, norm, steps))


@register_trainer("input_gradient")
def input_gradient_trainer(
    *, lam: Weight = 0.1, gradient_norm: float = 2, squared: bool = False
) -> Recipe:
    """Ross and Doshi-Velez, 2018: a penalty on the input gradient, no attack."""
    return Recipe(objective=input_gradient(lam=lam, norm=gradient_norm, squared=squared))


@register_trainer("fgsm_rs")
def fgsm_rs_trainer(*, eps: float, warmup: float = 0.25) -> Recipe:
    """Wong et al., 2020: one L∞ step of 1.25 eps from a random start, the cheapest trainer.

    Differs from the paper: the radius is ramped over the first fraction ``warmup`` of training,
    because a large radius otherwise overfits catastrophically (accuracy under PGD falls to zero
    within an epoch), and the start is clipped to the valid range, as in their code for CIFAR-10.
    Differs from the authors' code: the attack sees the model in evaluation mode, where theirs stays
    in train mode, so that BatchNorm takes the statistics of the batch and counts it twice.
    """
    attack = PGD(eps=eps, steps=1, step_size=1.25 * eps, random_start=True)
    return Recipe(objective=at(), attack=attack, callbacks=(EpsWarmup(fraction=warmup),))


@register_trainer("awp")
def awp_trainer(
    *,
    eps: float,
    norm: float = torch.inf,
    steps: int = 10,
    gamma: float = 0.01,
    warmup: float = 0.0,
) -> Recipe:
    """Wu et al., 2020: adversarial training with perturbed weights."""
    step = AWP(gamma=gamma, warmup=warmup)
    return Recipe(objective=at(), attack=_pgd(eps, norm, steps), step=step)


@register_trainer("trades_awp")
def trades_awp_trainer(
    *,
    eps: float,
    norm: float = torch.inf,
    lam: Weight = 6.0,
    steps: int = 10,
    gamma: float = 0.005,
    warmup: float = 0.0,
) -> Recipe:
    """Wu et al., 2020: TRADES with perturbed weights.

    The authors' script takes ordinary steps in the first 10 of its 100 epochs: ``warmup=10``.
    """
    return Recipe(
        objective=trades(lam=lam),
        attack=_pgd(eps, norm, steps, random_start=False),
        step=AWP(gamma=gamma, warmup=warmup),
    )


@register_trainer("free")
def free_trainer(*, eps: float, norm: float = torch.inf, replays: int = 8) -> Recipe:
    """Shafahi et al., 2019: one backward pass moves weights and perturbation, eight times a batch.

    The weights move ``replays`` times a batch, so train for that many times fewer epochs.
    """
    attack = PGD(eps=eps, norm=norm, steps=1, step_size=eps)
    return Recipe(objective=at(), attack=attack, step=Free(replays))


@register_trainer("fat")
def fat_trainer(
    *, eps: float, norm: float = torch.inf, steps: int = 10, patience: int = 0
) -> Recipe:
    r"""Zhang et al., 2020: PGD that stops :math:`\tau` steps after an example is misclassified.

    :math:`\tau` is ``patience``, one more from 42 % of training on and two more from 75 %. Differs
    from the authors' script: no Gaussian noise of 0.001 is added to every step.
    """
    # The authors' step of 0.007 for a radius of 0.031.
    attack = PGD(eps=eps, norm=norm, steps=steps, step_size=0.007 / 0.031 * eps, patience=patience)
    return Recipe(objective=at(), attack=attack, callbacks=(PatienceRamp(),))


@register_trainer("atta")
def atta_trainer(
    *, eps: float, norm: float = torch.inf, steps: int = 1, reset: int | None = 10
) -> Recipe:
    """Zheng et al., 2020: one step an epoch from the end of the last epoch's attack; for arrays.

    The defaults are the authors' settings for CIFAR-10: one step of length 0.48 eps and a reset
    every ten epochs. Other numbers of steps use the authors' length for 1, 3 or 10 steps, whichever
    is next below.
    """
    # The authors' lengths at 1, 3 and 10 steps for a radius of 0.031.
    length = 0.015 if steps < 3 else 0.01 if steps < 10 else 0.007
    attack = PGD(
        eps=eps, norm=norm, steps=steps, step_size=length / 0.031 * eps, random_start=False
    )
    return Recipe(objective=at(), attack=attack, callbacks=(WarmStart(reset),))
