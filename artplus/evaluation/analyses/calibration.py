"""Does confidence mean anything? Expected calibration error, clean and under attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks
from artplus.attacks import PGD, Attack
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    ball_of,
    first,
    need_classes,
    need_gradients,
    register_analysis,
)
from artplus.evaluation.analyses._measure import crafted, mistakes, probabilities, sides
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Model, Section, Series, Table

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Bins:
    """Examples sorted by confidence into bins of equal width.

    Attributes:
        n: Examples in each.
        accuracy: Share of them that is right; NaN in an empty bin.
        confidence: Their mean confidence; NaN in an empty bin.
    """

    n: NDArray[np.int64]
    accuracy: Floats
    confidence: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap of accuracy and confidence, weighted by ``n``."""
        filled = self.n > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((self.n[filled] * gaps).sum() / self.n.sum())

    @property
    def largest(self) -> float:
        """Maximum calibration error: the largest gap of any bin that holds an example."""
        filled = self.n > 0
        return float(np.abs(self.accuracy[filled] - self.confidence[filled]).max())


@register_analysis("calibration")
@dataclass(frozen=True, kw_only=True)
class Calibration:
    r"""Expected calibration error and reliability curves, clean and under attack.

    .. math:: \mathrm{ECE} = \sum_m \frac{|B_m|}{n} \,
              |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|

    over bins :math:`B_m` of equal width of the confidence :math:`\max_k p_k` [Guo17]_. Under
    attack, all examples are perturbed, those that were wrong already too. Robust accuracy says how
    often the model is fooled, this whether it was sure while being so.

    Args:
        n: Number of examples, the first; ``None`` is all.
        bins: Number of bins, 15 in the paper.
        attack: Default: PGD at the report's radius, 20 steps on the model's own loss.

    Raises:
        ConfigurationError: in regression, or without gradients unless ``attack`` is given.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[Calibration()], progress=False,
        ... )
        >>> 0 <= dict(report.sections[0].figures)["ece_clean"] <= 1
        True

    References:
        .. [Guo17] Guo et al., "On calibration of modern neural networks", ICML 2017,
           https://arxiv.org/abs/1706.04599
    """

    n: int | None = 1000
    bins: int = 15
    attack: Attack | None = None

    def __post_init__(self) -> None:
        _checks.count("bins", self.bins)
        if self.n is not None:
            _checks.count("n", self.n)

    def check(self, setting: Setting) -> None:
        """Refuse regressions, and models without gradients unless the attack is given."""
        need_classes(setting, "calibration")
        if self.attack is None:
            ball_of(setting, "calibration")
            need_gradients(setting, "calibration")

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        attack = self.attack
        if attack is None:
            eps, norm = ball_of(subject, "calibration")
            attack = PGD(eps=eps, norm=norm, steps=20)
        index = first(subject, self.n)
        found = {
            model: {
                "clean": clean(side, index),
                "under attack": attacked(side, attack, index, subject.seed),
            }
            for model, side in sides(subject).items()
        }
        binned = {
            model: {name: binning(*values, self.bins) for name, values in parts.items()}
            for model, parts in found.items()
        }
        calm, under = binned[""].values()
        sure, right = (float(values.mean()) for values in found[""]["under attack"])
        return Section(
            name="calibration",
            title="Confidence",
            summary=(
                f"Expected calibration error: {wording.percent(calm.error)} without an attack, "
                f"{wording.percent(under.error)} under attack, where the mean confidence is "
                f"{wording.percent(sure)} and {wording.percent(right)} are right."
            ),
            blocks=(
                *(_reliability(model, bins) for model, bins in binned.items()),
                *(_histogram(model, bins) for model, bins in binned.items()),
                *(
                    Table(
                        columns=("", "accuracy", "mean confidence", "ECE", "largest gap"),
                        units=("text", "percent", "percent", "percent", "percent"),
                        rows=tuple(
                            (
                                name,
                                float(correct.mean()),
                                float(confidence.mean()),
                                binned[model][name].error,
                                binned[model][name].largest,
                            )
                            for name, (confidence, correct) in parts.items()
                        ),
                        model=model,
                    )
                    for model, parts in found.items()
                ),
            ),
            figures=(
                ("ece_clean", calm.error),
                ("ece_attacked", under.error),
                ("confidence_attacked", sure),
                ("accuracy_attacked", right),
            ),
            notes=(
                f"{self.bins} bins of equal width; the first {len(index)} of {subject.report.n} "
                f"examples; attack {type(attack).__name__} within "
                f"{wording.norm_name(attack.norm)} {_radius(attack)}, seed {subject.seed}. The "
                "error of few examples in many bins is biased upwards.",
            ),
        )


def clean(data: EvaluationData, index: Tensor) -> tuple[Floats, Bools]:
    """Confidence and correctness of each example as it is."""
    return _joined([_looked(data, x, y) for _, x, y, _ in data.batches(index)])


def attacked(
    data: EvaluationData, attack: Attack, index: Tensor, seed: int
) -> tuple[Floats, Bools]:
    """The same under attack."""
    batches = crafted(data, attack, index, seed=seed, name="calibration")
    return _joined([_looked(data, batch.x_adv, batch.y) for batch in batches])


def binning(confidence: Floats, correct: Bools, bins: int) -> Bins:
    """Sort examples into bins ``(k / bins, (k + 1) / bins]``."""
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    n = np.bincount(place, minlength=bins)
    filled = np.where(n > 0, n, np.nan)
    return Bins(
        n,
        np.bincount(place, weights=correct.astype(float), minlength=bins) / filled,
        np.bincount(place, weights=confidence, minlength=bins) / filled,
    )


def _looked(data: EvaluationData, x: Tensor, y: Tensor) -> tuple[Floats, Bools]:
    with torch.no_grad():
        confidence = probabilities(data.model(x)).amax(1).double().clamp(0, 1)
    return confidence.cpu().numpy(), ~mistakes(data, x, y).numpy()


def _joined(parts: Sequence[tuple[Floats, Bools]]) -> tuple[Floats, Bools]:
    confidence, correct = zip(*parts, strict=True)
    return np.concatenate(confidence), np.concatenate(correct)


def _reliability(model: Model, binned: dict[str, Bins]) -> Curves:
    ideal = Series(name="ideal", x=(0.0, 1.0), y=(0.0, 1.0))
    lines = []
    for name, bins in binned.items():
        filled = bins.n > 0
        lines.append(
            Series(
                name=name,
                x=tuple(bins.confidence[filled].tolist()),
                y=tuple(bins.accuracy[filled].tolist()),
            )
        )
    return Curves(
        x_label="mean confidence of the bin",
        y_label="accuracy",
        series=(ideal, *lines),
        x_unit="percent",
        caption="Above the ideal line the model is too modest, below it too sure.",
        model=model,
    )


def _histogram(model: Model, binned: dict[str, Bins]) -> Curves:
    lines = []
    for name, bins in binned.items():
        middles = (np.arange(len(bins.n)) + 0.5) / len(bins.n)
        lines.append(
            Series(name=name, x=tuple(middles.tolist()), y=tuple((bins.n / bins.n.sum()).tolist()))
        )
    return Curves(
        x_label="confidence",
        y_label="share of examples",
        series=tuple(lines),
        x_unit="percent",
        caption="How sure the model is: share of examples in each bin of confidence.",
        model=model,
    )


def _radius(attack: Attack) -> str:
    return wording.radius(attack.eps) if isinstance(attack.eps, (int, float)) else "as given"
