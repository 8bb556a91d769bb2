"""The suite's figures as one picture, a panel a section."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artplus.reporting.palette import light
from tests.benchmarks.contenders import AUTHORS, AUTO, BARE, CONTENDERS, OURS, ROOFLINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = dict[str, Any]
INK = light()
PLAIN = "plain training"
ORDER = [*CONTENDERS, AUTO, *ROOFLINE, AUTHORS, PLAIN]
COLOURS = {
    BARE: INK["rule"], OURS: INK["s0"], "ART Madry": INK["s1"], "torchattacks": INK["s2"],
    "Foolbox": INK["s3"], AUTO: INK["s0"], "channels last": INK["s2"], "bf16": INK["s3"],
    "compiled": INK["s4"], "all three": INK["s6"], AUTHORS: INK["rule"], PLAIN: INK["s7"],
}  # fmt: skip
MARKS = {BARE: "s", OURS: "o", "ART Madry": "^", PLAIN: "D"}


def draw(found: Found, path: Path) -> Path:
    """Draw the sections that were run."""
    from matplotlib.figure import Figure

    panels = [(name, make) for name, make in PANELS.items() if name in found]
    height = 1 + 3.6 * -(-len(panels) // 2)
    figure = Figure(figsize=(12, height), dpi=130, layout="constrained", facecolor="white")
    grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False)
    for axes, (name, make) in zip(grid.flat, panels, strict=False):
        make(axes, found[name])
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    where = found["machine"]
    figure.suptitle(
        "One epoch of PGD training, by contender: medians over rounds in turn, bars and bands are "
        f"quartiles\n{where['processor']}, {where['threads']} threads, torch {where['torch']}",
        fontsize=10,
        color=INK["soft"],
    )
    figure.savefig(path)
    return path


def _bars(axes: Axes, section: Found, reference: str, title: str) -> None:
    """Groups of bars: speed against the reference, which is the line at one."""
    names = [n for n in ORDER if n != reference and any(n in rows for rows in section.values())]
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        places = [i for i, rows in enumerate(section.values()) if name in rows]
        speeds = [rows[name]["speed"] for rows in section.values() if name in rows]
        middles = [speed["median"] for speed in speeds]
        spread = [
            [speed["median"] - speed["low"] for speed in speeds],
            [speed["high"] - speed["median"] for speed in speeds],
        ]
        at = [place + (k - (len(names) - 1) / 2) * width for place in places]
        axes.bar(at, middles, width * 0.92, color=COLOURS[name], label=name)
        axes.errorbar(at, middles, spread, fmt="none", ecolor=INK["ink"], elinewidth=0.9)
        for x, middle, (_, up) in zip(at, middles, zip(*spread, strict=True), strict=True):
            axes.text(
                x, middle + up + 0.02, f"{middle:.2f}", ha="center", va="bottom", fontsize=6.5
            )
    axes.axhline(1, color=INK["ink"], linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set_xticks(range(len(section)), [_name(name) for name in section], fontsize=8)
    axes.set_ylabel(f"speed, {reference} = 1", fontsize=9)
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.margins(y=0.25)
    axes.legend(fontsize=7.5, frameon=False, ncols=min(4, len(names)), loc="upper left")


def _networks(axes: Axes, section: Found) -> None:
    _bars(axes, section, BARE, "By network, PGD-10")


def _roofline(axes: Axes, section: Found) -> None:
    _bars(axes, section, BARE, 'What the hardware gives, and what precision="auto" takes of it')
    choices = [str(rows[AUTO]["choice"]).replace(", ", ",\n") for rows in section.values()]
    labels = [f"{_name(name)}\n→ {choice}" for name, choice in zip(section, choices, strict=True)]
    axes.set_xticks(range(len(section)), labels, fontsize=7.5)


def _name(task: str) -> str:
    return task.replace("_", "\n", 1).replace("_", " ")


def _trades(axes: Axes, section: Found) -> None:
    axes.axhline(39 / 27, color=INK["ink"], linewidth=1.2, linestyle=(0, (2, 2)), zorder=3,
                 label="passes counted: 39 / 27")  # fmt: skip
    _bars(axes, section, AUTHORS, "TRADES-10, the same loss: clean prediction once, not every step")


def _lines(axes: Axes, section: Found, value: Callable[[Found, str, int], Found]) -> list[int]:
    """A line for each contender over what grows, in a band of quartiles."""
    places = [int(text) for text in section]
    for name in next(iter(section.values())):
        points = [
            value(rows, name, place) for place, rows in zip(places, section.values(), strict=True)
        ]
        low, middle, high = ([p[key] for p in points] for key in ("low", "median", "high"))
        axes.plot(places, middle, MARKS[name] + "-", color=COLOURS[name], markersize=4, label=name)
        axes.fill_between(places, low, high, color=COLOURS[name], alpha=0.18, linewidth=0)
    axes.grid(axis="y", color=INK["line"], linewidth=0.7)
    return places


def _steps(axes: Axes, section: Found) -> None:
    def times(rows: Found, name: str, _: int) -> Found:
        speed = rows[name]["speed"]
        return {"median": 1 / speed["median"], "low": 1 / speed["high"], "high": 1 / speed["low"]}

    places = _lines(axes, section, times)
    counted = [(2 * k + 3) / 3 for k in places]
    axes.plot(places, counted, color=INK["ink"], linestyle=(0, (2, 2)), linewidth=1.2,
              label="passes counted: (2K + 3) / 3")  # fmt: skip
    _finish(axes, "By the attack's steps K, MNIST CNN", "attack steps K", "times plain training")
    axes.set_xticks(places)


def _batch(axes: Axes, section: Found) -> None:
    def each(rows: Found, name: str, size: int) -> Found:
        return {k: v * 1e3 / size for k, v in rows[name]["seconds"].items()}

    places = _lines(axes, section, each)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    _finish(axes, "By the batch, MNIST CNN, PGD-10", "examples a batch", "ms an example")


def _size(axes: Axes, section: Found) -> None:
    def batch(rows: Found, name: str, _: int) -> Found:
        return {k: v * 1e3 for k, v in rows[name]["seconds"].items()}

    places = _lines(axes, section, batch)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place}²" for place in places])
    axes.minorticks_off()
    _finish(axes, "By image size, small pre-activation ResNet, PGD-5, batch 32", "pixels",
            "ms a batch")  # fmt: skip


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.legend(fontsize=7.5, frameon=False)


PANELS: dict[str, Callable[[Axes, Found], None]] = {
    "networks": _networks,
    "roofline": _roofline,
    "trades": _trades,
    "steps": _steps,
    "batch": _batch,
    "size": _size,
}
