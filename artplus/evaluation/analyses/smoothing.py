"""What can be proven of the smoothed model: radii certified by randomized smoothing, in L2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks, seeding
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._measure import share, shares
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Section, Table

ABSTAIN = -1
"""The prediction of a smoothed model that is not sure enough."""


@dataclass(frozen=True)
class Certificates:
    """Predictions of the smoothed model, and how far they hold.

    Attributes:
        predictions: ``(n,)`` class numbers, or :data:`ABSTAIN`.
        radii: ``(n,)`` L2 radii within which the prediction cannot change; 0 where it abstains.
    """

    predictions: NDArray[np.int64]
    radii: NDArray[np.float64]


@register_analysis("smoothing")
@dataclass(frozen=True, kw_only=True)
class Smoothing(BaseAnalysis):
    r"""Certified accuracy of the smoothed model, :math:`g(x) = \arg\max_c P(f(x + \sigma z) = c)`.

    With :math:`z` standard normal, and :math:`\underline{p}` a lower confidence bound of the
    probability of the top class, no perturbation shorter than

    .. math:: R = \sigma \, \Phi^{-1}(\underline{p})

    in L2 changes :math:`g(x)`, whatever the attack [Cohen19]_. The top class is guessed from ``n0``
    draws; its bound is the one-sided Clopper–Pearson bound from ``n`` fresh ones, wrong with
    probability at most ``alpha``; below one half the certificate abstains. It is a statement about
    :math:`g`, not about the model that was attacked: to use it, smooth the predictions too. A model
    that was not trained with noise of ``sigma`` gets small radii.

    Differs from the paper: ``n`` is 1,000, not 100,000, which caps the radius at
    :math:`\sigma \Phi^{-1}(\alpha^{1/n})`, 2.46 sigma, where the paper reaches 3.8.

    Args:
        sigma: Standard deviation of the noise, in the units of ``x``; default: that of the
            estimator, if it is one of ART's randomized smoothing and preprocesses nothing (its
            noise comes after that), else a quarter of the range of valid inputs (0.25 in the
            paper, on [0, 1]).
        n0: Draws to guess the top class, 100 in the paper.
        n: Draws to bound its probability.
        alpha: Probability that a certificate is wrong, 0.001 in the paper.
        examples: How many examples to certify, evenly spread over the data.
        radii: At which to show certified accuracy; default: 0 to the largest certified.

    Raises:
        ConfigurationError: in regression, or without ``sigma`` for unbounded inputs.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> analysis = Smoothing(sigma=0.1, n=100, examples=5)
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           analyses=[analysis], progress=False)
        >>> dict(report.sections[0].figures)["sigma"]
        0.1

    References:
        .. [Cohen19] Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized
           smoothing", ICML 2019, https://arxiv.org/abs/1902.02918
    """

    name = "smoothing"
    title = "Certified by randomized smoothing"

    sigma: float | None = None
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    examples: int = 100
    radii: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma is not None:
            _checks.positive("sigma", self.sigma)
        if not 0 < _checks.fraction("alpha", self.alpha):
            raise ConfigurationError(f"alpha must lie in (0, 1), got {self.alpha!r}")
        for radius in self.radii or ():
            _checks.nonnegative("radii", radius)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._sigma(setting)

    def __call__(self, subject: Subject) -> Section:
        data, sigma = subject.data, self._sigma(subject)
        total = len(data.x)
        count = min(self.examples, total)
        index = torch.arange(count) * total // count
        certificates = certify(
            data, index, sigma=sigma, n0=self.n0, n=self.n, alpha=self.alpha, seed=subject.seed
        )
        right = certificates.predictions == subject.labels(index)
        abstained = float((certificates.predictions == ABSTAIN).mean())
        reach = np.where(right, certificates.radii, 0.0)
        radii = self.radii or np.linspace(0, max(reach.max(), sigma) * 1.02, 40).tolist()
        certified = [right & (certificates.radii >= radius) for radius in radii]
        accuracy, middle = share(right)[0], float(np.median(reach))
        correct = subject.report.correct_clean
        clean = None if correct is None else float(correct[index.numpy()].mean())
        notes = (
            f"Noise sigma {sigma:.4g} in the units of the inputs, {self.n0} + {self.n} draws, "
            f"each certificate wrong with probability at most {self.alpha:g}; {count} of {total} "
            f"examples, evenly spread; seed {subject.seed}.",
            "Radii are L2 and hold for the smoothed model, not for the one that was attacked.",
        )
        return self.section(
            f"The smoothed model is provably right on {wording.percent(accuracy)}, and on half of "
            f"all within L2 {middle:.4g}; it abstains on {wording.percent(abstained)}.",
            (
                Curves(
                    x_label="L2 radius",
                    y_label="certified accuracy",
                    series=(shares("certified", radii, certified),),
                    caption="Share of examples that are right and certified to stay so within the "
                    "radius; no attack can lower it.",
                ),
                Table(
                    columns=("", "share"),
                    units=("text", "percent"),
                    rows=(
                        ("model without noise, these examples", clean),
                        ("smoothed model right", accuracy),
                        ("abstained", abstained),
                        ("wrong", 1 - accuracy - abstained),
                    ),
                ),
            ),
            figures={
                "sigma": sigma,
                "certified_accuracy": accuracy,
                "median_radius": middle,
                "abstained": abstained,
            },
            notes=notes,
        )

    def _sigma(self, setting: Setting) -> float:
        if self.sigma is not None:
            return self.sigma
        if smooths(setting.estimator) and setting.data.model.forward is None:
            return _checks.positive("the estimator's scale", setting.estimator.scale)
        width = setting.data.space.width()
        if width is None:
            raise ConfigurationError(
                "smoothing needs sigma=, the noise in the units of x, since the inputs have no "
                "range to measure it by: Smoothing(sigma=...)"
            )
        return 0.25 * width


def smooths(estimator: Any) -> bool:
    """Whether it is an estimator of ART that predicts by a vote over noise."""
    return any(kind.__name__ == "RandomizedSmoothingMixin" for kind in type(estimator).__mro__)


def certify(
    data: EvaluationData, index: Tensor, *, sigma: float, n0: int, n: int, alpha: float, seed: int
) -> Certificates:
    """Certify the examples ``index``, one at a time; draws are batched."""
    from scipy.stats import beta, norm

    classes = data.classes or 0
    generator = torch.Generator(data.device).manual_seed(seeding.derived(seed, "smoothing"))
    predictions = np.full(len(index), ABSTAIN, dtype=np.int64)
    radii = np.zeros(len(index))
    for row, position in enumerate(index.tolist()):
        x = data.x[position : position + 1].to(data.device)
        guess = int(_counts(data, x, sigma, n0, classes, generator).argmax())
        hits = int(_counts(data, x, sigma, n, classes, generator)[guess])
        # The one-sided bound of Clopper and Pearson; of no hit it is 0.
        bound = float(beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0
        if bound > 0.5:
            predictions[row], radii[row] = guess, sigma * float(norm.ppf(bound))
    return Certificates(predictions, radii)


def _counts(
    data: EvaluationData, x: Tensor, sigma: float, n: int, classes: int, generator: torch.Generator
) -> Tensor:
    """How often each class is predicted under noise, ``(classes,)``; the noise is not clipped."""
    counts = torch.zeros(classes, dtype=torch.long)
    with torch.no_grad():
        for start in range(0, n, data.batch_size):
            size = min(data.batch_size, n - start)
            noise = torch.randn(
                (size, *x.shape[1:]), generator=generator, device=x.device, dtype=x.dtype
            )
            top = data.model(x + sigma * noise).argmax(1).cpu()
            counts += torch.bincount(top, minlength=classes)
    return counts
