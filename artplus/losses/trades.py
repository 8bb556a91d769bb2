"""TRADES: trade clean accuracy against agreement on the attacked batch (Zhang et al., 2019)."""

from __future__ import annotations

from torch import Tensor

from artplus.functional import kl
from artplus.losses._base import Climb, Objective, Terms, Weight, register_loss
from artplus.model import LossModel


@register_loss("trades")
def trades(*, lam: Weight = 6.0) -> Objective:
    r"""Clean loss plus λ times the divergence between clean and attacked predictions [Zhang19]_.

    .. math:: l(f(x), y) + \lambda \, \mathrm{KL}(p(x) \,\|\, p(x')), \qquad
              x' = \arg\max \mathrm{KL}(p(x) \,\|\, p(x'))

    The attack climbs the same divergence, from a start off ``x`` (at ``x`` itself its gradient is
    zero): uniform in the ball if the attack has a random start, else 0.001 times Gaussian noise
    as in the authors' code. Gradients flow through both predictions.

    Differs from the authors' code: (1) the clean prediction inside the attack is computed once
    per batch, not once per step, with the same result; (2) the divergence is taken in log space,
    so no clamping; (3) both passes share one dropout mask; (4) BatchNorm: running statistics
    follow the clean batch only, so that λ = 0 is plain training, buffers included.

    Args:
        lam: The paper's β, >= 0; 6.0 for CIFAR-10, 1.0 for MNIST in the authors' scripts.

    References:
        .. [Zhang19] Zhang et al., "Theoretically principled trade-off between robustness and
           accuracy", ICML 2019, https://arxiv.org/abs/1901.08573
    """

    def inner(model: LossModel, x: Tensor, y: Tensor) -> Climb:
        clean = model(x).detach()
        return lambda x_adv: kl(clean, model(x_adv))

    def terms(model: LossModel, x: Tensor, x_adv: Tensor, y: Tensor) -> Terms:
        clean, adversarial = model.pair(x, x_adv)
        return Terms(
            fixed=model.loss(clean, y),
            scaled=kl(clean, adversarial),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("trades", terms, lam=lam, inner=inner, over_classes=True, start_noise=0.001)
