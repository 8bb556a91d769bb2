"""Are outputs the same every time, logits, and on a scale that attacks can use?"""

from __future__ import annotations

import math

import torch

from artplus.evaluation.checks._base import Check
from artplus.evaluation.checks._probe import Probe
from artplus.evaluation.wording import number, percent
from artplus.functional import class_index

CALLS = 5
DIFFERENCE = 1e-4
SUM = 1e-5
WITHHELD = 0.45


def random_outputs(probe: Probe) -> Check:
    """Largest L2 distance between normalised outputs of 5 passes; AutoAttack's flag, above 1e-4.

    Where the output is one number, the largest relative difference.
    """
    passes = [probe.predictions(f"pass {k}").reshape(len(probe), -1).double() for k in range(CALLS)]
    single = passes[0].shape[1] == 1  # divided by its own length it would be a sign
    unit = [
        out / ((passes[0] if single else out).norm(dim=1, keepdim=True) + 1e-10) for out in passes
    ]
    spread = max(
        float((a - b).norm(dim=1).max()) for k, a in enumerate(unit) for b in unit[k + 1 :]
    )
    if spread <= DIFFERENCE:
        return Check("random outputs", "ok", spread, "The same input gets the same output.")
    return Check(
        "random outputs",
        "suspicious",
        spread,
        f"The same input gets different outputs: {number(spread)} apart in {CALLS} passes. An "
        "attack follows the gradient of one draw and is scored by another.",
        "Average each gradient over draws (EoT): attack a module that returns the mean of some 20 "
        "passes, and score by it.",
    )


def softmax_outputs(probe: Probe) -> Check | None:
    """Are outputs probabilities, not logits? AutoAttack's flag, to 1e-5."""
    if not probe.classifies:
        return None
    out = probe.predictions("outputs").double()
    name, miss = "probabilities as outputs", float((out.sum(1) - 1).abs().max())
    if not (bool(out.min() > -SUM) and bool(out.max() < 1 + SUM) and miss < SUM):
        return Check(name, "ok", miss, "The outputs are logits, not probabilities.")
    return Check(
        name,
        "suspicious",
        miss,
        "The outputs are probabilities. A softmax of a softmax is nearly flat, and where the model "
        "is sure its gradient vanishes.",
        "Leave out the last softmax, and evaluate the logits.",
    )


def squeezed_logits(probe: Probe) -> Check | None:
    r"""Loss of right predictions beyond what the accuracy explains, in units of a guess's.

    .. math:: \frac{1}{\log K} \left( \operatorname{mean}_{\text{right}} l(x) - h(a) -
              (1 - a) \log(K - 1) \right), \quad h(a) = -a \log a - (1 - a) \log(1 - a)

    The term subtracted is Fano's bound: the least loss of a model of clean accuracy :math:`a` that
    is equally sure of every prediction; :math:`a` is the lower end of its 95 % interval. A net that
    has learnt little is unsure because it cannot tell the classes apart. A net that can and is
    unsure nevertheless has had its logits squeezed [Kannan18]_ or divided by a temperature: its
    loss surface is flat and noisy, and gradients of cross-entropy are misleading [Mosbach18]_. The
    check is our own: nets of 1 to 30 epochs on digits, wine, iris and breast cancer, hardened or
    not, give at most 0.35; with squeezing of weight 1 the figure is at least 0.65 on digits and
    0.42 on wine and breast cancer, whose accuracy on few examples is less certain.

    References:
        .. [Kannan18] Kannan et al., "Adversarial logit pairing", 2018,
           https://arxiv.org/abs/1803.06373
        .. [Mosbach18] Mosbach et al., "Logit pairing methods can fool gradient-based attacks",
           2018, https://arxiv.org/abs/1810.12042
    """
    interval = probe.report.clean_interval
    if not probe.classifies or interval is None:
        return None
    logits = probe.predictions("outputs").double()
    y = class_index(probe.data.y).cpu()
    right = logits.argmax(1) == y
    if not bool(right.any()):
        return None
    losses = torch.nn.functional.cross_entropy(logits[right], y[right], reduction="none")
    share = float(losses.mean()) / math.log(logits.shape[1])
    explained = fano(interval[0], logits.shape[1])
    figure, name = share - explained, "squeezed logits"
    text = (
        f"Where the model is right its loss is {percent(share)} of a guess's; its accuracy "
        f"explains {percent(explained)}"
    )
    if figure <= WITHHELD:
        return Check(name, "ok", figure, f"{text}.")
    return Check(
        name,
        "suspicious",
        figure,
        f"{text}. It predicts well and is hardly sure of its predictions: the loss is flat and "
        "noisy, and attacks that climb it fail.",
        "Use attacks that do not depend on the scale of logits (apgd_t, apgd_dlr, fab_t), more "
        "steps and restarts, and Square.",
    )


def fano(accuracy: float, classes: int) -> float:
    """Least mean loss of a model equally sure of everything, in units of a guess's, at most 1.

    Example:
        >>> fano(1.0, 10), round(fano(0.9, 2), 3), round(fano(0.1, 10), 3)
        (0.0, 0.469, 1.0)
    """
    if accuracy <= 1 / classes:
        return 1.0
    wrong = 1 - accuracy
    entropy = -sum(p * math.log(p) for p in (accuracy, wrong) if p)
    return (entropy + wrong * math.log(max(classes - 1, 1))) / math.log(classes)
