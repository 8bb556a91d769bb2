"""Adversarial logit pairing: pull clean and attacked logits together (Kannan et al., 2018)."""

from __future__ import annotations

from artplus.losses._base import Context, Objective, Terms, Weight, register_loss


@register_loss("logit_pairing")
def logit_pairing(*, lam: Weight = 0.5) -> Objective:
    r"""Mean loss on both batches plus λ times the mean squared gap of their logits [Kannan18]_.

    .. math:: \tfrac12 \bigl(l(f(x), y) + l(f(x'), y)\bigr)
              + \frac{\lambda}{C} \, \|z(x) - z(x')\|_2^2

    The first part is the loss of the paper's mixed batch, half clean and half attacked. The
    attack maximises the model's own loss. A longer attack broke the published ImageNet robustness
    [Engstrom18]_: logit penalties can mask gradients, so evaluate with strong attacks.

    The gap is averaged over the C classes, as in the authors' code, which their λ refers to.

    Differs from the authors' code: (1) theirs attacks towards the least likely class and smooths
    the labels by 0.1; (2) both passes share one dropout mask; (3) BatchNorm: two passes, each with
    its own batch statistics, where theirs is one pass over both halves; running statistics follow
    the clean batch only.

    Args:
        lam: Weight of the pairing, >= 0; 0.5 in the authors' commands for ImageNet.

    References:
        .. [Kannan18] Kannan, Kurakin and Goodfellow, "Adversarial logit pairing", 2018,
           https://arxiv.org/abs/1803.06373
        .. [Engstrom18] Engstrom, Ilyas and Athalye, "Evaluating and understanding the robustness
           of adversarial logit pairing", 2018, https://arxiv.org/abs/1807.10272
    """

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        return Terms(
            fixed=(ctx.loss(clean) + ctx.loss(adversarial)) / 2,
            scaled=ctx.task.divergence(clean, adversarial, ctx.y, of="logits"),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("logit_pairing", terms, lam=lam, divergent=True)
