"""MART: the divergence is weighted by how unsure each prediction is (Wang et al., 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from artplus.functional import class_index, kl
from artplus.losses._base import Context, Objective, Terms, Weight, register_loss


@register_loss("mart")
def mart(*, lam: Weight = 5.0) -> Objective:
    r"""Boosted loss at x' plus λ times a misclassification-aware divergence [Wang20]_.

    .. math:: l(f(x'), y) - \log\bigl(1 - \max_{k \ne y} p_k(x')\bigr)
              + \lambda \, \mathrm{KL}(p(x) \,\|\, p(x')) \, (1 - p_y(x))

    The attack maximises the model's own loss. Gradients flow through both predictions and through
    the weight :math:`1 - p_y(x)`, as in the authors' code.

    Differs from the authors' code: (1) probabilities in log space instead of constants such as
    1.0001 and 1e-12 (:math:`1 - \max_{k \ne y} p_k` is the sum of the other probabilities, a
    log-sum-exp, so it never reaches log 0); (2) their attack starts at ``x`` plus 0.001 times
    Gaussian noise, here the attack chooses its start; (3) both passes share one dropout mask;
    (4) BatchNorm: running statistics follow the clean batch only. In published comparisons MART
    gains under PGD and loses under AutoAttack, so evaluate it with strong attacks.

    Args:
        lam: Weight of the divergence, >= 0; 5.0 in the authors' script (6.0 if their function
            is called by itself).

    References:
        .. [Wang20] Wang et al., "Improving adversarial robustness requires revisiting
           misclassified examples", ICLR 2020.
    """

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        index = class_index(ctx.y)[:, None]
        log_p_adv = adversarial.log_softmax(1)
        runner_up = log_p_adv.scatter(1, index, -torch.inf).argmax(1, keepdim=True)
        log_others = log_p_adv.scatter(1, runner_up, -torch.inf).logsumexp(1)
        boosted = ctx.loss(adversarial) - log_others
        uncertainty = 1 - F.softmax(clean, 1).gather(1, index).squeeze(1)
        return Terms(
            fixed=boosted,
            scaled=kl(clean, adversarial) * uncertainty,
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("mart", terms, lam=lam, over_classes=True)
