"""FARE: features under attack stay those of the encoder before training (Schlarmann, 2024)."""

from __future__ import annotations

from torch import nn

from artplus.losses._base import Climb, Context, Objective, Terms, Weight, register_loss
from artplus.losses._reference import reference as before_training
from artplus.model import LossModel
from artplus.tree import Tree


@register_loss("fare")
def fare(*, lam: Weight = 1.0, reference: nn.Module | None = None) -> Objective:
    r"""Features at x' near those that the encoder gave for x before training [Schlarmann24]_.

    .. math:: \lambda \, \|\phi(x') - \phi_0(x)\|_2^2, \qquad
              x' = \arg\max_{x' \in B(x, \epsilon)} \|\phi(x') - \phi_0(x)\|_2^2

    A sum over the features, which are not normalised. No labels and no texts are needed, so data
    may be images alone, and zero-shot classifiers and language models built on the encoder go on
    working with it. Needs ``task="features"``, which a vision model of Transformers tells by its
    class.

    :math:`\phi_0` is the model with its adapters switched off (PEFT), or the frozen copy
    ``reference``, which takes its memory once more.

    Differs from the authors' code: BatchNorm's running statistics follow the attacked batch, the
    only one in the loss. The recipe ``"fare"`` has their attack and radius.

    Args:
        lam: Scales the whole loss, and thereby the step of SGD; 1.0 in the paper.
        reference: The encoder before training: ``copy.deepcopy(encoder).requires_grad_(False)``.

    References:
        .. [Schlarmann24] Schlarmann et al., "Robust CLIP: unsupervised adversarial fine-tuning of
           vision embeddings for robust large vision-language models", ICML 2024,
           https://arxiv.org/abs/2402.12336
    """

    def target(model: LossModel, x: Tree) -> Tree:
        with before_training(model, reference, "fare") as base:
            return base(x)

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        fixed = target(model, x)
        return lambda x_adv: model.task.divergence(fixed, model(x_adv), y)

    def terms(ctx: Context) -> Terms:
        features = ctx.model(ctx.x_adv)
        moved = ctx.task.divergence(target(ctx.model, ctx.x), features, ctx.y)
        return Terms(scaled=moved, adversarial=features)

    return Objective(
        "fare",
        terms,
        lam=lam,
        inner=inner,
        task="features",
        has_fixed_term=False,
        clean_pass=False,
        supervised=False,
    )
