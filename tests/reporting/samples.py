"""Reports made by hand, with hostile names, and sections of every kind of block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from artplus.evaluation import AttackResult, Examples, Report
from artplus.evaluation.section import (
    Curves,
    Gallery,
    Group,
    Matrix,
    Passage,
    Passages,
    Picture,
    Scatter,
    Section,
    Series,
    Table,
)

EVIL = "<script>alert('x')</script>"


def examples(shape: tuple[int, ...], *, classes: bool = True) -> Examples:
    generator = np.random.default_rng(0)
    x = generator.random((3, *shape), dtype=np.float32)
    kind = np.int64 if classes else np.float64
    return Examples(
        index=np.array([2, 5, 7]),
        x=x,
        x_adv=np.clip(x + 0.1, 0, 1),
        y=np.array([0, 1, 1], dtype=kind),
        clean=np.array([0, 1, 1], dtype=kind),
        adversarial=np.array([1, 0, 1], dtype=kind),
        attack=("pgd", EVIL, "pgd"),
    )


def made(
    *,
    stood: dict[str, list[int] | None] | None = None,
    regression: bool = False,
    shape: tuple[int, ...] = (1, 6, 6),
    eps: float = 0.1,
    **options: Any,
) -> Report:
    stood = {"pgd": [1, 0, 0, 1], EVIL: [0, 1, 0, 1], "bad": None} if stood is None else stood
    results = tuple(
        AttackResult(
            name=name,
            norm=math.inf,
            eps=eps,
            params={"steps": 10, "note": EVIL, "rate": 0.5, "skipped": None},
            attacked=4,
            correct=None if row is None or regression else np.array(row, dtype=bool),
            losses=None if row is None else np.array(row, dtype=float) + 1,
            metrics={} if row is None else {"loss": float(np.mean(row)) + 1, "rmse": 2.0},
            changed=4,
            max_norm=0.1 if row is not None else None,
            seconds=1.5,
            flags=("a flag",) if name == "pgd" else (),
            broken=f"raised ValueError: {EVIL}" if row is None else None,
        )
        for name, row in stood.items()
    )
    return Report(
        **{
            "n": 4,
            "attacks": results,
            "losses_clean": np.full(4, 0.5),
            "correct_clean": None if regression else np.array([1, 1, 1, 1], dtype=bool),
            "clean_metrics": {"loss": 0.5, "rmse": 0.7} if regression else {"loss": 0.5},
            "robust_metrics": {"loss": 1.75, "rmse": 2.0},
            "worst_attack": ("", "pgd", "pgd", ""),
            "eps": eps,
            "norm": math.inf,
            "examples": examples(shape, classes=not regression),
            "class_names": None if regression else (f"cat {EVIL}", "dog & co"),
            "model": f"Net {EVIL}",
            "versions": {"artplus": "0.1", "torch": "2"},
            "date": "2026-01-01T00:00:00+00:00",
            "data_hash": "abc",
            "notes": (f"note {EVIL}",),
            **options,
        }
    )


def curves(**options: Any) -> Curves:
    """Two lines, one with an interval and a gap."""
    return Curves(
        **{
            "x_label": f"radius {EVIL}",
            "y_label": "accuracy",
            "series": (
                Series(name="before", x=(0.0, 0.1, 0.2), y=(0.9, 0.4, 0.1)),
                Series(
                    name=f"after {EVIL}",
                    x=(0.0, 0.1, 0.2, 0.3),
                    y=(0.8, 0.7, None, 0.3),
                    low=(0.75, 0.6, None, 0.2),
                    high=(0.85, 0.8, None, 0.4),
                ),
            ),
            "caption": f"Curves {EVIL}",
            **options,
        }
    )


def matrix(**options: Any) -> Matrix:
    """Two by two, one value missing."""
    return Matrix(
        **{
            "row_label": "true",
            "column_label": f"predicted {EVIL}",
            "rows": ("cat", f"dog {EVIL}"),
            "columns": ("cat", "dog"),
            "values": ((1.0, 0.0), (0.25, None)),
            **options,
        }
    )


def sections() -> tuple[Section, ...]:
    """One of each kind of block, hostile names throughout."""
    image = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    table = Table(
        columns=("class", "n", "robust", ""),
        units=("text", "count", "percent", "number"),
        rows=((f"cat {EVIL}", 1200, 0.5, 3.0), ("dog", 30, None, math.inf), ("ant", 7, 0.9, -1.0)),
        caption=f"Table {EVIL}",
    )
    points = Scatter(
        x_label="first",
        y_label="second",
        groups=(
            Group(name="clean", x=(0.0, 1.0), y=(0.0, 2.0), labels=("one", f"two {EVIL}")),
            Group(name=EVIL, x=(-1.0,), y=(4.0,)),
        ),
    )
    pictures = Gallery(
        rows=(
            (
                Picture(title=f"grey {EVIL}", image=image),
                Picture(title="heat", image=image, colours="heat", text=EVIL),
                Picture(title="colour", image=np.stack([image] * 3, -1)),
            ),
        )
    )
    texts = Passages(
        passages=(
            Passage(title=f"text {EVIL}", tokens=("good", EVIL, "dull"), weights=(1.0, 0.0, -0.5)),
        )
    )
    blocks = {
        "table": table, "curve": curves(), "matrix": matrix(), "scatter": points,
        "gallery": pictures, "passages": texts,
    }  # fmt: skip
    return tuple(
        Section(
            name=name,
            title=f"The {name}",
            summary=f"What the {name} says {EVIL}.",
            blocks=(block,),
            notes=(f"note on the {name} {EVIL}",),
        )
        for name, block in blocks.items()
    )
