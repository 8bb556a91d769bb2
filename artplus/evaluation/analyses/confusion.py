"""What is taken for what, without and under attack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artplus import _checks
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    first,
    need_classes,
    register_analysis,
)
from artplus.evaluation.analyses._measure import class_name, labels
from artplus.evaluation.result import Integers
from artplus.evaluation.section import Block, Matrix, Section, Table


@register_analysis("confusion")
@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Confusion matrices, clean and in the worst case over the report's attacks.

    Rows are true classes, columns what was predicted, values shares of the row. Under attack a
    prediction is the one under the attack that hurt the example most, the clean one where the
    model is wrong already or held. No attack is run.

    Args:
        pairs: How many of the most frequent confusions under attack to list.
        largest: Above this number of classes the matrices, which nobody could read, are left out.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[Confusion()], progress=False,
        ... )
        >>> [len(block.rows) for block in report.sections[0].blocks[:2]]
        [3, 3]
    """

    pairs: int = 10
    largest: int = 30

    def __post_init__(self) -> None:
        _checks.count("pairs", self.pairs)
        _checks.count("largest", self.largest, least=0)

    def check(self, setting: Setting) -> None:
        """Refuse regressions."""
        need_classes(setting, "confusion")

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        classes = need_classes(subject, "confusion")
        y = labels(subject.data, first(subject, None))
        names = tuple(class_name(subject, k) for k in range(classes))
        report = subject.report
        found = {
            "Without an attack": counts(y, report.predictions_clean, classes),
            "Under attack": counts(y, report.predictions_worst, classes),
        }
        known = {title: table for title, table in found.items() if table is not None}
        blocks: list[Block] = []
        if classes <= self.largest:
            blocks += [_matrix(title, table, names) for title, table in known.items()]
        attacked, clean = found["Under attack"], found["Without an attack"]
        table = clean if attacked is None else attacked
        top = [] if table is None else _pairs(table, self.pairs)
        rows = tuple(
            (names[i], names[j], int(table[i, j]), float(table[i, j] / table[i].sum()))
            for i, j in top
            if table is not None
        )
        if rows:
            blocks.append(
                Table(
                    columns=("true class", "taken for", "examples", "share of the class"),
                    units=("text", "text", "count", "percent"),
                    rows=rows,
                    caption="The most frequent confusions "
                    + ("without an attack." if attacked is None else "under attack."),
                )
            )
        return Section(
            name="confusion",
            title="What is taken for what",
            summary=_summary(rows, attacked is None),
            blocks=tuple(blocks),
            figures=(("most_frequent_share", rows[0][3]),) if rows else (),
        )


def counts(
    y: NDArray[np.int64], predictions: Integers | None, classes: int
) -> NDArray[np.int64] | None:
    """How often class ``i`` was predicted as ``j``, ``(classes, classes)``."""
    if predictions is None:
        return None
    found = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(found, (y, predictions), 1)
    return found


def _matrix(title: str, table: NDArray[np.int64], names: tuple[str, ...]) -> Matrix:
    totals = table.sum(1)
    return Matrix(
        row_label="true class",
        column_label="predicted class",
        rows=names,
        columns=names,
        values=tuple(
            tuple(None if not total else float(v / total) for v in row)
            for row, total in zip(table, totals, strict=True)
        ),
        caption=f"{title}: shares of each true class.",
    )


def _pairs(table: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """The off-diagonal entries with the largest counts, at most ``most``, none of them zero."""
    off = table - np.diag(np.diag(table))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, off.shape)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if off[i, j]]


def _summary(rows: tuple[tuple[str, str, int, float], ...], clean: bool) -> str:
    when = "Without an attack" if clean else "Under attack"
    if not rows:
        return f"{when} no class is taken for another."
    true, taken, count, part = rows[0]
    return (
        f"{when} class {true} is most often taken for {taken}: "
        f"{wording.plural(count, 'example')}, {wording.percent(part)} of the class."
    )
