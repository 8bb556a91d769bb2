"""Are there gradients to follow? Indicator 1 of attack failure, AutoAttack's zero gradients."""

from __future__ import annotations

import torch

from artplus.evaluation.checks._base import Check, Level
from artplus.evaluation.checks._probe import Probe
from artplus.evaluation.wording import percent

SOME, MOST = 0.05, 0.5
"""Shares of examples with a gradient of zero. The authors of both warn at the first such example;
but a sound network that is very sure of one example in a hundred has one, too."""

_REMEDY = (
    "Replace what cannot be differentiated in the backward pass by a smooth stand-in, often the "
    "identity (BPDA), and evaluate that; add attacks on the margin (apgd_t) and Square."
)


def unavailable_gradients(probe: Probe) -> Check:
    r"""Share of examples where :math:`\nabla_x l(f(x), y)` is missing or exactly zero [Pintor22]_.

    References:
        .. [Pintor22] Pintor et al., "Indicators of attack failure: debugging and improving
           optimization of adversarial examples", NeurIPS 2022, https://arxiv.org/abs/2106.09947
    """
    name, gradients = "unavailable gradients", probe.gradients
    if gradients is None:
        return Check(
            name,
            "broken",
            1.0,
            "The loss does not depend on the input in a differentiable way, so no gradient attack "
            "can have worked.",
            _REMEDY,
        )
    share = float((gradients == 0).double().mean())
    level: Level = "broken" if share >= MOST else ("suspicious" if share > SOME else "ok")
    return Check(
        name,
        level,
        share,
        f"The gradient of the loss is exactly zero at {percent(share)} of the examples.",
        "" if level == "ok" else _REMEDY,
    )


def gradients_at_test_time(probe: Probe) -> Check | None:
    """Does a prediction itself run backward passes? AutoAttack's flag for dynamic defences.

    Counts the tensors that a backward pass reads from a graph, so a model that computes gradients
    without autograd is not detected.
    """
    reads = 0

    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal reads
        reads += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        probe.predictions("test-time gradients")
    if not reads:
        return Check(
            "test-time gradients", "ok", 0.0, "A prediction runs no backward pass of its own."
        )
    return Check(
        "test-time gradients",
        "suspicious",
        float(reads),
        "A prediction runs backward passes of its own, so the model optimises while it is being "
        "attacked. Gradients through that are partial at best.",
        "Write an attack on the whole procedure, or unroll it; AutoAttack's authors do not accept "
        "their own ensemble here.",
    )
