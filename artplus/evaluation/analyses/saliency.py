"""What the model looks at: gradients at the inputs, before and after hardening, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Climb
from artplus.attacks._base import gradient as input_gradient
from artplus.errors import ConfigurationError
from artplus.evaluation import images, wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    first,
    need_classes,
    need_gradients,
    register_analysis,
)
from artplus.evaluation.analyses._measure import class_name, labels, sides
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import (
    Block,
    Curves,
    Gallery,
    Model,
    Picture,
    Section,
    Series,
    Table,
)
from artplus.functional import class_index

Floats = NDArray[np.float64]


@register_analysis("saliency")
@dataclass(frozen=True, kw_only=True)
class Saliency:
    r"""Gradients at the inputs as pictures, and how much they resemble the inputs.

    Of each example the gradient :math:`g = \nabla_x z_y(x)` of the true class's logit, or of the
    loss. Gradients of robust models tend to show the object, others look like noise
    [Tsipras19]_, [Etmann19]_. Two figures say how much, as means over ``measured`` examples:

    .. math:: \text{alignment} = \frac{|\langle x, g \rangle|}{\|x\|_2 \, \|g\|_2}

    between 0 and 1, and the Gini index of :math:`|g|`, from 0, all features alike, to 1, one
    feature alone [Hurley09]_. In a row all gradients have one scale. Gradients are summed
    over the channels for display; the figures use every channel.

    Args:
        n: Number of examples shown, of the report's gallery, those that fell first.
        measured: Number of examples that the figures are means of, the first.
        of: ``"logit"`` of the true class; or ``"loss"``, which regression has too.

    Raises:
        ConfigurationError: without gradients, or for the logit in regression.

    References:
        .. [Tsipras19] Tsipras et al., "Robustness may be at odds with accuracy", ICLR 2019,
           https://arxiv.org/abs/1805.12152
        .. [Etmann19] Etmann et al., "On the connection between adversarial robustness and saliency
           map interpretability", ICML 2019, https://arxiv.org/abs/1905.04172
        .. [Hurley09] Hurley and Rickard, "Comparing measures of sparsity", IEEE Transactions on
           Information Theory, 2009, https://arxiv.org/abs/0811.4706
    """

    n: int = 4
    measured: int = 256
    of: Literal["logit", "loss"] = "logit"

    def __post_init__(self) -> None:
        _checks.count("n", self.n)
        _checks.count("measured", self.measured)
        if self.of not in ("logit", "loss"):
            raise ConfigurationError(f"saliency is of 'logit' or 'loss', got {self.of!r}")

    def check(self, setting: Setting) -> None:
        """Refuse models without gradients, and logits in regression."""
        if self.of == "logit":
            need_classes(setting, "saliency of a logit (of='loss' needs none)")
        need_gradients(setting, "saliency")

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        models = sides(subject)
        index = first(subject, self.measured)
        rows: dict[Model, tuple[float, float, float]] = {}
        figures = []
        for model, data in models.items():
            found = [measures(x, g) for x, g in _pairs(data, index, self.of)]
            alignment, sparsity, size = np.concatenate(found).mean(0).tolist()
            rows[model] = alignment, sparsity, size
            tail = f"_{model}" if model else ""
            figures += [(f"alignment{tail}", alignment), (f"sparsity{tail}", sparsity)]
        shown = telling(subject, self.n)
        x = subject.data.x[shown].cpu().numpy()
        slopes = {model: gradients(data, shown, self.of) for model, data in models.items()}
        what = "the true class's logit" if self.of == "logit" else "the loss"
        return Section(
            name="saliency",
            title="What the model looks at",
            summary=_summary(rows),
            blocks=(
                *_pictures(subject, shown, x, slopes, what),
                *(
                    Table(
                        columns=("", "alignment with the input", "sparsity", "mean ‖g‖₁"),
                        units=("text", "number", "number", "number"),
                        rows=(("model", *row),),
                        caption="Means over the examples: alignment |⟨x, g⟩| / (‖x‖ ‖g‖) and the "
                        "Gini index of |g|, both between 0 and 1.",
                        model=model,
                    )
                    for model, row in rows.items()
                ),
            ),
            figures=tuple(figures),
            notes=(
                f"Gradient g of {what}; means over the first {len(index)} of {subject.report.n} "
                "examples.",
            ),
        )


def gradients(
    data: EvaluationData, index: Tensor, of: Literal["logit", "loss"] = "logit"
) -> Floats:
    """``(len(index), *input)`` gradients of the true class's logit or of the loss."""
    return np.concatenate([slope for _, slope in _pairs(data, index, of)])


