"""Does confidence mean anything? Expected calibration error, clean and under attack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus.attacks import PGD, Attack
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._measure import crafted, mistakes
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.result import Bools
from artplus.evaluation.section import Block, Curves, Model, Section, Series, Table
from artplus.functional import probabilities

Floats = NDArray[np.float64]


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
        return float((self.n * self._gaps).sum() / self.n.sum())

    @property
    def largest(self) -> float:
        """Maximum calibration error: the largest gap of any bin."""
        return float(self._gaps.max())

    @property
    def _gaps(self) -> Floats:
        return np.nan_to_num(np.abs(self.accuracy - self.confidence))  # 0 in empty bins


@register_analysis("calibration")
@dataclass(frozen=True, kw_only=True)
class Calibration(BaseAnalysis):
    r"""Expected calibration error and reliability curves, clean and under attack.

    .. math:: \mathrm{ECE} = \sum_m \frac{|B_m|}{n} \,
              |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|

    over bins :math:`B_m` of equal width of the confidence :math:`\max_k p_k` [Guo17]_. Under
    attack, all examples are perturbed, including those that were wrong already. Robust accuracy
    says how often the model is fooled; this says how sure it is when it is.

    Args:
        n: Number of examples, the first; ``None`` is all.
        bins: Number of bins, 15 in the paper.
        attack: Default: PGD at the report's radius, 20 steps on the model's own loss.

    Raises:
        ConfigurationError: in regression, or without gradients unless ``attack`` is given.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           analyses=[Calibration()], progress=False)
        >>> 0 <= dict(report.sections[0].figures)["ece_clean"] <= 1
        True

    References:
        .. [Guo17] Guo et al., "On calibration of modern neural networks", ICML 2017,
           https://arxiv.org/abs/1706.04599
    """

    name = "calibration"
    title = "Confidence"

    n: int | None = 1000
    bins: int = 15
    attack: Attack | None = None

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.attack is None:
            self.require(setting, "ball", "gradients")

    def __call__(self, subject: Subject) -> Section:
        attack = self.attack
        if attack is None:
            eps, norm = subject.ball
            attack = PGD(eps=eps, norm=norm, steps=20)
        index = subject.first(self.n)
        scores: dict[Model, dict[str, tuple[Floats, Bools]]] = {}
        for model, data in subject.models.items():
            clean = ((x, y) for _, x, y, _ in data.batches(index))
            batches = crafted(data, attack, index, seed=subject.seed, name=self.name)
            scores[model] = {
                "clean": confidences(data, clean),
                "under attack": confidences(data, ((b.x_adv, b.y) for b in batches)),
            }
        blocks: list[Block] = []
        for draw in (self._reliability, self._histogram, self._table):
            blocks += [draw(model, parts) for model, parts in scores.items()]
        errors = [binning(*values, self.bins).error for values in scores[""].values()]
        sure, right = (float(values.mean()) for values in scores[""]["under attack"])
        number = isinstance(attack.eps, (int, float))
        radius = wording.radius(float(attack.eps)) if number else "as given"  # type: ignore[arg-type]
        return self.section(
            f"Expected calibration error: {wording.percent(errors[0])} without an attack, "
            f"{wording.percent(errors[1])} under attack, where the mean confidence is "
            f"{wording.percent(sure)} and {wording.percent(right)} are right.",
            blocks,
            figures={
                "ece_clean": errors[0],
                "ece_attacked": errors[1],
                "confidence_attacked": sure,
                "accuracy_attacked": right,
            },
            notes=(
                f"{self.bins} bins of equal width; {type(attack).__name__} within "
                f"{wording.norm_name(attack.norm)} {radius} on {subject.sample(index)}. The error "
                "of few examples in many bins is biased upwards.",
            ),
        )

    def _reliability(self, model: Model, parts: dict[str, tuple[Floats, Bools]]) -> Curves:
        series = [Series(name="ideal", x=(0.0, 1.0), y=(0.0, 1.0))]
        for name, values in parts.items():
            bins = binning(*values, self.bins)
            filled = bins.n > 0
            x, y = bins.confidence[filled], bins.accuracy[filled]
            series.append(Series(name=name, x=tuple(x.tolist()), y=tuple(y.tolist())))
        return Curves(
            x_label="mean confidence of the bin",
            y_label="accuracy",
            series=tuple(series),
            x_unit="percent",
            caption="Above the ideal line the model is too modest, below it too sure.",
            model=model,
        )

    def _histogram(self, model: Model, parts: dict[str, tuple[Floats, Bools]]) -> Curves:
        middles = tuple(((np.arange(self.bins) + 0.5) / self.bins).tolist())
        sizes = {name: binning(*values, self.bins).n for name, values in parts.items()}
        return Curves(
            x_label="confidence",
            y_label="share of examples",
            series=tuple(
                Series(name=name, x=middles, y=tuple((n / n.sum()).tolist()))
                for name, n in sizes.items()
            ),
            x_unit="percent",
            caption="How sure the model is: share of examples in each bin of confidence.",
            model=model,
        )

    def _table(self, model: Model, parts: dict[str, tuple[Floats, Bools]]) -> Table:
        rows = []
        for name, (confidence, correct) in parts.items():
            bins = binning(confidence, correct, self.bins)
            means = float(correct.mean()), float(confidence.mean())
            rows.append((name, *means, bins.error, bins.largest))
        return Table(
            columns=("", "accuracy", "mean confidence", "ECE", "largest gap"),
            units=("text", "percent", "percent", "percent", "percent"),
            rows=tuple(rows),
            model=model,
        )


def confidences(
    data: EvaluationData, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Floats, Bools]:
    """Confidence and correctness of each example of batches ``(x, y)``."""
    confidence, correct = [], []
    for x, y in batches:
        with torch.no_grad():
            top = probabilities(data.model(x)).amax(1)
        confidence.append(top.double().clamp(0, 1).cpu().numpy())
        correct.append(~mistakes(data, x, y).numpy())
    return np.concatenate(confidence), np.concatenate(correct)


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
