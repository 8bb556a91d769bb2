"""What can be proven of a plain network: accuracy certified by interval bounds, in L∞."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._measure import share, shares
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.result import Bools
from artplus.evaluation.section import Curves, Section
from artplus.interval_bounds import layers, margins
from artplus.spaces import InputSpace

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the report's radius; bounds of a network not trained for them hold near 0 only."""

ROUNDING = 1e-5
"""The model computes in single precision: relative room for its rounding."""


@register_analysis("interval")
@dataclass(frozen=True, kw_only=True)
class IntervalBounds(BaseAnalysis):
    r"""Certified accuracy by interval bound propagation, for plain sequences of layers.

    Lower and upper bounds go through the layers [Gowal18]_: :mod:`artplus.interval_bounds`. An
    example is certified if the lower bound of :math:`z_y - z_k` is positive for every wrong class.
    Then no perturbation within ``eps`` in L∞ changes the prediction, whatever the attack. Bounds
    are computed in double precision and shrunk by a margin for rounding. They are loose: of a
    network that was not trained for them they certify little beyond tiny radii, which says nothing
    against the network.

    Args:
        eps: Radii, in the units of ``x``; default: :data:`FRACTIONS` of the report's radius.
        n: Number of examples, the first; ``None`` is all.

    Raises:
        ConfigurationError: in regression, if the report's norm is not L∞, or for a model that is
            no sequence of layers whose bounds are known here.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> analysis = IntervalBounds()
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           clip_values=(0, 1), analyses=[analysis], progress=False)
        >>> figures = dict(report.sections[0].figures)
        >>> figures["certified_accuracy"] <= figures["attacked_accuracy"]
        True

    References:
        .. [Gowal18] Gowal et al., "On the effectiveness of interval bound propagation for training
           verifiably robust models", 2018, https://arxiv.org/abs/1810.12715
    """

    name = "interval"
    title = "Certified by interval bounds"
    needs = ("classes", "ball")

    eps: Sequence[float] | None = None
    n: int | None = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        radii = [_checks.nonnegative("eps", radius) for radius in self.eps or ()]
        if radii != sorted(set(radii)):
            raise ConfigurationError(f"eps must be ascending radii, got {self.eps!r}")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not math.isinf(setting.ball[1]):
            raise ConfigurationError(
                "interval bounds are for L∞, and the report is about "
                f"{wording.norm_name(setting.ball[1])}; "
                "for L2 there is 'smoothing'"
            )
        exact_layers(setting.data)

    def __call__(self, subject: Subject) -> Section:
        (eps, norm), index = subject.ball, subject.first(self.n)
        radii = list(self.eps or sorted({fraction * eps for fraction in FRACTIONS}))
        held = {radius: certified(subject.data, index, radius) for radius in radii}
        at = share(held[eps] if eps in held else certified(subject.data, index, eps))[0]
        robust = subject.report.correct_robust
        upper = None if robust is None else float(robust[index.numpy()].mean())
        kind = certified_kind(subject.estimator)
        return self.section(
            f"{wording.percent(at)} are provably right within {wording.ball(norm, eps)}; the "
            f"attacks leave {wording.percent(upper)}. The truth lies between.",
            [
                Curves(
                    x_label=f"{wording.norm_name(norm)} radius",
                    y_label="certified accuracy",
                    series=(shares("certified", radii, [held[radius] for radius in radii]),),
                    caption="Share of examples that no perturbation within the radius can fool.",
                )
            ],
            figures={"certified_accuracy": at, "attacked_accuracy": upper},
            notes=(
                f"Interval bounds in double precision on {subject.sample(index)}. They are loose "
                "for a network that was not trained for them.",
                *((kind,) if kind else ()),
            ),
        )


def exact_layers(data: EvaluationData) -> list[nn.Module]:
    """The model as layers whose bounds are known: a copy in double precision, without gradients.

    Raises:
        ConfigurationError: naming the first layer that is not, or if the model does more than its
            layers.
    """
    model = data.model
    module = model.forward if isinstance(model.forward, nn.Module) else model.module
    exact = [copy.deepcopy(layer).double().eval().requires_grad_(False) for layer in layers(module)]
    x = data.x[:8].to(data.device)
    with torch.no_grad():
        expected, outputs = model(x).double(), nn.Sequential(*exact)(x.double())
    if outputs.shape != expected.shape or not torch.allclose(
        expected, outputs, rtol=1e-3, atol=1e-3
    ):
        raise ConfigurationError(
            "interval bounds need a model that is nothing but its layers: this one computes "
            "something else (preprocessing, or a forward of its own)"
        )
    return exact


def certified(data: EvaluationData, index: Tensor, eps: float) -> Bools:
    """Which of the examples ``index`` no perturbation within ``eps`` in L∞ can fool."""
    exact, held = exact_layers(data), []
    with torch.no_grad():
        for part, x, _, space in data.batches(index):
            y = data.labels(part).to(x.device)
            low, high = _box(x.double(), eps, space)
            least = margins(exact, low, high, y, rounding=ROUNDING)
            held.append((least > 0).all(1).cpu().numpy())
    return np.concatenate(held)


def certified_kind(estimator: Any) -> str:
    """A sentence if the estimator is one of ART's certified ones, else nothing."""
    for kind in type(estimator).__mro__:
        if kind.__module__.startswith("art.estimators.certification"):
            return (
                f"The estimator is ART's certified {type(estimator).__name__}; its own "
                "certificates may be tighter than these."
            )
    return ""


def _box(x: Tensor, eps: float, space: InputSpace) -> tuple[Tensor, Tensor]:
    """The ball, cut to the valid range; masked features do not move."""
    radius = space.restrict(torch.full_like(x, eps)).abs().clamp_max(eps)
    low, high = x - radius, x + radius
    if space.low is not None:
        low = torch.maximum(low, torch.minimum(torch.as_tensor(space.low).to(x), x))
    if space.high is not None:
        high = torch.minimum(high, torch.maximum(torch.as_tensor(space.high).to(x), x))
    return low, high
