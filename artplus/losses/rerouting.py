"""Representation rerouting, the method of circuit breakers (Zou et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus import _checks
from artplus.losses._base import Context, Objective, Terms, Weight, register_loss
from artplus.losses._preference import objective
from artplus.losses._reference import reference as before_training
from artplus.spaces import recording
from artplus.spaces.hidden import attended
from artplus.spaces.latent import numbered_layers

AUTHORS_LAYERS, AUTHORS_DEPTH = (9, 19), 32
"""Blocks after which the authors reroute: ``hidden_states[10]`` and ``[20]`` of 32 blocks."""


@register_loss("rerouting")
def rerouting(
    *,
    lam: Weight = 1.0,
    alpha: float = 10.0,
    layers: Sequence[str | int] | None = None,
    reference: nn.Module | None = None,
) -> Objective:
    r"""Turn the hidden states of answers to be avoided away from what they were [Zou24]_.

    .. math:: \alpha \tfrac{t}{2} \, \overline{\|h(u) - h_0(u)\|_2}
              + \lambda \, \alpha \bigl(1 - \tfrac{t}{2}\bigr) \,
              \overline{\max\bigl(0, \cos(h(r), h_0(r))\bigr)}

    with means over layers and tokens; t is the fraction of training done, h₀ are the hidden states
    before training (adapters off). The first term keeps utility rows where they were, at all
    layers; the second turns rows with a rejected answer, at ``layers``. No attack is needed. The
    chosen answer of such a row is not used: give refusals to be kept as utility rows. Needs
    ``task="preference"``.

    At λ = 0 the model is held where it is; this is not plain training. The method stops attacks by
    prompts better than attacks on embeddings, which [Schwinn24]_ and later work report to succeed:
    evaluate both.

    Differs from the authors' code: (1) the mean of a row is over its own tokens, theirs over the
    padded batch; (2) the embedding's output, which LoRA does not change, is left out of the first
    mean. Their script trains LoRA of rank 16 for 150 steps of 16 with learning rate 1e-4.

    Args:
        lam: Scales the second term alone.
        alpha: α >= 0, the weight of both; 10 for Llama-3-8B, 5 for Mistral-7B in the authors'
            scripts.
        layers: Where the second term acts: names or numbers as in
            :class:`~artplus.spaces.LatentSpace`. ``None`` is the authors' 10th and 20th of 32
            layers, scaled to the model's depth.
        reference: A frozen copy of the model before training, for models without adapters.

    References:
        .. [Zou24] Zou et al., "Improving alignment and robustness with circuit breakers",
           NeurIPS 2024, https://arxiv.org/abs/2406.04313
        .. [Schwinn24] Schwinn and Geisler, "Revisiting the robust alignment of circuit breakers",
           2024, https://arxiv.org/abs/2407.15902
    """
    _checks.nonnegative("alpha", alpha)

    def terms(ctx: Context) -> Terms:
        module, tokens = ctx.model.module, attended(ctx.x)
        every = range(len(numbered_layers(module)))
        targets = _scaled_to(len(every)) if layers is None else tuple(layers)
        sites = tuple(dict.fromkeys([*every, *targets]))
        with recording(module, sites) as states:
            own = ctx.model(ctx.x)
        with before_training(ctx.model, reference, "rerouting") as base:  # noqa: SIM117
            with recording(base.module, sites) as before:
                base(ctx.x)
        moved = [(states[k].float() - before[k].float()).norm(dim=-1) for k in every]
        alike = [F.cosine_similarity(states[k].float(), before[k].float(), -1) for k in targets]
        done = ctx.progress / 2
        # Data parallelism waits for a gradient of every weight, also of those after the last layer.
        unused = 0 * ctx.loss(own)
        return Terms(
            fixed=alpha * done * _mean(moved, tokens) + unused,
            scaled=alpha * (1 - done) * _mean([c.clamp_min(0) for c in alike], tokens),
            clean=own,
        )

    return objective("rerouting", terms, lam=lam, attacked=False, records=True)


def _scaled_to(depth: int) -> tuple[int, ...]:
    """The authors' layers in a model of so many."""
    numbers = (round((k + 1) * depth / AUTHORS_DEPTH) - 1 for k in AUTHORS_LAYERS)
    return tuple(dict.fromkeys(max(0, number) for number in numbers))


def _mean(values: Sequence[Tensor], tokens: Tensor) -> Tensor:
    """Mean over layers, and over the tokens that are no padding, ``(batch,)``."""
    return (torch.stack(list(values)).mean(0) * tokens).sum(1) / tokens.sum(1)