def measures(x: Floats, g: Floats) -> Floats:
    """Alignment, sparsity and the L1 norm of each example, ``(batch, 3)``."""
    a, b = x.reshape(len(x), -1), g.reshape(len(g), -1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alignment = np.abs((a * b).sum(1)) / np.where(lengths > 0, lengths, 1.0)
    return np.stack([alignment, gini(np.abs(b)), np.abs(b).sum(1)], axis=1)


def gini(values: Floats) -> Floats:
    r"""Gini index of each row of nonnegative values: 0 if they are alike, near 1 if one has all.

    .. math:: 1 - 2 \sum_k \frac{v_{(k)}}{\|v\|_1} \cdot \frac{N - k + 1/2}{N}

    Example:
        >>> gini(np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])).tolist()
        [0.0, 0.75]
    """
    ordered = np.sort(values, axis=1)
    count = values.shape[1]
    total = ordered.sum(1, keepdims=True)
    parts = ordered / np.where(total > 0, total, 1.0)
    weights = (count - np.arange(1, count + 1) + 0.5) / count
    found: Floats = np.where(total[:, 0] > 0, 1 - 2 * (parts * weights).sum(1), 0.0)
    return found


def _pairs(
    data: EvaluationData, index: Tensor, of: Literal["logit", "loss"]
) -> list[tuple[Floats, Floats]]:
    """Inputs and gradients, a batch at a time, in double precision."""
    found = []
    for _, x, y, _ in data.batches(index):
        _, slope = input_gradient(_climb(data, y, of), x)
        found.append((x.double().cpu().numpy(), slope.double().cpu().numpy()))
    return found


def _climb(data: EvaluationData, y: Tensor, of: Literal["logit", "loss"]) -> Climb:
    if of == "loss":
        return lambda x: data.model.loss(data.model(x), y)
    column = class_index(y)[:, None]
    return lambda x: data.model(x).gather(1, column).squeeze(1)


def telling(subject: Subject, n: int) -> Tensor:
    """Positions of examples to look at: of the report's gallery, those that fell first."""
    kept = subject.report.examples
    if kept is None:
        return first(subject, n)
    held = np.zeros(len(kept), dtype=bool)
    if subject.data.classes is not None:
        held = kept.adversarial == kept.y
    order = np.argsort(held, kind="stable")[:n]
    return torch.from_numpy(np.asarray(kept.index[order], dtype=np.int64))


def _pictures(
    subject: Subject, index: Tensor, x: Floats, slopes: dict[Model, Floats], what: str
) -> list[Block]:
    """Images as pictures, signals and features as lines; a block for each model."""
    titles = [f"example {k}" for k in index.tolist()]
    if subject.data.classes is not None:
        names = [class_name(subject, k) for k in labels(subject.data, index).tolist()]
        titles = [f"{title}, {name}" for title, name in zip(titles, names, strict=True)]
    if images.as_image(x[0]) is None:
        return [_line(slope[0], titles[0], what, model) for model, slope in slopes.items()]
    low, high = images.value_range(x)
    rows: dict[Model, list[tuple[Picture, ...]]] = {model: [] for model in slopes}
    for k, title in enumerate(titles):
        plain = images.shown(np.asarray(images.as_image(x[k])), low, high)
        maps = {model: _flat(slope[k]) for model, slope in slopes.items()}
        # One scale for both models, at the 99th percentile: single pixels would leave the rest
        # grey.
        reach = float(np.quantile(np.abs(np.stack(list(maps.values()))), 0.99)) or 1.0
        for model, values in maps.items():
            alignment = measures(x[k : k + 1].astype(np.float64), slopes[model][k : k + 1])[0, 0]
            gradient = Picture(
                title="gradient",
                image=images.shown(values, -reach, reach),
                text=f"alignment {alignment:.2f}",
                colours="signed",
            )
            rows[model].append((Picture(title=title, image=plain), gradient))
    return [
        Gallery(
            rows=tuple(pictures),
            caption=f"Gradient of {what}: red raises it where the input grows, blue lowers it. "
            "Each row has one scale.",
            model=model,
        )
        for model, pictures in rows.items()
    ]


def _flat(gradient: Floats) -> Floats:
    """The gradient of an image, summed over its channels: ``(H, W)``."""
    image = images.as_image(gradient)
    flat: Floats = np.asarray(image if image is None or image.ndim == 2 else image.sum(-1))
    return flat


def _line(slope: Floats, title: str, what: str, model: Model) -> Curves:
    values = slope.reshape(-1).tolist()
    return Curves(
        x_label="feature",
        y_label="gradient",
        x_unit="count",
        y_unit="number",
        series=(Series(name="model", x=tuple(map(float, range(len(values)))), y=tuple(values)),),
        caption=f"Gradient of {what} at {title}.",
        model=model,
    )


def _summary(rows: dict[Model, tuple[float, float, float]]) -> str:
    alignment, sparsity, _ = rows[""]
    text = f"Gradients align with their inputs by {wording.cell(alignment, 'number')}"
    if "before" in rows:
        text += f" (before hardening: {wording.cell(rows['before'][0], 'number')})"
    text += f"; their sparsity is {wording.cell(sparsity, 'number')}"
    if "before" in rows:
        text += f" (before: {wording.cell(rows['before'][1], 'number')})"
    return text + "."
