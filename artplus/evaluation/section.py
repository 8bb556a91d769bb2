"""One part of a report, in blocks that any format can draw: tables, curves, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from artplus.errors import ConfigurationError

Unit = Literal["text", "count", "percent", "number"]
"""How a value is written: as it is, as a whole number, as a share of 1, with three digits."""

Cell = str | int | float | None
"""What a table holds; ``None`` is an empty cell."""

Model = Literal["", "before"]
"""Which model a block is about: the one judged, or the one given as ``before=``."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """What every block has.

    Attributes:
        caption: What it shows, in a sentence. Blocks of two models with the same caption show the
            same thing, so the page puts them into one chart or table, or side by side.
        model: Which model it is about.
    """

    caption: str = ""
    model: Model = ""


@dataclass(frozen=True, kw_only=True)
class Table(_Block):
    """Rows under named columns.

    Attributes:
        columns: Names of the columns.
        units: How each column's values are written.
        rows: One cell per column each.
    """

    columns: tuple[str, ...]
    units: tuple[Unit, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        widths = {len(self.columns), len(self.units), *(len(row) for row in self.rows)}
        if len(widths) > 1:
            raise ConfigurationError(
                f"a table needs one unit and one cell a row for each of {len(self.columns)} columns"
            )


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart.

    Attributes:
        name: For the legend.
        x: Ascending positions.
        y: Values; ``None`` where there is none.
        low: Lower ends of an interval, or empty.
        high: Upper ends.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or {len(self.low), len(self.high)} - {0, len(self.x)}:
            raise ConfigurationError(f"series {self.name!r}: x, y and interval differ in length")


@dataclass(frozen=True, kw_only=True)
class Curves(_Block):
    """Lines over one axis.

    Attributes:
        x_label: What ``x`` is, with its unit.
        y_label: What ``y`` is.
        series: The lines.
        x_unit: How ``x`` is written.
        y_unit: How ``y`` is written; ``"percent"`` fixes the axis to 0–100 %.
    """

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_unit: Unit = "number"
    y_unit: Unit = "percent"


@dataclass(frozen=True, kw_only=True)
class Matrix(_Block):
    """A value for each pair, drawn as coloured cells.

    Attributes:
        row_label: What the rows are.
        column_label: What the columns are.
        rows: Their names.
        columns: Their names.
        values: ``(rows, columns)``; ``None`` where there is none.
        unit: How a value is written.
        span: What the palest and the fullest cell stand for, so that several matrices share one
            scale; ``None`` is 0 to 1 for shares, else from the least to the largest value.
    """

    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: Unit = "percent"
    span: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.values) != len(self.rows) or any(
            len(row) != len(self.columns) for row in self.values
        ):
            raise ConfigurationError(
                f"a matrix of {len(self.rows)} rows and {len(self.columns)} columns needs a value "
                "for each pair"
            )


@dataclass(frozen=True, kw_only=True)
class Group:
    """Points of one kind.

    Attributes:
        name: For the legend.
        x: Positions.
        y: Positions.
        labels: What each point is, shown on demand; empty or one per point.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.labels) not in {0, len(self.x)}:
            raise ConfigurationError(f"group {self.name!r}: x, y and labels differ in length")


@dataclass(frozen=True, kw_only=True)
class Scatter(_Block):
    """Points in the plane, by group.

    Attributes:
        x_label: What ``x`` is.
        y_label: What ``y`` is.
        groups: The points.
    """

    x_label: str
    y_label: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image with its title.

    Attributes:
        title: Short.
        image: ``(height, width)`` grey or ``(height, width, 3)`` colours, floats in [0, 1].
        text: Further words under it.
        colours: How a grey image is drawn: as grey, or as values from low to high, or as signed
            values around 0.5.
    """

    title: str
    image: NDArray[np.float32]
    text: str = ""
    colours: Literal["grey", "heat", "signed"] = "grey"

    def __post_init__(self) -> None:
        shape = self.image.shape
        if len(shape) not in {2, 3} or (len(shape) == 3 and shape[2] != 3):
            raise ConfigurationError(
                f"picture {self.title!r} must be (height, width) or (height, width, 3), got {shape}"
            )


@dataclass(frozen=True, kw_only=True)
class Gallery(_Block):
    """Rows of pictures that belong together.

    Attributes:
        rows: Each row tells one example.
    """

    rows: tuple[tuple[Picture, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text whose words carry weights, or were changed.

    Attributes:
        title: Short.
        tokens: The words, in order.
        weights: One in [-1, 1] for each: its influence; 0 where only changes are shown.
        text: Further words under it.
        before: What stood in the place of each word, ``""`` where nothing did; empty if nothing was
            changed. A word that was left out is the token ``""``.
    """

    title: str
    tokens: tuple[str, ...]
    weights: tuple[float, ...]
    text: str = ""
    before: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.weights):
            raise ConfigurationError(f"passage {self.title!r} needs one weight per token")
        if len(self.before) not in {0, len(self.tokens)}:
            raise ConfigurationError(
                f"passage {self.title!r} needs a word before for each token, or none"
            )


@dataclass(frozen=True, kw_only=True)
class Passages(_Block):
    """Texts, one under the other.

    Attributes:
        passages: The texts.
    """

    passages: tuple[Passage, ...]


Block = Table | Curves | Matrix | Scatter | Gallery | Passages


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a report.

    Attributes:
        name: Of the analysis that made it; unique in a report.
        title: Its heading.
        summary: What it says, in a sentence or two with the figures that matter.
        blocks: What it shows, in order.
        figures: Its key numbers by name, for other programs; finite.
        notes: What a reader should know: attack, radius, norm, n, seed, what was left out.
        settings: Of the analysis, by name, so that two sections can be compared: its fields, and
            the report's ball and seed.
    """

    name: str
    title: str
    summary: str
    blocks: tuple[Block, ...] = ()
    figures: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
