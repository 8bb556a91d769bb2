"""CreAT: attack the hidden state of the sentence as well as its prediction (Wu et al., 2023)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from artplus import _checks
from artplus.losses._base import Climb, Objective, Weight, register_loss
from artplus.losses.mix import mix
from artplus.model import LossModel
from artplus.spaces import recording
from artplus.tree import Tree

Layer = str | int


@register_loss("creat")
def creat(*, lam: Weight = 1.0, temperature: float = 1.0, layer: Layer | None = None) -> Objective:
    r"""Clean loss plus λ times the loss at x', which also turns the hidden state away [Wu23]_.

    .. math:: l(f(x), y) + \lambda \, l(f(x'), y), \qquad
              x' = \arg\max \; l(f(x'), y) - \tau \cos(h(x'), h(x))

    h is the state of the first token (BERT's ``[CLS]``) after the last layer. The terms are those
    of ``mix``; what differs is what the attack climbs.

    Differs from the authors' code: (1) theirs is half of this at λ = 1; (2) the attack runs in
    evaluation mode, without dropout; (3) both passes of the terms share one dropout mask;
    (4) BatchNorm: running statistics follow the clean batch only.

    Args:
        lam: Weight of the adversarial term, >= 0; 1.0 weighs both alike, as the authors do.
        temperature: τ, >= 0; 1.0 in the paper.
        layer: The layer whose output is h, by name or number as in
            :class:`~artplus.spaces.LatentSpace`. ``None`` is the last of the model's longest list
            of layers, else the last sub-module but one, before the head. Of a sequence the first
            token counts, of other outputs everything.

    Raises:
        ConfigurationError: in training, for a layer that does not exist, or a compiled model.

    References:
        .. [Wu23] Wu et al., "Toward adversarial training on contextualized language
           representation", ICLR 2023, https://arxiv.org/abs/2305.04557
    """
    _checks.nonnegative("temperature", temperature)

    def inner(model: LossModel, x: Tree, y: Tree) -> Climb:
        site = _last(model.module) if layer is None else layer
        with torch.no_grad(), recording(model.module, [site]) as states:
            model(x)
        clean = _first_token(states[site])

        def climb(x_adv: Tree) -> Tensor:
            with recording(model.module, [site]) as states:
                losses = model.loss(model(x_adv), y)
            turned = nn.functional.cosine_similarity(_first_token(states[site]), clean, dim=1)
            return losses - temperature * turned

        return climb

    return replace(mix(lam=lam), name="creat", inner=inner, records=True)


def _last(module: nn.Module) -> Layer:
    """The last layer before the head, where none is named."""
    if any(isinstance(child, nn.ModuleList) and len(child) for child in module.modules()):
        return -1
    names = [name for name, _ in module.named_children()]
    return names[-2] if len(names) > 1 else names[-1] if names else ""


def _first_token(states: Tensor) -> Tensor:
    """The first token's state, ``(batch, width)``; all of it where there are no tokens."""
    return states[:, 0] if states.ndim == 3 else states.flatten(1)
