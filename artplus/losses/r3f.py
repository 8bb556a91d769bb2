"""R3F: predictions agree under noise, at the cost of one more pass (Aghajanyan et al., 2021)."""

from __future__ import annotations

from artplus.losses._base import Context, Objective, Terms, Weight, register_loss
from artplus.losses.smart import symmetric


@register_loss("r3f")
def r3f(*, lam: Weight = 1.0) -> Objective:
    r"""Clean loss plus λ times the symmetric divergence between x and x + noise [Aghajanyan21]_.

    .. math:: l(f(x), y) + \lambda \bigl( \mathrm{KL}(p(x) \,\|\, p(x + z))
              + \mathrm{KL}(p(x + z) \,\|\, p(x)) \bigr), \qquad z \sim U(-\epsilon, \epsilon)

    Its attack is :class:`~artplus.attacks.Noise`, which needs no gradient. With another attack it
    is ``smart`` with the model's own loss as what the attack climbs.

    Differs from the authors' code: (1) the embeddings in the noisy pass take their gradient, where
    theirs are detached (they differ only in the gradient of the embedding's weights); (2) both
    passes share one dropout mask; (3) BatchNorm: running statistics follow the clean batch only.

    Args:
        lam: Weight of the divergence, >= 0; 1.0 in the authors' code, 0.7 for RTE.

    References:
        .. [Aghajanyan21] Aghajanyan et al., "Better fine-tuning by reducing representational
           collapse", ICLR 2021, https://arxiv.org/abs/2008.03156
    """

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        return Terms(
            fixed=ctx.loss(clean),
            scaled=symmetric(ctx.task, clean, adversarial, ctx.y),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective("r3f", terms, lam=lam, divergent=True)
