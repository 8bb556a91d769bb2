"""Accuracy under common corruptions: what wears inputs down without anybody's intent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artplus import _checks, seeding
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    first,
    need_classes,
    register_analysis,
)
from artplus.evaluation.analyses._corrupt import CORRUPTIONS, Corrupt, applicable
from artplus.evaluation.analyses._measure import Bools, mistakes, shares, sides
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Curves, Model, Section, Table, Unit
from artplus.spaces import InputSpace

_SEVERITIES = (1, 2, 3, 4, 5)


@register_analysis("corruptions")
@dataclass(frozen=True, kw_only=True)
class Corruptions:
    r"""Accuracy under noise, blur, changes of light, pixelation and JPEG, at five severities.

    The constants are those of Hendrycks and Dietterich [Hendrycks19]_, of CIFAR-10-C for images of
    at most 64 pixels a side and for what is no image, of ImageNet-C for larger ones. Inputs are
    taken to [0, 1] by their range of valid values and back, so the severities are in the inputs'
    own units. Inputs that are no images get the four kinds of noise. Masked features stay.

    The mean error is over kinds and severities alike. With a model ``before`` there is the
    corruption error of the paper with that model in AlexNet's place,

    .. math:: \mathrm{CE}_c = \sum_s E_{s,c} \Big/ \sum_s E_{s,c}^{\mathrm{before}}

    Differs from the paper: (1) nine kinds, five of its fifteen beside four of its extras and
    variants; the rest need pictures of frost, or other libraries; (2) the images are not rounded
    to bytes; (3) a blur repeats the edge; (4) the noise of a batch is drawn by torch.

    Args:
        kinds: Names from :data:`CORRUPTIONS`; ``None`` is all that apply.
        severities: Of 1 to 5.
        n: Number of examples, the first; ``None`` is all.

    Raises:
        ConfigurationError: in regression; for inputs without a range of valid values; for kinds
            that do not exist or do not apply.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[Corruptions(severities=(1, 5))], progress=False,
        ... )
        >>> report.sections[0].blocks[1].columns
        ('corruption', 'severity 1', 'severity 5', 'mean')

    References:
        .. [Hendrycks19] Hendrycks and Dietterich, "Benchmarking neural network robustness to
           common corruptions and perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261
    """

    kinds: Sequence[str] | None = None
    severities: Sequence[int] = _SEVERITIES
    n: int | None = 500

    def __post_init__(self) -> None:
        if self.n is not None:
            _checks.count("n", self.n)
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
        """Refuse regressions, inputs without a range, and kinds that do not apply."""
        need_classes(setting, "corruptions")
        data = setting.data
        if data.space.low is None or data.space.high is None:
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
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        index = first(subject, self.n)
        kinds = list(self.kinds or applicable(tuple(subject.data.x.shape[1:])))
        found = {
            model: self._accuracies(side, kinds, index, subject.seed)
            for model, side in sides(subject).items()
        }
        own = found[""]
        error = {model: 1 - _mean(table, kinds) for model, table in found.items()}
        worst = min(kinds, key=lambda kind: float(np.mean(_means(own[kind]))))
        figures = {"clean_accuracy": float(own[""][0].mean()), "mean_error": error[""]}
        if len(found) > 1:
            figures |= _relative(found["before"], own, kinds)
        return Section(
            name="corruptions",
            title="Common corruptions",
            summary=(
                f"{wording.percent(1 - figures['mean_error'])} right on average over "
                f"{wording.plural(len(kinds), 'kind')} of corruption "
                f"(clean: {wording.percent(figures['clean_accuracy'])}"
                + (f"; before: {wording.percent(1 - error['before'])}" if len(found) > 1 else "")
                + f"); the worst is {_readable(worst)}, "
                f"{wording.percent(float(np.mean(_means(own[worst]))))}."
            ),
            blocks=(
                *(self._curves(model, table, kinds) for model, table in found.items()),
                *(self._table(model, table) for model, table in found.items()),
            ),
            figures=tuple(figures.items()),
            notes=(
                f"The first {len(index)} of {subject.report.n} examples, seed {subject.seed}; "
                f"constants of {_source(subject.data)} (Hendrycks and Dietterich, 2019).",
            ),
        )

    def _accuracies(
        self, data: EvaluationData, kinds: Sequence[str], index: Tensor, seed: int
    ) -> dict[str, list[Bools]]:
        """Which examples are right, by kind, one array per severity; ``""`` is without any."""
        shape = tuple(data.x.shape[1:])
        found = {"": [_right(data, index, None, 0.0, 0)]}
        for kind in kinds:
            constants = CORRUPTIONS[kind].constants(shape)
            found[kind] = [
                _right(
                    data, index, CORRUPTIONS[kind].apply, constants[severity - 1],
                    seeding.derived(seed, f"{kind}:{severity}"),
                )
                for severity in self.severities
            ]  # fmt: skip
        return found

    def _curves(self, model: Model, table: dict[str, list[Bools]], kinds: Sequence[str]) -> Curves:
        x = (0, *self.severities)
        lines = [shares(_readable(kind), x, (*table[""], *table[kind])) for kind in kinds]
        return Curves(
            x_label="severity",
            y_label="accuracy",
            x_unit="count",
            series=tuple(lines),
            caption="Accuracy by severity; 0 is without corruption.",
            model=model,
        )

    def _table(self, model: Model, table: dict[str, list[Bools]]) -> Table:
        mean = {kind: float(np.mean(_means(table[kind]))) for kind in table if kind}
        percent: Unit = "percent"
        return Table(
            columns=("corruption", *(f"severity {s}" for s in self.severities), "mean"),
            units=("text", *(percent for _ in self.severities), percent),
            rows=tuple(
                (_readable(kind), *_means(table[kind]), mean[kind])
                for kind in sorted(mean, key=lambda kind: mean[kind])
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
        damaged = x if apply is None else _damaged(x, space, apply, constant, generator)
        right.append(~mistakes(data, damaged, y).numpy())
    return np.concatenate(right)


def _damaged(
    x: Tensor, space: InputSpace, apply: Corrupt, constant: float, generator: torch.Generator
) -> Tensor:
    """Corrupted on [0, 1] and taken back to the inputs' own range."""
    low, high = (torch.as_tensor(bound).to(x) for bound in (space.low, space.high))
    unit = ((x - low) / (high - low)).clamp(0, 1)
    damaged = low + (high - low) * apply(unit, constant, generator)
    return x + space.restrict(damaged - x) if space.mask is not None else damaged


def _means(correct: Sequence[Bools]) -> list[float]:
    return [float(values.mean()) for values in correct]


def _mean(table: dict[str, list[Bools]], kinds: Sequence[str]) -> float:
    return float(np.mean([_means(table[kind]) for kind in kinds]))


def _relative(
    before: dict[str, list[Bools]], after: dict[str, list[Bools]], kinds: Sequence[str]
) -> dict[str, float]:
    """Mean corruption error with ``before`` as the baseline; nothing if that makes no mistakes."""
    errors = [
        (1 - float(np.mean(_means(after[kind])))) / (1 - float(np.mean(_means(before[kind]))))
        for kind in kinds
        if np.mean(_means(before[kind])) < 1
    ]
    return {"relative_corruption_error": float(np.mean(errors))} if errors else {}


def _readable(kind: str) -> str:
    return "JPEG" if kind == "jpeg" else kind.replace("_", " ")


def _source(data: EvaluationData) -> str:
    noise = CORRUPTIONS["gaussian_noise"]
    large = noise.constants(tuple(data.x.shape[1:])) == noise.large
    return "ImageNet-C" if large else "CIFAR-10-C"
