"""Squared distance between clean and attacked probabilities (Sriramanan et al., 2020)."""

from __future__ import annotations

from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.model import LossModel
from artplus.tree import Tree, detach


@register_loss("mse")
def mse(*, lam: Weight = 10.0) -> Objective:
    r"""Clean loss plus λ times the squared gap of the probabilities [Sriramanan20]_.

    .. math:: l(f(x), y) + \lambda \, \|p(x) - p(x')\|_2^2

    The attack maximises the same gap; as in TRADES it does not start exactly at ``x``.

    Differs from the authors' code (GAT): (1) theirs starts the attack at random signs and
    takes one step on the cross-entropy plus λ times this gap (on CIFAR-10 without the gap in every
    other batch);
    (2) they raise λ late in training, fourfold for CIFAR-10 and threefold each quarter for MNIST;
    pass a schedule for that; (3) both passes share one dropout mask; (4) BatchNorm: running
    statistics follow the clean batch only.

    Args:
        lam: Weight of the gap, >= 0. The authors use 10.0 for CIFAR-10 and 15.0 for MNIST.

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
