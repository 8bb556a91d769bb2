"""What is taken for what, without and under attack."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Subject, register_analysis
from artplus.evaluation.result import Integers
from artplus.evaluation.section import Block, Matrix, Section, Table


@register_analysis("confusion")
@dataclass(frozen=True, kw_only=True)
class Confusion(BaseAnalysis):
    """Confusion matrices, clean and in the worst case over the report's attacks.

    Rows are true classes, columns predicted classes, values shares of the row. Under attack a
    prediction is the one under the attack that hurt the example most, or the clean one where the
    model was wrong already or robust. No attack is run.

    Args:
        pairs: Number of the most frequent confusions to list.
        largest: Above this number of classes the matrices are left out, since nobody could read
            them.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           analyses=[Confusion()], progress=False)
        >>> [len(block.rows) for block in report.sections[0].blocks[:2]]
        [3, 3]
    """

    name = "confusion"
    title = "What is taken for what"
    structured = True

    pairs: int = 10
    largest: int = field(default=30, metadata={"least": 0})

    def __call__(self, subject: Subject) -> Section:
        classes = subject.classes
        y, report = subject.labels(subject.first(None)), subject.report
        names = tuple(subject.class_name(k) for k in range(classes))
        tables = {
            "Without an attack": counts(y, report.predictions_clean, classes),
            "Under attack": counts(y, report.predictions_worst, classes),
        }
        known = {when: table for when, table in tables.items() if table is not None}
        blocks: list[Block] = []
        if classes <= self.largest:
            blocks += [_matrix(when, table, names) for when, table in known.items()]
        when, table = list(known.items())[-1]
        rows = tuple(
            (names[i], names[j], int(table[i, j]), float(table[i, j] / table[i].sum()))
            for i, j in _pairs(table, self.pairs)
        )
        if not rows:
            return self.section(f"{when} no class is taken for another.", blocks)
        blocks.append(
            Table(
                columns=("true class", "taken for", "examples", "share of the class"),
                units=("text", "text", "count", "percent"),
                rows=rows,
                caption=f"The most frequent confusions {when[0].lower()}{when[1:]}.",
            )
        )
        true, taken, count, part = rows[0]
        return self.section(
            f"{when} class {true} is most often taken for {taken}: "
            f"{wording.plural(count, 'example')}, {wording.percent(part)} of the class.",
            blocks,
            figures={"most_frequent_share": part},
        )


def counts(
    y: NDArray[np.int64], predictions: Integers | None, classes: int
) -> NDArray[np.int64] | None:
    """How often class ``i`` was predicted as ``j``, ``(classes, classes)``."""
    if predictions is None:
        return None
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (y, predictions), 1)
    return table


def _matrix(when: str, table: NDArray[np.int64], names: tuple[str, ...]) -> Matrix:
    return Matrix(
        row_label="true class",
        column_label="predicted class",
        rows=names,
        columns=names,
        values=tuple(
            tuple(float(v / row.sum()) if row.any() else None for v in row) for row in table
        ),
        caption=f"{when}: shares of each true class.",
    )


def _pairs(table: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """The off-diagonal entries with the largest counts, at most ``most``, none of them zero."""
    off = table - np.diag(np.diag(table))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, off.shape)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if off[i, j]]
