"""What can be proven of a plain network: accuracy certified by interval bounds, in L∞."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    ball_of,
    first,
    need_classes,
    register_analysis,
)
from artplus.evaluation.analyses._measure import Bools, labels, share, shares
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Section
from artplus.spaces import InputSpace

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the report's radius: interval bounds of a network not trained for them hold near 0 only."""

_MONOTONE = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.Hardtanh, nn.ReLU6)
_BOX_TO_BOX = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Unflatten,
               nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
               nn.MaxPool1d, nn.MaxPool2d)  # fmt: skip
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, *_BATCH_NORM)


@register_analysis("interval")
@dataclass(frozen=True, kw_only=True)
class IntervalBounds:
    r"""Certified accuracy by interval bound propagation, for plain sequences of layers.

    Lower and upper bounds go through the layers [Gowal18]_: with centre :math:`\mu` and radius
    :math:`r` of the box, an affine layer gives

    .. math:: \mu' = W \mu + b, \qquad r' = |W| \, r

    and a monotone one is applied to both ends. An example is certified if the lower bound of
    :math:`z_y - z_k` is positive for every wrong class, with the last layer folded into the
    difference. Then no perturbation within ``eps`` in L∞ changes the prediction, whatever the
    attack. Bounds are computed in double precision and shrunk by a margin for rounding. They are
    loose: of a network that was not trained for them they certify little beyond tiny radii, which
    says nothing against the network.

    Args:
        eps: Radii, in the units of ``x``; default: :data:`FRACTIONS` of the report's radius.
        n: Number of examples, the first; ``None`` is all.

    Raises:
        ConfigurationError: in regression, if the report's norm is not L∞, or for a model that is
            no sequence of layers whose bounds are known here.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[IntervalBounds()], progress=False,
        ... )
        >>> figures = dict(report.sections[0].figures)
        >>> figures["certified_accuracy"] <= figures["attacked_accuracy"]
        True

    References:
        .. [Gowal18] Gowal et al., "On the effectiveness of interval bound propagation for training
           verifiably robust models", 2018, https://arxiv.org/abs/1810.12715
    """

    eps: Sequence[float] | None = None
    n: int | None = 500

    def __post_init__(self) -> None:
        if self.n is not None:
            _checks.count("n", self.n)
        radii = [_checks.nonnegative("eps", radius) for radius in self.eps or ()]
        if radii != sorted(set(radii)):
            raise ConfigurationError(f"eps must be ascending radii, got {self.eps!r}")

    def check(self, setting: Setting) -> None:
        """Refuse regressions, other norms, and other models than plain sequences."""
        need_classes(setting, "interval")
        _, norm = ball_of(setting, "interval")
        if not math.isinf(norm):
            raise ConfigurationError(
                f"interval bounds are for L∞, and the report is about {wording.norm_name(norm)}; "
                "for L2 there is 'smoothing'"
            )
        chain(setting.data)

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        eps, norm = ball_of(subject, "interval")
        index = first(subject, self.n)
        radii = list(self.eps or sorted({fraction * eps for fraction in FRACTIONS}))
        held = {radius: certified(subject.data, index, radius) for radius in radii}
        at = share(held[eps] if eps in held else certified(subject.data, index, eps))[0]
        robust = subject.report.correct_robust
        upper = None if robust is None else float(robust[index.numpy()].mean())
        kind = certified_kind(subject.estimator)
        return Section(
            name="interval",
            title="Certified by interval bounds",
            summary=(
                f"{wording.percent(at)} are provably right within {wording.ball(norm, eps)}; the "
                f"attacks leave {wording.percent(upper)}. The truth lies between."
            ),
            blocks=(
                Curves(
                    x_label=f"{wording.norm_name(norm)} radius",
                    y_label="certified accuracy",
                    series=(shares("certified", radii, [held[radius] for radius in radii]),),
                    caption="Share of examples that no perturbation within the radius can turn.",
                ),
            ),
            figures=(
                ("certified_accuracy", at),
                *((("attacked_accuracy", upper),) if upper is not None else ()),
            ),
            notes=(
                f"Interval bounds in double precision, the first {len(index)} of "
                f"{subject.report.n} examples. Loose for a network not trained for them.",
                *((kind,) if kind else ()),
            ),
        )


def chain(data: EvaluationData) -> list[nn.Module]:
    """The model as a sequence of layers whose bounds are known, in double precision.

    Raises:
        ConfigurationError: with the first layer that is not, or if the model does more than its
            layers.
    """
    model = data.model
    layers = _flat(model.forward if isinstance(model.forward, nn.Module) else model.module)
    for layer in layers:
        if type(layer) not in (*_MONOTONE, *_BOX_TO_BOX, *_AFFINE):
            raise ConfigurationError(
                f"interval bounds are known here for sequences of Linear, Conv, BatchNorm, "
                f"pooling, flattening and monotone activations, not for {type(layer).__name__}"
            )
        slope = {nn.LeakyReLU: "negative_slope", nn.ELU: "alpha"}.get(type(layer))
        if slope is not None and getattr(layer, slope) < 0:
            raise ConfigurationError("interval bounds need monotone activations")
        if isinstance(layer, _BATCH_NORM) and layer.running_var is None:
            raise ConfigurationError("interval bounds need a BatchNorm with running statistics")
    exact = [_double(layer) for layer in layers]
    x = data.x[:8].to(data.device)
    with torch.no_grad():
        own = x.double()
        for layer in exact:
            own = layer(own)
        given = data.model(x).double()
        if given.shape != own.shape or not torch.allclose(given, own, rtol=1e-3, atol=1e-3):
            raise ConfigurationError(
                "interval bounds need a model that is nothing but its layers: this one computes "
                "something else (preprocessing, or a forward of its own)"
            )
    return exact


