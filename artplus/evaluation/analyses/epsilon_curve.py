"""Accuracy as a function of the radius: a curve, where the report has one point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks
from artplus.attacks import APGD, Attack
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    ball_of,
    first,
    need_classes,
    need_gradients,
    need_norm,
    register_analysis,
)
from artplus.evaluation.analyses._measure import (
    beside,
    crafted,
    known_falls,
    mistakes,
    sides,
    survival,
)
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Section

MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Of the report's radius: close around it, then on until nothing stands."""


@register_analysis("epsilon_curve")
@dataclass(frozen=True, kw_only=True)
class EpsilonCurve:
    r"""Robust accuracy at ascending radii, until no example stands.

    .. math:: A(\epsilon) = \frac{1}{n} \sum_i [\, d_i > \epsilon \,]

    with :math:`d_i` the shortest distance at which any attack found a mistake. At each radius APGD
    on cross-entropy and then APGD towards the likeliest wrong classes (on the margin, with two
    classes) run on what still stands, as in AutoAttack [Croce20]_. A mistake at a small radius is
    one at every larger radius, and it counts at the distance that it has, so the curve never
    rises. Mistakes that the report's attacks found count too: at the report's radius the curve is
    at most what the report says of these examples. Carlini et al. [Carlini19]_ ask for this curve,
    and that it end at 0: a model that still stands where every input is allowed hides its
    gradients.

    Args:
        eps: Radii, in the units of ``x``; default: :data:`MULTIPLES` of the report's radius, up to
            the range of valid inputs, as far as something stands.
        n: Number of examples, the first; ``None`` is all.
        steps: Steps of each run of APGD.
        targets: Wrong classes to try, the likeliest first.
        attacks: Attacks to run in place of APGD, with any ``eps``: it is scaled to each radius.

    Raises:
        ConfigurationError: in regression, without gradients (unless ``attacks`` need none), or if
            the report's attacks have no common norm or no radius that is one number.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[EpsilonCurve(eps=[0.0, 0.05, 0.1], steps=10)], progress=False,
        ... )
        >>> report.sections[0].blocks[0].series[0].x
        (0.0, 0.05, 0.1)

    References:
        .. [Croce20] Croce and Hein, "Reliable evaluation of adversarial robustness with an
           ensemble of diverse parameter-free attacks", ICML 2020.
        .. [Carlini19] Carlini et al., "On evaluating adversarial robustness", 2019,
           https://arxiv.org/abs/1902.06705
    """

    eps: Sequence[float] | None = None
    n: int | None = 256
    steps: int = 30
    targets: int = 3
    attacks: Sequence[Attack] | None = None

    def __post_init__(self) -> None:
        _checks.count("steps", self.steps)
        _checks.count("targets", self.targets)
        if self.n is not None:
            _checks.count("n", self.n)
        if self.eps is not None:
            radii = [_checks.nonnegative("eps", value) for value in self.eps]
            if not radii or radii != sorted(set(radii)):
                raise ConfigurationError(f"eps must be ascending radii, got {self.eps!r}")
        for attack in self.attacks or ():
            if not isinstance(attack.eps, (int, float)) or not 0 < attack.eps < math.inf:
                raise ConfigurationError(
                    "attacks of a curve are scaled to its radii, so each needs an eps that is a "
                    f"number > 0; {type(attack).__name__} has {attack.eps!r}"
                )

    def check(self, setting: Setting) -> None:
        """Refuse regressions, models without gradients, and balls that are not one."""
        need_classes(setting, "epsilon_curve")
        _, norm = ball_of(setting, "epsilon_curve")
        need_norm(self.attacks or (), norm, "epsilon_curve")
        if self.attacks is None:
            need_gradients(setting, "epsilon_curve")

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        eps, norm = ball_of(subject, "epsilon_curve")
        index = first(subject, self.n)
        radii = self._radii(subject.data, eps, norm)
        falls = {
            model: self._falls(
                side,
                index,
                radii,
                norm,
                subject.seed,
                known_falls(subject, index, norm) if side is subject.data else None,
            )
            for model, side in sides(subject).items()
        }
        if self.eps is None:
            radii = _needed(radii, list(falls.values()))
        series = {model: survival("model", radii, fell) for model, fell in falls.items()}
        own = series[""]
        last = own.y[-1] or 0.0
        notes = [_what(self, index, subject, norm)]
        if last > 0:
            notes.append(
                f"At the largest radius, {wording.radius(radii[-1])}, "
                f"{wording.percent(last)} still stand: a larger one, or a better attack, is "
                "missing, or the model hides its gradients, or it gives one answer whatever comes."
            )
        return Section(
            name="epsilon_curve",
            title="Accuracy by radius",
            summary=_summary(own.x, own.y, eps, norm),
            blocks=tuple(
                Curves(
                    x_label=f"{wording.norm_name(norm)} radius",
                    y_label="accuracy",
                    series=(line,),
                    caption="Share of examples that stay right, with 95 % Wilson intervals.",
                    model=model,
                )
                for model, line in series.items()
            ),
            figures=_figures(own.x, own.y, eps),
            notes=tuple(notes),
        )

    def _radii(self, data: EvaluationData, eps: float, norm: float) -> list[float]:
        if self.eps is not None:
            return [float(value) for value in self.eps]
        base = eps if eps > 0 else 1.0
        radii = [multiple * base for multiple in MULTIPLES]
        width = data.space.width()
        if math.isinf(norm) and width is not None:  # beyond it nothing is left to allow
            radii = sorted({*(r for r in radii if r < width), width})
        return radii

    def _falls(
        self,
        data: EvaluationData,
        index: Tensor,
        radii: Sequence[float],
        norm: float,
        seed: int,
        known: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """``(n,)`` distance of each example's nearest mistake; infinite if none was found."""
        fell = np.full(len(index), math.inf)
        for part, x, y, _ in data.batches(index):
            fell[_rows(index, part)[mistakes(data, x, y).numpy()]] = 0.0
        if known is not None:
            fell = np.minimum(fell, known)
        for radius in radii:
            for k, attack in enumerate(self._attacks(data, radius, norm)):
                # What is known to fall farther out may yet fall here.
                standing = index[torch.from_numpy(fell > radius)]
                if radius == 0 or not len(standing):
                    break
                found = crafted(data, attack, standing, seed=seed, name=f"{radius}:{k}")
                for batch in found:
                    hit = mistakes(data, batch.x_adv, batch.y).numpy()
                    rows = _rows(index, batch.part)[hit]
                    fell[rows] = np.minimum(fell[rows], batch.lengths.numpy()[hit])
        return fell

    def _attacks(self, data: EvaluationData, eps: float, norm: float) -> list[Attack]:
        if self.attacks is not None:
            # __post_init__ has let through numbers only
            return [attack.with_eps(eps / float(attack.eps)) for attack in self.attacks]  # type: ignore[arg-type]
        ce = APGD(eps=eps, norm=norm, steps=self.steps, loss="ce")
        if data.classes is None or data.classes < 3:
            return [ce, APGD(eps=eps, norm=norm, steps=self.steps, loss="margin")]
        return [
            ce,
            APGD(eps=eps, norm=norm, steps=self.steps, loss="targeted_dlr", targets=self.targets),
        ]


def _rows(index: Tensor, part: Tensor) -> NDArray[np.int64]:
    """Where in ``index``, which ascends, the positions ``part`` stand."""
    found: NDArray[np.int64] = torch.searchsorted(index, part).numpy()
    return found


def _needed(radii: list[float], falls: list[NDArray[np.float64]]) -> list[float]:
    """The radii up to the first where nothing stands."""
    farthest = max(float(fell.max()) for fell in falls)
    kept = [radius for radius in radii if radius * (1 + 1e-4) < farthest]
    return radii[: len(kept) + 1]


def _figures(
    x: Sequence[float], y: Sequence[float | None], eps: float
) -> tuple[tuple[str, float], ...]:
    figures = [("clean_accuracy", y[0])] if x[0] == 0 else []
    at = [value for radius, value in zip(x, y, strict=True) if math.isclose(radius, eps)]
    figures += [("robust_accuracy", value) for value in at]
    half = [radius for radius, value in zip(x, y, strict=True) if (value or 0.0) <= 0.5]
    none = [radius for radius, value in zip(x, y, strict=True) if not value]
    figures += [("half_at", half[0])] if half else []
    figures += [("none_at", none[0])] if none else []
    return tuple((name, float(value)) for name, value in figures if value is not None)


def _summary(x: Sequence[float], y: Sequence[float | None], eps: float, norm: float) -> str:
    figures = dict(_figures(x, y, eps))
    parts = []
    if "robust_accuracy" in figures:
        parts.append(
            f"{wording.percent(figures['robust_accuracy'])} stay right within "
            f"{wording.ball(norm, eps)}"
        )
    if "half_at" in figures:
        parts.append(f"at most half from {wording.radius(figures['half_at'])}")
    if "none_at" in figures:
        parts.append(f"none from {wording.radius(figures['none_at'])}")
    else:
        parts.append(f"{wording.percent(y[-1])} still at {wording.radius(x[-1])}, the largest")
    return "; ".join(parts) + "."


def _what(curve: EpsilonCurve, index: Tensor, subject: Subject, norm: float) -> str:
    if curve.attacks is None:
        how = f"APGD-CE and APGD towards {curve.targets} classes, {curve.steps} steps each"
    else:
        how = ", ".join(type(attack).__name__ for attack in curve.attacks)
    return (
        f"{wording.norm_name(norm)}, the first {len(index)} of {subject.report.n} examples; {how}, "
        f"at every radius on what still stands, beside the report's own attacks"
        f"{beside(subject)}; seed {subject.seed}."
    )
