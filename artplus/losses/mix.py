"""The λ-weighted mix of clean and adversarial loss (Goodfellow et al., 2015)."""

from __future__ import annotations

from artplus.losses._base import Context, Objective, Terms, Weight, register_loss


@register_loss("mix")
def mix(*, lam: Weight = 1.0) -> Objective:
    r"""Clean loss plus λ times the loss on the attacked batch [Goodfellow15]_.

    .. math:: l(f(x), y) + \lambda \, l(f(x'), y)

    Differs from the paper: it uses :math:`\alpha l(x) + (1 - \alpha) l(x')` with
    :math:`\alpha = 0.5`; λ = 1 is twice that. Works for any loss per example.
    BatchNorm: running statistics follow the clean batch.

    Args:
        lam: Weight of the adversarial term, >= 0. 1.0 weighs both equally, like the paper's 0.5.

    References:
        .. [Goodfellow15] Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
           examples", ICLR 2015, https://arxiv.org/abs/1412.6572
    """

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        return Terms(
            fixed=ctx.loss(clean),
            scaled=ctx.loss(adversarial),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("mix", terms, lam=lam)
