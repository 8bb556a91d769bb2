"""Squared distance between clean and attacked probabilities (Sriramanan et al., 2020)."""

from __future__ import annotations

from torch import Tensor

from artplus.functional import squared_probability_gap
from artplus.losses._base import Climb, Objective, Terms, Weight, register_loss
from artplus.model import LossModel


@register_loss("mse")
def mse(*, lam: Weight = 10.0) -> Objective:
    r"""Clean loss plus λ times the squared gap of the probabilities [Sriramanan20]_.

    .. math:: l(f(x), y) + \lambda \, \|p(x) - p(x')\|_2^2

    The attack climbs the same gap, from a start off ``x`` as in TRADES.

    Differs from the authors' code (GAT): (1) they attack from random signs with one step on the
    cross-entropy plus λ times this gap (for CIFAR-10 the gap joins in every other batch); (2) they
    raise λ late in training, fourfold for CIFAR-10 and threefold each quarter for MNIST: give a
    schedule for that; (3) one dropout mask for both passes; (4) BatchNorm: running statistics
    follow the clean batch only.

    Args:
        lam: Weight of the gap, >= 0. 10.0 is the authors' for CIFAR-10, 15.0 for MNIST.

    References:
        .. [Sriramanan20] Sriramanan et al., "Guided adversarial attack for evaluating and
           enhancing adversarial defenses", NeurIPS 2020, https://arxiv.org/abs/2011.14969
    """

    def inner(model: LossModel, x: Tensor, y: Tensor) -> Climb:
        clean = model(x).detach()
        return lambda x_adv: squared_probability_gap(clean, model(x_adv))

    def terms(model: LossModel, x: Tensor, x_adv: Tensor, y: Tensor) -> Terms:
        clean, adversarial = model.pair(x, x_adv)
        return Terms(
            fixed=model.loss(clean, y),
            scaled=squared_probability_gap(clean, adversarial),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("mse", terms, lam=lam, inner=inner, over_classes=True, start_noise=0.001)
