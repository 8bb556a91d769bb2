"""Squared distance between clean and attacked probabilities (Sriramanan et al., 2020)."""

from __future__ import annotations

from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.model import LossModel
from artplus.tree import Tree, detach


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

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        clean = detach(model(x))
        return lambda x_adv: model.task.divergence(clean, model(x_adv), y, of="probabilities")

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        return Terms(
            fixed=ctx.loss(clean),
            scaled=ctx.task.divergence(clean, adversarial, ctx.y, of="probabilities"),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("mse", terms, lam=lam, inner=inner, divergent=True, start_noise=0.001)
