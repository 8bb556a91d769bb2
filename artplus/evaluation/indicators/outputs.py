"""What comes out of the model: the same every time, logits, and on a scale that attacks can use."""

from __future__ import annotations

import math

import torch

from artplus.evaluation.finding import Finding
from artplus.evaluation.probe import Probe
from artplus.evaluation.wording import number, percent
from artplus.functional import class_index

CALLS = 5
DIFFERENCE = 1e-4
SUM = 1e-5
FLAT = 0.7


def random_outputs(probe: Probe) -> Finding:
    """Largest L2 distance between normalised outputs of 5 passes; AutoAttack's flag, above 1e-4."""
    passes = [probe.predictions(f"pass {k}").flatten(1).double() for k in range(CALLS)]
    unit = [out / (out.norm(dim=1, keepdim=True) + 1e-10) for out in passes]
    spread = max(
        float((a - b).norm(dim=1).max()) for k, a in enumerate(unit) for b in unit[k + 1 :]
    )
    if spread <= DIFFERENCE:
        return Finding("random outputs", "ok", spread, "The same input gets the same output.")
    return Finding(
        "random outputs",
        "suspicious",
        spread,
        f"The same input gets different outputs: {number(spread)} apart in {CALLS} passes. An "
        "attack follows the gradient of one draw and is scored by another.",
        "Average each gradient over draws (EoT): attack a module that returns the mean of some 20 "
        "passes, and score by it.",
    )


def softmax_outputs(probe: Probe) -> Finding | None:
    """Are outputs probabilities, not logits? AutoAttack's flag, to 1e-5."""
    if not probe.classifies:
        return None
    out = probe.predictions("outputs").double()
    name, miss = "probabilities as outputs", float((out.sum(1) - 1).abs().max())
    if not (bool(out.min() > -SUM) and bool(out.max() < 1 + SUM) and miss < SUM):
        return Finding(name, "ok", miss, "The outputs are logits, not probabilities.")
    return Finding(
        name,
        "suspicious",
        miss,
        "The outputs are probabilities. A softmax of a softmax is nearly flat, and where the model "
        "is sure its gradient vanishes.",
        "Leave out the last softmax, and evaluate the logits.",
    )


def squeezed_logits(probe: Probe) -> Finding | None:
    r"""Mean cross-entropy of right predictions in units of :math:`\log K`, that of a guess.

    Where right answers are hardly surer than guesses the loss surface is flat and noisy, as
    logit squeezing [Kannan18]_ makes it; gradients of cross-entropy then lead nowhere [Mosbach18]_.

    References:
        .. [Kannan18] Kannan et al., "Adversarial logit pairing", 2018,
           https://arxiv.org/abs/1803.06373
        .. [Mosbach18] Mosbach et al., "Logit pairing methods can fool gradient-based attacks",
           2018, https://arxiv.org/abs/1810.12042
    """
    if not probe.classifies:
        return None
    logits = probe.predictions("outputs").double()
    y = class_index(probe.bench.y).cpu()
    right = logits.argmax(1) == y
    if not bool(right.any()):
        return None
    losses = torch.nn.functional.cross_entropy(logits[right], y[right], reduction="none")
    share = float(losses.mean()) / math.log(logits.shape[1])
    name = "squeezed logits"
    text = f"Where the model is right its loss is {percent(share)} of a guess's"
    if share <= FLAT:
        return Finding(name, "ok", share, f"{text}: it tells right from wrong.")
    return Finding(
        name,
        "suspicious",
        share,
        f"{text}, so it is hardly surer of them than of the others: the loss is flat, and attacks "
        "that climb it are lost in its ripples.",
        "Use attacks that do not depend on the scale of logits (apgd_t, apgd_dlr, fab_t), more "
        "steps and restarts, and Square.",
    )
