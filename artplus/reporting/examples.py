"""Attacked examples as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from artplus.evaluation import wording
from artplus.reporting.pictures import Pictures, pictures, value_range

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


@dataclass(frozen=True)
class Example:
    """One attacked example of the gallery."""

    number: int
    label: str
    clean: str
    adversarial: str
    fooled: bool
    attack: str
    pictures: Pictures


def exhibits(report: Report) -> list[Example]:
    """The examples that the report keeps."""
    examples = report.examples
    if examples is None:
        return []
    low, high = value_range(np.stack([examples.x, examples.x_adv]))
    classes = report.clean_accuracy is not None and np.issubdtype(examples.y.dtype, np.integer)

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
            number=int(examples.index[k]),
            label=label(examples.y[k]),
            clean=label(examples.clean[k]),
            adversarial=label(examples.adversarial[k]),
            fooled=bool(classes and examples.adversarial[k] != examples.y[k]),
            attack=examples.attack[k],
            pictures=pictures(examples.x[k], examples.x_adv[k], low, high),
        )
        for k in range(len(examples))
    ]
