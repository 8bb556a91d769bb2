"""Methods for Vision Transformers and for encoders of images, with their papers' settings.

Optimizer, scheduler and augmentation are the user's; the docstrings say what the authors took.
"""

from __future__ import annotations

import torch
from torch import nn

from artplus.attacks import PGD
from artplus.losses import Weight, at, fare
from artplus.trainers._base import Recipe, register_trainer
from artplus.training.callbacks import EpsWarmup


@register_trainer("vit")
def vit_trainer(
    *, eps: float = 4 / 255, norm: float = torch.inf, steps: int = 1, warmup: float = 0.1
) -> Recipe:
    """Debenedetti et al., 2023: few steps of PGD, and a radius that grows at the beginning.

    From the authors' configuration for XCiT on ImageNet: radius 4/255, one step of 1.5 eps from a
    random start (two of 0.75 eps for XCiT-L12 and at 8/255), the loss at x' alone, and a radius
    that grows linearly over 10 of 100 epochs. They take AdamW with learning rate 5e-4 (cosine, 10
    epochs of warm-up) and the large weight decay 0.5, label smoothing 0.1, crops and flips, and no
    heavier augmentation (no mixup, CutMix, RandAugment, erasing).

    Differs from the authors' code: the step grows with the radius, there it is constant.
    """
    attack = PGD(eps=eps, norm=norm, steps=steps, step_size=1.5 * eps / steps)
    return Recipe(objective=at(), attack=attack, callbacks=(EpsWarmup(fraction=warmup),))


@register_trainer("tecoa")
def tecoa_trainer(
    *, eps: float = 4 / 255, norm: float = torch.inf, lam: Weight = 1.0, steps: int = 10
) -> Recipe:
    """Mao et al., 2023, as Schlarmann et al., 2024, train it: a zero-shot classifier under attack.

    The model is an :class:`~artplus.encoders.ZeroShot`. Ten steps of eps / 4, which are the
    authors' 1/255 at 4/255. They take AdamW with learning rate 1e-5 and weight decay 1e-4, 20,000
    batches of 128 (two epochs of ImageNet), and a cosine with 1,400 steps of warm-up.

    Differs from their code: no momentum in the attack. Theirs has no effect, since its velocity is
    brought to its sign in each step.
    """
    return Recipe(objective=at(lam=lam), attack=PGD(eps=eps, norm=norm, steps=steps))


@register_trainer("fare")
def fare_trainer(
    *,
    eps: float = 4 / 255,
    norm: float = torch.inf,
    lam: Weight = 1.0,
    steps: int = 10,
    reference: nn.Module | None = None,
) -> Recipe:
    """Schlarmann et al., 2024: features under attack stay where they were before training.

    Images need no labels. Attack and the authors' optimizer are those of ``tecoa``.
    """
    attack = PGD(eps=eps, norm=norm, steps=steps)
    return Recipe(objective=fare(lam=lam, reference=reference), attack=attack)
