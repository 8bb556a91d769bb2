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

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.section import Picture

Array = NDArray[Any]

FEATURES = 64
"""Inputs with at most so many values are drawn as single features, larger ones as a signal."""

_WIDTH, _HEIGHT, _PAD = 320, 110, 8


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
    place = _scale(np.concatenate([x, x_adv]), 0.0, 0.66)
    delta = x_adv.astype(np.float64) - x
    reach = float(np.abs(delta).max()) or 1.0
    below = _scale(np.array([-reach, reach]), 0.74, 1.0)
    return _svg(
        _polyline(place(x_adv), "after") + _polyline(place(x), "before")
        + _polyline(below(delta), "delta")
    )  # fmt: skip


def _dots(x: Array, x_adv: Array) -> Markup:
    """A column for each feature: a ring for the clean value, a dot for the attacked one."""
    place = _scale(np.concatenate([x, x_adv]), 0.0, 1.0)
    across = _across(len(x))
    marks = Markup("").join(
        Markup(
            '<line class="delta" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
            '<circle class="before" cx="{0:.1f}" cy="{1:.1f}" r="4"/>'
            '<circle class="after" cx="{0:.1f}" cy="{2:.1f}" r="2.4"/>'
        ).format(float(column), float(old), float(new))
        for column, old, new in zip(across, place(x), place(x_adv), strict=True)
    )
    return _svg(marks)


def _scale(values: Array, top: float, bottom: float) -> Any:
    """A function from values to heights in a band of the picture, large values on top."""
    least, most = float(values.min()), float(values.max())
    span = (most - least) or 1.0
    start, height = _PAD + top * (_HEIGHT - 2 * _PAD), (bottom - top) * (_HEIGHT - 2 * _PAD)
    return lambda v: start + height * (1 - (v.astype(np.float64) - least) / span)


def _across(count: int) -> Array:
    return np.linspace(_PAD, _WIDTH - _PAD, count) if count > 1 else np.array([_WIDTH / 2])


def _polyline(heights: Array, name: str) -> Markup:
    """A curve; a long signal is reduced to the extremes in each pixel column."""
    across = _across(len(heights))
    if len(heights) > 2 * _WIDTH:
        groups = np.array_split(np.arange(len(heights)), _WIDTH)
        chosen = np.concatenate(
            [np.sort(g[[heights[g].argmin(), heights[g].argmax()]]) for g in groups]
        )
        across, heights = across[chosen], heights[chosen]
    points = " ".join(f"{a:.1f},{h:.1f}" for a, h in zip(across, heights, strict=True))
    return Markup('<polyline class="{}" points="{}"/>').format(name, points)


def _svg(content: Markup) -> Markup:
    return Markup(
        '<svg class="signal" viewBox="0 0 {} {}" role="img" '
        'aria-label="The input before and under attack">{}</svg>'
    ).format(_WIDTH, _HEIGHT, content)
