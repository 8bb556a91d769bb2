"""TRADES: trade clean accuracy against agreement on the attacked batch (Zhang et al., 2019)."""

from __future__ import annotations

from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.model import LossModel
from artplus.tree import Tree, detach


@register_loss("trades")
def trades(*, lam: Weight = 6.0) -> Objective:
    r"""Clean loss plus λ times the divergence between clean and attacked predictions [Zhang19]_.

    .. math:: l(f(x), y) + \lambda \, \mathrm{KL}(p(x) \,\|\, p(x')), \qquad
              x' = \arg\max \mathrm{KL}(p(x) \,\|\, p(x'))

    The attack maximises the same divergence. It does not start at ``x``, where the gradient is
    zero, but at a uniformly random point of the ball if the attack has a random start, else at
    ``x`` plus 0.001 times Gaussian noise as in the authors' code. Gradients flow through both
    predictions.

    The task defines the divergence: KL of class probabilities (for maps and sequences per pixel or
    token), and the squared difference in a regression.

    Differs from the authors' code: (1) the clean prediction inside the attack is computed once
    per batch, not once per step, with the same result; (2) the divergence is computed in log
    space without clamping; (3) both passes share one dropout mask; (4) BatchNorm: running
    statistics follow the clean batch only, so that λ = 0 is plain training, buffers included; (5)
    the noise at the start is clipped to the valid range, where theirs is not, so that the first
    gradient is taken at a valid input.

    Args:
        lam: The paper's β, >= 0; 6.0 for CIFAR-10, 1.0 for MNIST in the authors' scripts.

    References:
        .. [Zhang19] Zhang et al., "Theoretically principled trade-off between robustness and
           accuracy", ICML 2019, https://arxiv.org/abs/1901.08573
    """

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        return Terms(
            fixed=ctx.loss(clean),
            scaled=ctx.task.divergence(clean, adversarial, ctx.y),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective(
        "trades",
        terms,
        lam=lam,
        inner=divergence_from_clean,
        divergent=True,
        start_noise=0.001,
    )


def divergence_from_clean(model: LossModel, x: Tree, y: Tree) -> Climb:
    """The divergence from the prediction at ``x``, which is computed once."""
    clean = detach(model(x))
    return lambda x_adv: model.task.divergence(clean, model(x_adv), y)
