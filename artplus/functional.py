"""The losses of the field, per example and unreduced: ``(batch, classes) -> (batch,)``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus._checks import UNLABELLED


def labelled(y: object) -> Tensor | None:
    """Which examples have a label, ``(batch,)`` booleans, by their class numbers.

    ``None`` for other targets than class numbers ``(batch,)``, none of which lack a label.

    Example:
        >>> labelled(torch.tensor([2, -100]))
        tensor([ True, False])
    """
    if not isinstance(y, Tensor) or y.ndim != 1 or y.is_floating_point():
        return None
    return y != UNLABELLED


def class_index(y: Tensor) -> Tensor:
    """Class numbers ``(batch,)`` of labels given as numbers or as one-hot or soft rows."""
    if y.ndim != 2:
        return y
    return (y.byte() if y.dtype == torch.bool else y).argmax(1)  # torch finds no largest boolean


def other_class(y: Tensor, classes: int, generator: torch.Generator | None = None) -> Tensor:
    """For each label a class ``(batch,)`` other than it, drawn uniformly."""
    device = y.device if generator is None else generator.device
    shift = torch.randint(1, classes, (len(y),), generator=generator, device=device)
    return (class_index(y) + shift.to(y.device)) % classes


def are_probabilities(outputs: Tensor) -> bool:
    """Whether outputs ``(batch, classes)`` are probabilities: not negative, rows summing to 1."""
    sums = outputs.sum(1)
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())


def probabilities(outputs: Tensor) -> Tensor:
    """Probabilities ``(batch, classes)`` of class outputs: their softmax.

    Outputs that are probabilities already stay as they are, so that a model which ends in a softmax
    is not softened twice.
    """
    return outputs if are_probabilities(outputs) else outputs.softmax(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    r"""Cross-entropy :math:`-\sum_k y_k \log p_k`; ``y`` as class numbers or soft rows."""
    return F.cross_entropy(logits, y, reduction="none")


def kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    r"""Divergence :math:`\mathrm{KL}(p \,\|\, q)` of two softmax outputs, in log space.

    Differentiable in both arguments; exact (no ``log(p + 1e-12)``), so it stays finite and keeps
    its gradient where a probability underflows.
    """
    log_p, log_q = logits_p.log_softmax(1), logits_q.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r"""Multi-class margin :math:`\max_{k \ne y} z_k - z_y`: positive where the model errs."""
    index = class_index(y)[:, None]
    others = logits.scatter(1, index, -torch.inf)
    return others.amax(1) - logits.gather(1, index).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    r"""Difference of logits ratio [Croce20]_: scale-free, so softmax temperature cannot mask it.

    .. math:: -\frac{z_y - \max_{k \ne y} z_k}{z_{\pi_1} - z_{\pi_3}}

    where :math:`\pi` sorts the logits downwards. Needs at least three classes.

    References:
        .. [Croce20] Croce and Hein, "Reliable evaluation of adversarial robustness with an
           ensemble of diverse parameter-free attacks", ICML 2020.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    r"""Targeted DLR [Croce20]_: rises as class ``target`` overtakes class ``y``.

    .. math:: -\frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

    Needs at least four classes.
    """
    top = logits.topk(4, dim=1).values
    z_y = logits.gather(1, class_index(y)[:, None]).squeeze(1)
    z_t = logits.gather(1, target[:, None]).squeeze(1)
    return (z_t - z_y) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def squared_probability_gap(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    r"""Squared distance :math:`\|p - q\|_2^2` of two softmax outputs, in [0, 2]."""
    return (logits_p.softmax(1) - logits_q.softmax(1)).square().sum(1)


def mean_squared_logit_gap(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    r"""Squared distance of two logit vectors over their C classes, :math:`\|z - z'\|_2^2 / C`."""
    return (logits_p - logits_q).square().mean(1)


GAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "probabilities": squared_probability_gap,
    "logits": mean_squared_logit_gap,
}
"""Gaps between two predictions ``(batch, classes, ...)``, each ``(batch, ...)``."""


def smooth_labels(y: Tensor, classes: int, smoothing: float) -> Tensor:
    r"""Soft labels :math:`(1 - s)\,\mathrm{onehot}(y) + s / C`, ``(batch, classes)`` floats.

    Rows of zeros, whose cross-entropy is zero, for examples without a label.
    """
    if y.ndim == 2:
        return y.float() * (1 - smoothing) + smoothing / classes
    known = F.one_hot(y.long().clamp_min(0), classes).float()
    return (known * (1 - smoothing) + smoothing / classes) * (y != UNLABELLED)[:, None]


def weights_by_class(y: Tensor, class_weight: Tensor) -> Tensor:
    """What each label weighs, ``(batch,)``; soft rows as their classes do on average.

    An example without a label weighs one.
    """
    per_class = class_weight.to(y.device)
    if y.ndim == 2:
        return y.to(per_class) @ per_class
    return torch.where(y == UNLABELLED, 1.0, per_class[y.clamp_min(0)])
