"""Accuracy as a function of the radius: a curve, where the report has one point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import APGD, Attack
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    BaseAnalysis,
    Setting,
    Subject,
    need_norm,
    register_analysis,
)
from artplus.evaluation.analyses._measure import (
    Distances,
    crafted,
    known_mistakes,
    mistakes,
    survival,
    unlike_before,
)
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Section

MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Multiples of the report's radius: close around it, then on until no example is robust."""


@register_analysis("epsilon_curve")
@dataclass(frozen=True, kw_only=True)
class EpsilonCurve(BaseAnalysis):
    r"""Robust accuracy at ascending radii, until no example is robust.

    .. math:: A(\epsilon) = \frac{1}{n} \sum_i [\, d_i > \epsilon \,]

    with :math:`d_i` the shortest distance at which any attack found a mistake. At each radius, APGD
    on cross-entropy and then APGD towards the likeliest wrong classes (on the margin, with two
    classes) attack the examples that are still robust, as in AutoAttack [Croce20]_. A mistake
    counts at the distance that it has, so the curve never rises. Mistakes that the report's attacks
    found count too: at the report's radius the curve is at most what the report says of these
    examples. Carlini et al. [Carlini19]_ ask for this curve, and that it ends at 0: a model that is
    still robust where every input is allowed hides its gradients.

    Args:
        eps: Radii, in the units of ``x``; default: :data:`MULTIPLES` of the report's radius, up to
            the range of valid inputs, until no example is robust.
        n: Number of examples, the first; ``None`` is all.
        steps: Steps of each run of APGD.
        targets: Wrong classes to try, the likeliest first.
        attacks: Attacks to run in place of APGD; their ``eps`` is scaled to each radius.

    Raises:
        ConfigurationError: in regression, without gradients (unless ``attacks`` need none), or if
            the report's attacks have no common norm or no radius that is one number.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> analysis = EpsilonCurve(eps=[0.0, 0.05, 0.1], steps=10)
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           clip_values=(0, 1), analyses=[analysis], progress=False)
        >>> report.sections[0].blocks[0].series[0].x
        (0.0, 0.05, 0.1)

    References:
        .. [Croce20] Croce and Hein, "Reliable evaluation of adversarial robustness with an
           ensemble of diverse parameter-free attacks", ICML 2020.
        .. [Carlini19] Carlini et al., "On evaluating adversarial robustness", 2019,
           https://arxiv.org/abs/1902.06705
    """

    name = "epsilon_curve"
    title = "Accuracy by radius"
    needs = ("classes", "ball")

    eps: Sequence[float] | None = None
    n: int | None = 256
    steps: int = 30
    targets: int = 3
    attacks: Sequence[Attack] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
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
        super().check(setting)
        need_norm(self.attacks or (), setting.ball[1], self.name)
        if self.attacks is None:
            self.require(setting, "gradients")

    def __call__(self, subject: Subject) -> Section:
        (eps, norm), index = subject.ball, subject.first(self.n)
        radii = self._radii(subject.data, eps, norm)
        distances = {}
        for model, data in subject.models.items():
            known = np.full(len(index), math.inf)
            if model == "":
                known = known_mistakes(subject, index, norm)
            distances[model] = self._distances(data, index, radii, norm, subject.seed, known)
        if self.eps is None:  # up to the first where no example is robust
            farthest = max(float(values.max()) for values in distances.values())
            radii = radii[: sum(radius * (1 + 1e-4) < farthest for radius in radii) + 1]
        curves = {model: survival(radii, values) for model, values in distances.items()}
        accuracy = [float(value or 0.0) for value in curves[""].y]
        notes = [
            f"{wording.norm_name(norm)}, {self._attack_names()} at every radius on the examples "
            f"that are still robust, beside the report's own attacks{unlike_before(subject)}; on "
            f"{subject.sample(index)}."
        ]
        if accuracy[-1] > 0:
            notes.append(
                f"At the largest radius, {wording.radius(radii[-1])}, "
                f"{wording.percent(accuracy[-1])} are still robust: a larger radius or a better "
                "attack is missing, or the model hides its gradients, or it gives one answer to "
                "every input."
            )
        at = [value for radius, value in zip(radii, accuracy, strict=True)
              if math.isclose(radius, eps)]  # fmt: skip
        figures = {
            "clean_accuracy": accuracy[0] if radii[0] == 0 else None,
            "robust_accuracy": at[0] if at else None,
            "half_at": _first(radii, accuracy, 0.5),
            "none_at": _first(radii, accuracy, 0.0),
        }
        return self.section(
            _summary(figures, radii[-1], accuracy[-1], wording.ball(norm, eps)),
            (
                Curves(
                    x_label=f"{wording.norm_name(norm)} radius",
                    y_label="accuracy",
                    series=(line,),
                    caption="Share of examples that stay right, with 95 % Wilson intervals.",
                    model=model,
                )
                for model, line in curves.items()
            ),
            figures=figures,
            notes=notes,
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

    def _distances(
        self,
        data: EvaluationData,
        index: Tensor,
        radii: Sequence[float],
        norm: float,
        seed: int,
        known: Distances,
    ) -> Distances:
        """``(n,)`` distance of each example's nearest mistake; infinite if none was found."""
        distances = known.copy()
        for part, x, y, _ in data.batches(index):
            distances[_rows(index, part)[mistakes(data, x, y).numpy()]] = 0.0
        for radius in radii:
            for k, attack in enumerate(self._attacks(data, radius, norm)):
                # A mistake that is known farther out may have a nearer one.
                robust = index[torch.from_numpy(distances > radius)]
                if radius == 0 or not len(robust):
                    break
                for batch in crafted(data, attack, robust, seed=seed, name=f"{radius}:{k}"):
                    wrong = mistakes(data, batch.x_adv, batch.y).numpy()
                    rows = _rows(index, batch.part)[wrong]
                    distances[rows] = np.minimum(distances[rows], batch.lengths.numpy()[wrong])
        return distances

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

    def _attack_names(self) -> str:
        if self.attacks is None:
            return f"APGD-CE and APGD towards {self.targets} classes, {self.steps} steps each,"
        return ", ".join(type(attack).__name__ for attack in self.attacks)


def _rows(index: Tensor, part: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Rows of the positions ``part`` in ``index``, which ascends."""
    return np.asarray(torch.searchsorted(index, part))


def _first(radii: Sequence[float], accuracy: Sequence[float], limit: float) -> float | None:
    """The least radius where the accuracy is at most ``limit``."""
    return next((r for r, value in zip(radii, accuracy, strict=True) if value <= limit), None)


def _summary(figures: dict[str, float | None], top: float, last: float, ball: str) -> str:
    parts = []
    if figures["robust_accuracy"] is not None:
        parts.append(f"{wording.percent(figures['robust_accuracy'])} stay right within {ball}")
    if figures["half_at"] is not None:
        parts.append(f"at most half from {wording.radius(figures['half_at'])}")
    if figures["none_at"] is not None:
        parts.append(f"none from {wording.radius(figures['none_at'])}")
    else:
        parts.append(f"{wording.percent(last)} still at {wording.radius(top)}, the largest")
    return "; ".join(parts) + "."