def certified(data: EvaluationData, index: Tensor, eps: float) -> Bools:
    """Which of the examples ``index`` no perturbation within ``eps`` in L∞ can turn."""
    layers, found = chain(data), []
    targets = labels(data, index)
    done = 0
    with torch.no_grad():
        for _, x, _, space in data.batches(index):
            y = torch.from_numpy(targets[done : done + len(x)]).to(x.device)
            done += len(x)
            low, high = _box(x.double(), eps, space)
            found.append((margins(layers, low, high, y) > 0).all(1).cpu().numpy())
    return np.concatenate(found)


def margins(layers: Sequence[nn.Module], low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Lower bounds of ``z_y - z_k``, ``(batch, classes)``; infinite for ``k = y``."""
    *body, last = layers
    if isinstance(last, nn.Linear):
        low, high = bounds(body, low, high)
        # The difference of two rows of the last layer, bounded as one: tighter than of two boxes.
        weight = last.weight[y][:, None] - last.weight[None]
        centre, radius = (low + high) / 2, (high - low) / 2
        least = torch.einsum("bkf,bf->bk", weight, centre)
        spread = torch.einsum("bkf,bf->bk", weight.abs(), radius)
        least = least - spread
        size = torch.einsum("bkf,bf->bk", weight.abs(), centre.abs() + radius)
        if last.bias is not None:
            least = least + last.bias[y][:, None] - last.bias[None]
    else:
        low, high = bounds(layers, low, high)
        least = low.gather(1, y[:, None]) - high
        size = low.abs().amax(1, keepdim=True) + high.abs()
    # The model itself computes in single precision: leave room for what it rounds.
    least = least - 1e-5 * (1 + size)
    return least.scatter(1, y[:, None], torch.inf)


def bounds(layers: Sequence[nn.Module], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of what the layers make of any input between ``low`` and ``high``."""
    for layer in layers:
        if isinstance(layer, _AFFINE):
            centre, radius = layer((low + high) / 2), _spread(layer, (high - low) / 2)
            low, high = centre - radius, centre + radius
        else:
            low, high = layer(low), layer(high)
    return low, high


def certified_kind(estimator: Any) -> str:
    """A sentence if the estimator is one of ART's certified ones, else nothing."""
    for kind in type(estimator).__mro__:
        if kind.__module__.startswith("art.estimators.certification"):
            return (
                f"The estimator is ART's certified {type(estimator).__name__}; its own "
                "certificates may be tighter than these."
            )
    return ""


def _flat(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [layer for child in module for layer in _flat(child)]
    return [module]


def _double(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).double().eval().requires_grad_(False)


def _box(x: Tensor, eps: float, space: InputSpace) -> tuple[Tensor, Tensor]:
    """The ball, cut to the valid range; masked features do not move."""
    radius = space.restrict(torch.full_like(x, eps)).abs().clamp_max(eps)
    low, high = x - radius, x + radius
    if space.low is not None:
        low = torch.maximum(low, torch.minimum(torch.as_tensor(space.low).to(x), x))
    if space.high is not None:
        high = torch.minimum(high, torch.maximum(torch.as_tensor(space.high).to(x), x))
    return low, high


_Spread = Callable[[Any, Tensor], Tensor]


def _spread(layer: nn.Module, radius: Tensor) -> Tensor:
    """How far the outputs of an affine layer move at most: the layer with absolute weights."""
    return next(f for kind, f in _SPREADS.items() if isinstance(layer, kind))(layer, radius)


def _linear(layer: nn.Linear, radius: Tensor) -> Tensor:
    return F.linear(radius, layer.weight.abs())


def _convolution(layer: nn.Conv1d | nn.Conv2d, radius: Tensor) -> Tensor:
    moving: Any = copy.copy(layer)
    # Padding that repeats or reflects must pad the radius the same way, so the layer itself runs.
    return torch.as_tensor(moving._conv_forward(radius, layer.weight.abs(), None))


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, radius: Tensor) -> Tensor:
    scale = (torch.as_tensor(layer.running_var) + layer.eps).rsqrt()
    if layer.affine:
        scale = scale * layer.weight.abs()
    return radius * scale.view(1, -1, *(1,) * (radius.ndim - 2))


_SPREADS: dict[Any, _Spread] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}
