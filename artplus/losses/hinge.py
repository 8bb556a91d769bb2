"""A hinge on the multi-class margin of the attacked batch."""

from __future__ import annotations

from artplus import _checks
from artplus.functional import margin
from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.model import LossModel
from artplus.tree import Tree


@register_loss("hinge")
def hinge(*, lam: Weight = 1.0, kappa: float = 1.0) -> Objective:
    r"""Clean loss plus λ times the hinge of the margin at x' [Crammer01]_, [Carlini17]_.

    .. math:: l(f(x), y) + \lambda \max\bigl(0, \kappa + \max_{k \ne y} z_k(x') - z_y(x')\bigr)

    The attack maximises the margin without the hinge, so it does not stop where the hinge is zero.

    Some texts write :math:`\max(l(f(x'), y), -l(f(x), y))` for this objective. For a non-negative
    loss that is just :math:`l(f(x'), y)`, since the second argument is never positive; it is
    ``mix``. Here the hinge acts on the margin.
    BatchNorm: running statistics follow the clean batch.

    Args:
        lam: Weight of the hinge, >= 0.
        kappa: Required margin, >= 0, in units of the logits; 1.0 as in the multi-class SVM.

    References:
        .. [Crammer01] Crammer and Singer, "On the algorithmic implementation of multiclass
           kernel-based vector machines", JMLR 2001.
        .. [Carlini17] Carlini and Wagner, "Towards evaluating the robustness of neural
           networks", IEEE S&P 2017, https://arxiv.org/abs/1608.04644
    """
    _checks.nonnegative("kappa", kappa)

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        return lambda x_adv: margin(model(x_adv), y)

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        return Terms(
            fixed=ctx.loss(clean),
            scaled=(kappa + margin(adversarial, ctx.y)).clamp_min(0),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("hinge", terms, lam=lam, inner=inner, over_classes=True)
