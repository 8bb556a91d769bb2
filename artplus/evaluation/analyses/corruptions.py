"""Accuracy under common corruptions: what wears inputs down without anybody's intent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artplus import seeding
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._corrupt import CORRUPTIONS, Corrupt, applicable
from artplus.evaluation.analyses._measure import mistakes, shares
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.result import Bools
from artplus.evaluation.section import Curves, Model, Section, Table, Unit
from artplus.spaces import InputSpace

_SEVERITIES = (1, 2, 3, 4, 5)
_CLEAN = ""
Correct = dict[str, list[Bools]]
"""Which examples are right, by kind, one array per severity; :data:`_CLEAN` has one array."""


@register_analysis("corruptions")
@dataclass(frozen=True, kw_only=True)
class Corruptions(BaseAnalysis):
    r"""Accuracy under noise, blur, changes of light, pixelation and JPEG, at five severities.

    The constants are those of Hendrycks and Dietterich [Hendrycks19]_: those of CIFAR-10-C for
    images of at most 64 pixels a side and for inputs that are no images, those of ImageNet-C for
    larger images. Inputs are scaled to [0, 1] by their range of valid values and back, so the
    severities are in the inputs' own units. Inputs that are no images get the four kinds of noise.
    Masked features do not change.

    The mean error is over kinds and severities. With a model ``before`` there is also the
    corruption error of the paper, with that model in the place of AlexNet:

    .. math:: \mathrm{CE}_c = \sum_s E_{s,c} \Big/ \sum_s E_{s,c}^{\mathrm{before}}

    Differs from the paper: (1) nine kinds, five of its fifteen and four of its extras and
    variants; the rest need pictures of frost, or other libraries; (2) the images are not rounded
    to bytes; (3) a blur repeats the edge; (4) torch draws the noise of a batch.

    Args:
        kinds: Names from :data:`CORRUPTIONS`; ``None`` is all that apply.
        severities: Of 1 to 5.
        n: Number of examples, the first; ``None`` is all.

    Raises:
        ConfigurationError: in regression; for inputs without a range of valid values; for kinds
            that do not exist or do not apply.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> analysis = Corruptions(severities=(1, 5))
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           clip_values=(0, 1), analyses=[analysis], progress=False)
        >>> report.sections[0].blocks[1].columns
        ('corruption', 'severity 1', 'severity 5', 'mean')

    References:
        .. [Hendrycks19] Hendrycks and Dietterich, "Benchmarking neural network robustness to
           common corruptions and perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261
    """

    name = "corruptions"
    title = "Common corruptions"

    kinds: Sequence[str] | None = None
    severities: Sequence[int] = _SEVERITIES
    n: int | None = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = list(self.severities)
        if not chosen or any(s not in _SEVERITIES for s in chosen) or chosen != sorted(set(chosen)):
            raise ConfigurationError(
                f"severities must be ascending numbers of 1 to 5, got {self.severities!r}"
            )
        unknown = [kind for kind in self.kinds or () if kind not in CORRUPTIONS]
        if unknown or (self.kinds is not None and not self.kinds):
            raise ConfigurationError(
                f"kinds are {', '.join(CORRUPTIONS)}, got {', '.join(unknown) or 'none'}"
            )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        data = setting.data
        if data.box.low is None or data.box.high is None:
            raise ConfigurationError(
                "corruptions needs the range of valid inputs, by which their strength is measured: "
                "clip_values=(low, high)"
            )
        shape = tuple(data.x.shape[1:])
        useless = [kind for kind in self.kinds or () if kind not in applicable(shape)]
        if useless:
            raise ConfigurationError(
                f"{', '.join(useless)} cannot be applied to inputs of shape {shape}: blur, light "
                "and resolution need images (channels, height, width), jpeg grey or RGB ones and "
                f"Pillow. Applicable: {', '.join(applicable(shape))}"
            )

    def __call__(self, subject: Subject) -> Section:
        index, shape = subject.first(self.n), tuple(subject.data.x.shape[1:])
        kinds = list(self.kinds or applicable(shape))
        correct = {
            model: self._correct(data, kinds, index, subject.seed)
            for model, data in subject.models.items()
        }
        means = {
            model: {kind: float(np.mean(arrays)) for kind, arrays in table.items()}
            for model, table in correct.items()
        }
        accuracy = {
            m: float(np.mean([after[kind] for kind in kinds])) for m, after in means.items()
        }
        after, worst = means[""], min(kinds, key=lambda kind: means[""][kind])
        before, relative = "", None
        if "before" in means:
            before = f"; before: {wording.percent(accuracy['before'])}"
            old = means["before"]
            errors = [(1 - after[kind]) / (1 - old[kind]) for kind in kinds if old[kind] < 1]
            relative = float(np.mean(errors)) if errors else None
        noise = CORRUPTIONS["gaussian_noise"]
        source = "ImageNet-C" if noise.constants(shape) == noise.large else "CIFAR-10-C"
        return self.section(
            f"{wording.percent(accuracy[''])} right on average over "
            f"{wording.plural(len(kinds), 'kind')} of corruption "
            f"(clean: {wording.percent(after[_CLEAN])}{before}); the worst is {_readable(worst)}, "
            f"{wording.percent(after[worst])}.",
            (
                *(self._curves(model, table) for model, table in correct.items()),
                *(self._table(model, table) for model, table in correct.items()),
            ),
            figures={
                "clean_accuracy": after[_CLEAN],
                "mean_error": 1 - accuracy[""],
                "relative_corruption_error": relative,
            },
            notes=(
                f"On {subject.sample(index)}. Constants of {source} (Hendrycks and Dietterich, "
                "2019).",
            ),
        )

    def _correct(
        self, data: EvaluationData, kinds: Sequence[str], index: Tensor, seed: int
    ) -> Correct:
        shape = tuple(data.x.shape[1:])
        table = {_CLEAN: [_right(data, index, None, 0.0, 0)]}
        for kind in kinds:
            corruption = CORRUPTIONS[kind]
            table[kind] = [
                _right(
                    data,
                    index,
                    corruption.apply,
                    corruption.constants(shape)[severity - 1],
                    seeding.derived(seed, f"{kind}:{severity}"),
                )
                for severity in self.severities
            ]
        return table

    def _curves(self, model: Model, table: Correct) -> Curves:
        x, clean = (0, *self.severities), table[_CLEAN]
        return Curves(
            x_label="severity",
            y_label="accuracy",
            x_unit="count",
            series=tuple(
                shares(_readable(kind), x, (*clean, *correct))
                for kind, correct in table.items()
                if kind != _CLEAN
            ),
            caption="Accuracy by severity; 0 is without corruption.",
            model=model,
        )

    def _table(self, model: Model, table: Correct) -> Table:
        percent: Unit = "percent"
        means = {kind: float(np.mean(values)) for kind, values in table.items() if kind != _CLEAN}
        return Table(
            columns=("corruption", *(f"severity {s}" for s in self.severities), "mean"),
            units=("text", *(percent for _ in self.severities), percent),
            rows=tuple(
                (_readable(kind), *(float(right.mean()) for right in table[kind]), means[kind])
                for kind in sorted(means, key=lambda kind: means[kind])
            ),
            caption="Accuracy, the worst first.",
            model=model,
        )


def _right(
    data: EvaluationData, index: Tensor, apply: Corrupt | None, constant: float, seed: int
) -> Bools:
    generator = torch.Generator(data.device).manual_seed(seed)
    right = []
    for _, x, y, space in data.batches(index):
        if apply is not None:
            x = _damaged(x, space, apply, constant, generator)
        right.append(~mistakes(data, x, y).numpy())
    return np.concatenate(right)


def _damaged(
    x: Tensor, space: InputSpace, apply: Corrupt, constant: float, generator: torch.Generator
) -> Tensor:
    """Corrupted on [0, 1] and taken back to the inputs' own range."""
    low, high = (torch.as_tensor(bound).to(x) for bound in (space.low, space.high))
    unit = ((x - low) / (high - low)).clamp(0, 1)
    damaged = low + (high - low) * apply(unit, constant, generator)
    return x + space.restrict(damaged - x) if space.mask is not None else damaged


def _readable(kind: str) -> str:
    return "JPEG" if kind == "jpeg" else kind.replace("_", " ")
