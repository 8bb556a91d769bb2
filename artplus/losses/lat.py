"""Latent adversarial training of language models (Sheshadri et al., 2024)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.losses._preference import answers, objective, spread, task_of
from artplus.losses._reference import reference as before_training
from artplus.model import LossModel
from artplus.spaces.hidden import carry
from artplus.tree import Tree

UNLIKELY = -5.0
"""Log-probability below which a token is pushed no further, as in HarmBench's loss."""


@register_loss("lat")
def lat(
    *,
    lam: Weight = 2 / 3,
    away: float = 0.5,
    toward: float = 0.5,
    utility: Literal["sft", "kl"] = "sft",
    reference: nn.Module | None = None,
) -> Objective:
    r"""Toward the answer wanted and away from the other one, at hidden states under attack.

    Targeted latent adversarial training [Sheshadri24]_ minimises

    .. math:: L_u + \lambda \bigl(w_t \, \ell(c \mid p + \delta) - w_a \,
              \overline{\log(1 - \pi(r_t \mid p + \delta))}\bigr), \qquad
              \delta = \arg\min_\delta \, w_t \, \ell(r \mid p + \delta) - w_a \,
              \overline{\log(1 - \pi(c_t \mid p + \delta))}

    with means over an answer's tokens; tokens with :math:`\log \pi < -5` are away already. The
    attack has the two answers exchanged. The utility term :math:`L_u` is the cross-entropy of the
    answer wanted, or with ``utility="kl"`` the divergence from the model before training. Needs
    ``task="preference"``; rows are those of :func:`~artplus.losses.cat`.

    The authors perturb prompts at the embedding and at layers 8, 16, 24 and 30 of a 32-layer model,
    L2 ≤ 6 a token: ``LatentSpace(["embed_tokens", 8, 16, 24, 30], per="token")``, ``eps=6``,
    ``norm=2``. They train LoRA of rank 64 with learning rate 2e-5 for 100 attacks with four steps
    of the weights after each.

    Differs from the authors' code: (1) their attack takes 16 steps of AdamW with rate 0.05, ours is
    PGD; (2) one step of the weights follows each attack; (3) each term is a mean over rows weighed
    by the tokens of the row's own answer, theirs over all tokens; (4) they perturb the output of
    a layer's MLP, a ``LatentSpace`` that of the layers it names; (5) their KL term is divided by
    its own value in each step, ours is not.

    Args:
        lam: Scales away and toward together. The authors weigh toward, away and utility by 0.5,
            0.5 and 1.5 and divide by the sum, hence 2/3; with ``utility="kl"`` by 0.5, 0.5 and 0.1,
            hence 10.
        away: Weight of the away terms of training and attack, >= 0; without it attacks cost half.
        toward: Weight of the toward terms, >= 0.
        utility: ``"sft"`` or ``"kl"``.
        reference: With ``"kl"``, a frozen copy of the model before training, for models without
            adapters.

    References:
        .. [Sheshadri24] Sheshadri et al., "Latent adversarial training improves robustness to
           persistent harmful behaviors in LLMs", 2024, https://arxiv.org/abs/2407.15549
    """
    for name, value in (("away", away), ("toward", toward)):
        _checks.nonnegative(name, value)
    if utility not in ("sft", "kl"):
        raise ConfigurationError(f"utility must be 'sft' or 'kl', got {utility!r}")
    if reference is not None and utility != "kl":
        raise ConfigurationError("reference= is for utility='kl'; leave it out")

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        task = model.task
        chosen, wanted = task.chosen(y)  # type: ignore[attr-defined]  # `task=` of the objective

        def climb(x_adv: Tree) -> object:
            value = toward * model.loss(model(x_adv), y)
            if not away:
                return value
            others = task.likelihood_of_others(  # type: ignore[attr-defined]
                model(carry(x_adv, chosen)), wanted, UNLIKELY
            )
            return value + away * others

        return climb  # type: ignore[return-value]

    def terms(ctx: Context) -> Terms:
        task, both = task_of(ctx), answers(ctx)
        surprise = task.surprise(both.own, ctx.y)
        fixed = surprise
        if utility == "kl":
            with before_training(ctx.model, reference, "lat") as base:
                before = base(ctx.x)
            fixed = task.divergence(both.own, before, ctx.y)
        others = task.likelihood_of_others(both.own, ctx.y, UNLIKELY)[both.rows]
        scaled = toward * task.surprise(both.wanted, both.wanted_targets) - away * others
        return Terms(
            fixed=fixed, scaled=spread(scaled, both.rows, len(surprise)), adversarial=both.own
        )

    return objective("lat", terms, lam=lam, inner=inner)
