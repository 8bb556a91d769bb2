"""Continuous adversarial training of language models (Xhonneux et al., 2024)."""

from __future__ import annotations

from artplus import _checks
from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.losses._preference import answers, leaky, objective, spread, task_of
from artplus.model import LossModel
from artplus.tree import Tree


@register_loss("cat")
def cat(
    *,
    lam: Weight = 1.0,
    away: float = 0.5,
    toward: float = 0.5,
    away_cutoff: float = -5.0,
    toward_cutoff: float = 0.5,
    slope: float = 0.001,
) -> Objective:
    r"""Away from the answer to be avoided, toward the one wanted, under attack [Xhonneux24]_.

    .. math:: \ell(c \mid u) + \lambda \bigl(w_a \, g_{-5}(-\ell(r \mid p + \delta))
              + w_t \, g_{0.5}(\ell(c \mid p + \delta))\bigr), \qquad
              \delta = \arg\min_\delta \ell(r \mid p + \delta)

    where ℓ is the mean cross-entropy of an answer's tokens, r the rejected and c the chosen answer
    to the prompt p, u a prompt of utility data, and :math:`g_a(l) = l`, but
    :math:`a + 0.001\, l` below the cut-off a: a loss that is low enough stops pulling. Needs
    ``task="preference"``. The fixed term counts utility rows, the scaled one rows with a rejected
    answer, and only these are attacked; the authors mix 87.5 and 12.5 %.

    The perturbation of the prompt is that of :class:`~artplus.spaces.EmbeddingSpace` with
    ``per="token", relative=True``, ``norm=2`` and ``eps=0.05``; it is made once and used for both
    answers. The authors' script: LoRA of rank 64, learning rate 2e-4, 5 epochs, batches of 64.

    Differs from the authors' code: (1) cut-offs act on each row's loss, theirs on the batch's mean;
    (2) a row's toward loss weighs by the tokens of its rejected answer, as its away loss does;
    (3) their attack is ten steps of the sign of the gradient with rate 1e-4 inside the L2 ball of
    each token, ours PGD with steps of constant L2 norm; (4) both passes share one random stream,
    and dropout is off in the attack.

    Args:
        lam: Scales away and toward together; 1.0 as in the authors' configuration.
        away: Weight of the away term, >= 0.
        toward: Weight of the toward term, >= 0.
        away_cutoff: Least log-likelihood of the rejected answer, a mean over tokens, that is still
            pushed down in full.
        toward_cutoff: Least loss of the chosen answer that is still pushed down in full.
        slope: Below a cut-off, the share of the gradient that stays, >= 0.

    References:
        .. [Xhonneux24] Xhonneux et al., "Efficient adversarial training in LLMs with continuous
           attacks", NeurIPS 2024, https://arxiv.org/abs/2405.15589
    """
    for name, value in (("away", away), ("toward", toward), ("slope", slope)):
        _checks.nonnegative(name, value)

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        return lambda x_adv: model.loss(model(x_adv), y)

    def terms(ctx: Context) -> Terms:
        task, both = task_of(ctx), answers(ctx)
        surprise = task.surprise(both.own, ctx.y)
        pushed = leaky(-surprise[both.rows], away_cutoff, slope)
        pulled = leaky(task.surprise(both.wanted, both.wanted_targets), toward_cutoff, slope)
        scaled = spread(away * pushed + toward * pulled, both.rows, len(surprise))
        return Terms(fixed=surprise, scaled=scaled, adversarial=both.own)

    return objective("cat", terms, lam=lam, inner=inner)
