"""What the model looks at: gradients at the inputs, before and after hardening, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus.attacks._base import Climb
from artplus.attacks._base import gradient as input_gradient
from artplus.errors import ConfigurationError
from artplus.evaluation import images
from artplus.evaluation.analyses._base import (
    BaseAnalysis,
    Setting,
    Subject,
    need_classes,
    register_analysis,
)
from artplus.evaluation.analyses._measure import with_before
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
Of = Literal["logit", "loss"]


@register_analysis("saliency")
@dataclass(frozen=True, kw_only=True)
class Saliency(BaseAnalysis):
    r"""Gradients at the inputs as pictures, and how much they resemble the inputs.

    For each example this is the gradient :math:`g = \nabla_x z_y(x)` of the true class's logit, or
    of the loss. Gradients of robust models tend to show the object, others look like noise
    [Tsipras19]_, [Etmann19]_. Two figures say how much, as means over ``measured`` examples:

    .. math:: \text{alignment} = \frac{|\langle x, g \rangle|}{\|x\|_2 \, \|g\|_2}

    between 0 and 1, and the Gini index of :math:`|g|`, from 0 for equal features to 1 for a single
    feature [Hurley09]_. Gradients of an example have one scale. They are summed over the channels
    for display; the figures use every channel.

    Args:
        n: Number of examples shown, of the report's gallery, fooled ones first.
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

    name = "saliency"
    title = "What the model looks at"
    needs = ("gradients",)

    n: int = 4
    measured: int = 256
    of: Of = "logit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of not in ("logit", "loss"):
            raise ConfigurationError(f"saliency is of 'logit' or 'loss', got {self.of!r}")

    def check(self, setting: Setting) -> None:
        if self.of == "logit":
            need_classes(setting, "saliency of a logit (of='loss' needs none)")
        super().check(setting)

    def __call__(self, subject: Subject) -> Section:
        models, index = subject.models, subject.first(self.measured)
        rows: dict[Model, list[float]] = {}
        figures: dict[str, float] = {}
        for model, data in models.items():
            values = [measures(x, g) for x, g in _pairs(data, index, self.of)]
            rows[model] = np.concatenate(values).mean(0).tolist()
            tail = f"_{model}" if model else ""
            figures |= {f"alignment{tail}": rows[model][0], f"sparsity{tail}": rows[model][1]}
        shown = examples_to_show(subject, self.n)
        x = subject.data.x[shown].cpu().numpy()
        slopes = {model: gradients(data, shown, self.of) for model, data in models.items()}
        what = "the true class's logit" if self.of == "logit" else "the loss"
        alignment, sparsity = (
            with_before({model: row[k] for model, row in rows.items()}, "number") for k in (0, 1)
        )
        return self.section(
            f"Gradients align with their inputs by {alignment}; their sparsity is {sparsity}.",
            (
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
            figures=figures,
            notes=(f"Gradient g of {what}; means over {subject.sample(index)}.",),
        )


def gradients(data: EvaluationData, index: Tensor, of: Of = "logit") -> Floats:
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
    return np.asarray(np.where(total[:, 0] > 0, 1 - 2 * (parts * weights).sum(1), 0.0))


def _pairs(data: EvaluationData, index: Tensor, of: Of) -> list[tuple[Floats, Floats]]:
    """Inputs and gradients, a batch at a time, in double precision."""
    pairs = []
    for _, x, y, _ in data.batches(index):
        _, grads = input_gradient(_climb(data, y, of), x)
        pairs.append((x.double().cpu().numpy(), grads.double().cpu().numpy()))
    return pairs


def _climb(data: EvaluationData, y: Tensor, of: Of) -> Climb:
    if of == "loss":
        return lambda x: data.model.loss(data.model(x), y)
    column = class_index(y)[:, None]
    return lambda x: data.model(x).gather(1, column).squeeze(1)


def examples_to_show(subject: Subject, n: int) -> Tensor:
    """Positions of ``n`` examples of the report's gallery, fooled ones first."""
    kept = subject.report.examples
    if kept is None:
        return subject.first(n)
    robust = np.zeros(len(kept), dtype=bool)
    if subject.data.classes is not None:
        robust = kept.adversarial == kept.y
    order = np.argsort(robust, kind="stable")[:n]
    return torch.from_numpy(np.asarray(kept.index[order], dtype=np.int64))


def _pictures(
    subject: Subject, index: Tensor, x: Floats, slopes: dict[Model, Floats], what: str
) -> list[Block]:
    """Images as pictures, signals and features as lines; a block for each model."""
    titles = [f"example {k}" for k in index.tolist()]
    if subject.data.classes is not None:
        names = [subject.class_name(k) for k in subject.labels(index).tolist()]
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
