"""Continuous adversarial preference optimisation of language models (Xhonneux et al., 2024)."""

from __future__ import annotations

import math

from torch import nn

from artplus.errors import ConfigurationError
from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.losses._preference import answers, objective, spread, task_of
from artplus.losses._reference import reference as before_training
from artplus.model import LossModel
from artplus.tree import Tree


@register_loss("capo")
def capo(*, lam: Weight = 1.0, beta: float = 0.25, reference: nn.Module | None = None) -> Objective:
    r"""Prefer the answer wanted under attack, by the loss of IPO [Xhonneux24]_, [Azar24]_.

    .. math:: \ell(c \mid u) + \lambda \Bigl(
              \log\frac{\pi(c \mid p + \delta)}{\pi_0(c \mid p + \delta)}
              - \log\frac{\pi(r \mid p + \delta)}{\pi_0(r \mid p + \delta)}
              - \frac{1}{2\beta}\Bigr)^2

    with mean log-probabilities over an answer's tokens. π₀ is the model before training, at the
    same perturbation: adapters of PEFT are switched off, so it needs no second model. Rows, attack
    and perturbation are those of :func:`~artplus.losses.cat`. The gap to the reference bounds how
    far the model moves, so the authors train on no utility data; with some, its loss is the fixed
    term.

    Differs from the authors' code: (1) see :func:`~artplus.losses.cat`, (3) and (4); (2) a row
    weighs by the tokens of its rejected answer, all rows weigh alike there; (3) the reference is
    the unadapted model, where theirs is a second one.

    Args:
        lam: Weight of the preference; 1.0 in the authors' configuration.
        beta: β > 0: the smaller, the larger the gap of log-probabilities that is aimed at; 0.25 in
            the authors' configuration.
        reference: A frozen copy of the model before training, for models without adapters.

    References:
        .. [Azar24] Azar et al., "A general theoretical paradigm to understand learning from human
           preferences", AISTATS 2024, https://arxiv.org/abs/2310.12036
    """
    if not (isinstance(beta, (int, float)) and 0 < beta < math.inf):
        raise ConfigurationError(f"beta must be a finite number > 0, got {beta!r}")

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        return lambda x_adv: model.loss(model(x_adv), y)

    def terms(ctx: Context) -> Terms:
        task, both = task_of(ctx), answers(ctx)
        with before_training(ctx.model, reference, "capo") as base:
            rejected_before = task.surprise(base(both.rejected), both.targets)
            chosen_before = task.surprise(base(both.chosen), both.wanted_targets)
        surprise = task.surprise(both.own, ctx.y)
        chosen = chosen_before - task.surprise(both.wanted, both.wanted_targets)
        rejected = rejected_before - surprise[both.rows]
        gaps = (chosen - rejected - 1 / (2 * beta)).square()
        return Terms(
            fixed=surprise, scaled=spread(gaps, both.rows, len(surprise)), adversarial=both.own
        )

    return objective("capo", terms, lam=lam, inner=inner)
