"""Virtual adversarial training: agreement around every example, labelled or not (Miyato, 2018)."""

from __future__ import annotations

import torch

from artplus.functional import labelled
from artplus.losses._base import Context, Objective, Terms, Weight, register_loss
from artplus.losses.trades import divergence_from_clean
from artplus.tree import detach


@register_loss("vat")
def vat(*, lam: Weight = 1.0) -> Objective:
    r"""Loss on labelled examples plus λ times the divergence around all [Miyato18]_.

    .. math:: \frac{1}{|S|} \sum_{i \in S} l(f(x_i), y_i)
              + \frac{\lambda}{N} \sum_i \mathrm{KL}(p(x_i) \,\|\, p(x_i + r_i)), \qquad
              r = \arg\max_{\|r\| \le \epsilon} \mathrm{KL}(p(x) \,\|\, p(x + r))

    S holds the examples with a label. In a classification the label -100 marks an example without
    one; it counts in the second term only, which needs no label. Accuracy is that of the labelled.

    The prediction p(x) in the second term takes no gradient, which is the difference from
    ``trades``. The method's attack is :class:`~artplus.attacks.PowerIteration`; any attack that
    climbs an inner loss works, and does not start at ``x``, where the gradient is zero.

    Differs from the authors' code: (1) the attack runs in evaluation mode, without dropout; (2)
    both passes share one dropout mask; (3) no entropy term; (4) BatchNorm: running statistics
    follow the clean batch only. For text they also normalise the embeddings by their frequency
    [Miyato17]_, which is the model's affair here: use a radius relative to the embeddings' norm.

    Args:
        lam: Weight of the divergence, >= 0; 1.0 in both papers.

    References:
        .. [Miyato17] Miyato, Dai and Goodfellow, "Adversarial training methods for semi-supervised
           text classification", ICLR 2017, https://arxiv.org/abs/1605.07725
        .. [Miyato18] Miyato et al., "Virtual adversarial training: a regularization method for
           supervised and semi-supervised learning", TPAMI 2018, https://arxiv.org/abs/1704.03976
    """

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        known = labelled(ctx.y) if ctx.task.over_classes else None
        if known is None:
            supervised = ctx.loss(clean)
        else:  # any class number serves where there is none, since it does not count
            supervised = ctx.task.loss(clean, ctx.y.clamp_min(0))
            supervised = torch.where(known, supervised, 0.0)
        return Terms(
            fixed=supervised,
            scaled=ctx.task.divergence(detach(clean), adversarial, ctx.y),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective(
        "vat",
        terms,
        lam=lam,
        inner=divergence_from_clean,
        divergent=True,
        start_noise=0.001,
        counts=lambda targets: (labelled(targets), None),
        unlabelled=True,
    )
