"""SMART: smoothness around each example, and a step that stays near the last weights (2020)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.model import LossModel
from artplus.tasks import Task
from artplus.tree import Tree, detach

TEACHER = "teacher"
"""Name of the teacher's predictions in :attr:`~artplus.losses.Context.extras`."""


def symmetric(task: Task, a: Tree, b: Tree, y: Tree, *, held: bool = False) -> Tensor:
    """The task's divergence both ways, ``(batch,)``; with ``held`` each way holds its reference."""
    first, second = (detach(a), detach(b)) if held else (a, b)
    return task.divergence(first, b, y) + task.divergence(second, a, y)


@register_loss("smart")
def smart(
    *, lam: Weight = 1.0, mu: float = 0.0, variant: Literal["paper", "mt-dnn"] = "paper"
) -> Objective:
    r"""Clean loss plus λ times the symmetric divergence between x and x' [Jiang20]_.

    .. math:: l(f(x), y) + \lambda \, D(f(x), f(x')) + \mu \, D(f(x), \tilde f(x)), \qquad
              D(a, b) = \mathrm{KL}(a \,\|\, b) + \mathrm{KL}(b \,\|\, a)

    The attack maximises the first D, from :class:`~artplus.attacks.SMARTAttack`'s noise. With
    ``mu`` the last term, Bregman proximal point optimisation, keeps predictions near those of a
    teacher :math:`\tilde f`, whose weights are a moving average:
    :class:`~artplus.training.callbacks.Teacher` provides it. It takes no gradient. In a regression
    D is twice the squared difference.

    The authors' code differs from their paper, which ``variant="mt-dnn"`` follows: (1) it has no
    proximal term; (2) each half of D holds its reference constant, so only the other prediction
    gets its gradient; (3) the attack climbs :math:`2 \sum_k p'_k \, (r'_k - r_k)` with the log-odds
    :math:`r = \log \frac{p}{1 - p}`, held constant (classification only). Its attack differs most:
    see :class:`~artplus.attacks.SMARTAttack`.

    BatchNorm: running statistics follow the clean batch only. Both passes share one dropout mask.

    Args:
        lam: Weight of smoothness, >= 0: the paper's λ of 1, 3 or 5; 1 in the code.
        mu: Weight of the proximal term, >= 0; 1 in the paper. With 0 no teacher is needed.
        variant: ``"paper"`` or ``"mt-dnn"``.

    Raises:
        ConfigurationError: for another variant, ``mu`` with ``variant="mt-dnn"``, and in training
            for ``mu`` without a teacher.

    References:
        .. [Jiang20] Jiang et al., "SMART: robust and efficient fine-tuning for pre-trained natural
           language models through principled regularized optimization", ACL 2020,
           https://arxiv.org/abs/1911.03437
    """
    _checks.nonnegative("mu", mu)
    if variant not in ("paper", "mt-dnn"):
        raise ConfigurationError(f"variant must be 'paper' or 'mt-dnn', got {variant!r}")
    follows_code = variant == "mt-dnn"
    if mu and follows_code:
        raise ConfigurationError(
            f"variant='mt-dnn' has no proximal term, got mu={mu!r}; use variant='paper' with it"
        )

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        clean = detach(model(x))
        if follows_code:
            return lambda x_adv: _log_odds_gap(clean, model(x_adv))
        return lambda x_adv: symmetric(model.task, clean, model(x_adv), y)

    def terms(ctx: Context) -> Terms:
        clean, adversarial = ctx.pair()
        fixed = ctx.loss(clean)
        if mu:
            fixed = fixed + mu * symmetric(ctx.task, _teacher(ctx), clean, ctx.y)
        return Terms(
            fixed=fixed,
            scaled=symmetric(ctx.task, clean, adversarial, ctx.y, held=follows_code),
            clean=clean,
            adversarial=adversarial,
        )

    return Objective(
        "smart",
        terms,
        lam=lam,
        inner=inner,
        over_classes=follows_code,
        divergent=True,
        start_noise=1e-5,
    )


def _teacher(ctx: Context) -> Tree:
    """The teacher's predictions for ``x``."""
    if TEACHER not in ctx.extras:
        raise ConfigurationError(
            "loss 'smart' with mu > 0 compares with a teacher, and there is none: give "
            "callbacks=[Teacher()] of artplus.training.callbacks, or mu=0"
        )
    return detach(ctx.extras[TEACHER])


def _log_odds_gap(reference: Tensor, logits: Tensor) -> Tensor:
    """The authors' ``stable_kl`` of each example, ``(batch,)``."""
    p, q = logits.softmax(1), reference.softmax(1)
    gap = _log_odds(p) - _log_odds(q)
    return 2 * (p * gap.detach()).sum(1)


def _log_odds(p: Tensor, guard: float = 1e-6) -> Tensor:
    return -(1 / (p + guard) - 1 + guard).log()
