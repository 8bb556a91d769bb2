"""Attacked examples: images as they are, signals as curves, rows of features as dots."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from artplus.evaluation import wording
from artplus.evaluation.images import as_image
from artplus.evaluation.images import value_range as value_range
from artplus.reporting.axes import Axis
from artplus.reporting.charts import tag

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.section import Picture

Array = NDArray[Any]

FEATURES = 64
"""Inputs with at most so many values are drawn as single features, larger ones as a signal."""

_LEFT, _RIGHT, _TOP, _MIDDLE, _BOTTOM = 8, 312, 8, 70, 102
"""Where signals are drawn, and where their difference begins below them."""


@dataclass(frozen=True)
class Pictures:
    """How the page draws an example.

    Attributes:
        panels: Captions, and pictures as ``data:`` addresses of PNG images or as inline SVG.
        image: Whether the panels are images.
    """

    panels: tuple[tuple[str, str | Markup], ...]
    image: bool


@dataclass(frozen=True)
class Example:
    """An attacked example."""

    number: int
    label: str
    clean: str
    adversarial: str
    fooled: bool
    attack: str
    pictures: Pictures


def examples(report: Report) -> list[Example]:
    """The examples that the report keeps."""
    kept = report.examples
    if kept is None:
        return []
    low, high = value_range(np.stack([kept.x, kept.x_adv]))
    classes = report.clean_accuracy is not None and np.issubdtype(kept.y.dtype, np.integer)

    def label(value: Any) -> str:
        if not classes and np.size(value) == 1:
            return wording.number(float(np.asarray(value).item()))
        if not classes:
            return np.array2string(np.asarray(value), precision=3, threshold=6)
        number = int(value)
        if report.class_names is not None and 0 <= number < len(report.class_names):
            return report.class_names[number]
        return f"class {number}"

    return [
        Example(
            number=int(kept.index[k]),
            label=label(kept.y[k]),
            clean=label(kept.clean[k]),
            adversarial=label(kept.adversarial[k]),
            fooled=bool(classes and kept.adversarial[k] != kept.y[k]),
            attack=kept.attack[k],
            pictures=pictures(kept.x[k], kept.x_adv[k], low, high),
        )
        for k in range(len(kept))
    ]


def pictures(x: Array, x_adv: Array, low: float, high: float) -> Pictures:
    """Draw an example before and under attack, with the difference.

    Images ``(1, H, W)``, ``(3, H, W)``, ``(H, W, 3)`` or ``(H, W)`` become three images; the
    difference is enlarged to the full range. Inputs of other shapes are flattened and drawn as
    curves, or as dots if there are at most :data:`FEATURES` values.

    Args:
        x: The clean input.
        x_adv: The attacked input, shaped like ``x``.
        low: The value shown as black.
        high: The value shown as white.
    """
    before, after = as_image(x), as_image(x_adv)
    if before is None or after is None:
        kind = _dots if x.size <= FEATURES else _curves
        return Pictures((("before and after", kind(x.ravel(), x_adv.ravel())),), image=False)
    span = (high - low) or 1.0
    delta = (after - before).astype(np.float64)
    largest = float(np.abs(delta).max())
    factor = span / 2 / largest if largest else 1.0
    return Pictures(
        (
            ("original", _png((before - low) / span)),
            (f"change × {factor:.3g}", _png(0.5 + delta * factor / span)),
            ("attacked", _png((after - low) / span)),
        ),
        image=True,
    )


def coloured(picture: Picture) -> str:
    """A picture of a section as a ``data:`` address, in its colours."""
    image = np.clip(np.nan_to_num(picture.image), 0, 1)
    if image.ndim == 2 and picture.colours != "grey":
        from matplotlib import colormaps

        name = "magma" if picture.colours == "heat" else "RdBu_r"
        image = colormaps[name](image)[..., :3]
    return _png(image)


def _png(values: Array) -> str:
    """An image with values in [0, 1] as a ``data:`` address."""
    from matplotlib.image import imsave

    levels = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    if levels.ndim == 2:
        levels = np.repeat(levels[..., None], 3, axis=2)
    file = io.BytesIO()
    imsave(file, levels, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _curves(x: Array, x_adv: Array) -> Markup:
    """Both signals over each other, and below them their difference, enlarged."""
    scale = _scale(np.concatenate([x, x_adv]))
    delta = x_adv.astype(np.float64) - x
    reach = float(np.abs(delta).max()) or 1.0
    return _svg(
        [
            _polyline(scale.place(x_adv, _MIDDLE, _TOP), "after"),
            _polyline(scale.place(x, _MIDDLE, _TOP), "before"),
            _polyline(Axis(-reach, reach).place(delta, _BOTTOM, _MIDDLE + 8), "delta"),
        ]
    )


def _dots(x: Array, x_adv: Array) -> Markup:
    """A column for each feature: a ring for the clean value, a dot for the attacked one."""
    scale = _scale(np.concatenate([x, x_adv]))
    marks = []
    for across, *values in zip(_across(len(x)), x, x_adv, strict=True):
        old, new = (f"{scale.place(float(value), _BOTTOM, _TOP):.1f}" for value in values)
        at = f"{across:.1f}"
        marks += [
            tag("line", class_="delta", x1=at, x2=at, y1=old, y2=new),
            tag("circle", class_="before", cx=at, cy=old, r=4),
            tag("circle", class_="after", cx=at, cy=new, r=2.4),
        ]
    return _svg(marks)


def _scale(values: Array) -> Axis:
    low, high = float(values.min()), float(values.max())
    return Axis(low, high if high > low else low + 1.0)


def _across(count: int) -> Array:
    return np.linspace(_LEFT, _RIGHT, count) if count > 1 else np.array([(_LEFT + _RIGHT) / 2])


def _polyline(heights: Array, name: str) -> Markup:
    """A curve; a long signal is reduced to the extremes in each pixel column."""
    across = _across(len(heights))
    if len(heights) > 2 * _RIGHT:
        groups = np.array_split(np.arange(len(heights)), _RIGHT)
        chosen = np.concatenate(
            [np.sort(g[[heights[g].argmin(), heights[g].argmax()]]) for g in groups]
        )
        across, heights = across[chosen], heights[chosen]
    points = " ".join(f"{a:.1f},{h:.1f}" for a, h in zip(across, heights, strict=True))
    return tag("polyline", class_=name, points=points)


def _svg(content: list[Markup]) -> Markup:
    box = f"0 0 {_LEFT + _RIGHT} {_TOP + _BOTTOM}"
    label = "The input before and under attack"
    return tag("svg", content, class_="signal", viewBox=box, role="img", aria_label=label)
