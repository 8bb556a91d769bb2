"""Adversarial training: the loss on the attacked batch alone (Madry et al., 2018)."""

from __future__ import annotations

from artplus.losses._base import Context, Objective, Terms, Weight, register_loss


@register_loss("at")
def at(*, lam: Weight = 1.0) -> Objective:
    r"""The loss at the worst case, with no clean term [Madry18]_.

    .. math:: \lambda \, l(f(x'), y), \qquad
              x' = \arg\max_{x' \in B(x, \epsilon)} l(f(x'), y)

    At ``eps=0`` this is exactly plain training, bit for bit. It does not differ from the paper.
    BatchNorm: running statistics follow the attacked batch, the only one in the loss.

    Args:
        lam: Scales the whole loss, and thereby the step of SGD; 1.0 in the paper. ``mix`` weighs
            clean against attacked examples.

    References:
        .. [Madry18] Madry et al., "Towards deep learning models resistant to adversarial
           attacks", ICLR 2018, https://arxiv.org/abs/1706.06083
    """

    def terms(ctx: Context) -> Terms:
        adversarial = ctx.model(ctx.x_adv)
        return Terms(scaled=ctx.loss(adversarial), adversarial=adversarial)

    return Objective("at", terms, lam=lam, has_fixed_term=False, clean_pass=False)
