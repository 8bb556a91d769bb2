"""Accuracy class by class, and group by group: an average may hide one that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    first,
    need_classes,
    register_analysis,
)
from artplus.evaluation.analyses._measure import class_name, labels, share
from artplus.evaluation.section import Cell, Section, Table


@register_analysis("per_class")
@dataclass(frozen=True, kw_only=True, eq=False)
class PerClass:
    """Clean and robust accuracy of every class, and of every group, with intervals.

    Robust means the worst case over the report's attacks, so no attack is run. Adversarial
    training widens the gap between classes that plain training leaves [Xu21]_, and the mean does
    not tell.

    Args:
        groups: ``(n,)`` labels of groups across classes (site, speaker, sex); ``None``: classes
            only.
        group: What a group is called.
        least: Classes with fewer examples are shown and not called the worst, since chance decides
            there.

    Raises:
        ConfigurationError: in regression, or if there is not one group label per example.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[PerClass(groups=["left", "right"] * 10)], progress=False,
        ... )
        >>> [table.columns[0] for table in report.sections[0].blocks]
        ['class', 'group']

    References:
        .. [Xu21] Xu et al., "To be robust or to be fair: towards fairness in adversarial
           training", ICML 2021, https://arxiv.org/abs/2010.06121
    """

    groups: Sequence[Any] | NDArray[Any] | None = field(default=None, repr=False)
    group: str = "group"
    least: int = 5

    def __post_init__(self) -> None:
        _checks.count("least", self.least)

    def check(self, setting: Setting) -> None:
        """Refuse regressions and group labels that do not fit the data."""
        need_classes(setting, "per_class")
        if self.groups is not None and len(self.groups) != len(setting.data.x):
            raise ConfigurationError(
                f"groups must hold one label per example, {len(setting.data.x)}, got "
                f"{len(self.groups)}"
            )

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        y = labels(subject.data, first(subject, None))
        names = [class_name(subject, k) for k in range(need_classes(subject, "per_class"))]
        tables = [self._table(subject, "class", y, dict(enumerate(names)))]
        if self.groups is not None:
            own = np.asarray(self.groups)
            found = {value: str(value) for value in sorted(set(own.tolist()), key=str)}
            tables.append(self._table(subject, self.group, own, found))
        judged = [self._worst(table) for table in tables]
        figures = [pair for _, found in judged for pair in found]
        return Section(
            name="per_class",
            title="Accuracy by class" + (f" and {self.group}" if len(tables) > 1 else ""),
            summary=" ".join(sentence for sentence, _ in judged if sentence),
            blocks=tuple(tables),
            figures=tuple(figures),
            notes=(
                "Intervals are 95 % Wilson intervals, each by itself: of twenty, one is expected "
                "to miss.",
            ),
        )

    def _table(
        self, subject: Subject, what: str, own: NDArray[Any], names: dict[Any, str]
    ) -> Table:
        rows = [
            _row(subject, name, np.asarray(own == value))
            for value, name in names.items()
            if bool((own == value).any())
        ]
        rows.sort(key=lambda row: (row[4] is None, row[4], row[2]))
        return Table(
            columns=(what, "n", "clean", "clean interval", "robust", "robust interval"),
            units=("text", "count", "percent", "text", "percent", "text"),
            rows=tuple(rows),
            caption=f"Each {what}, the least robust first.",
        )

    def _worst(self, table: Table) -> tuple[str, list[tuple[str, float]]]:
        """The sentence about a table and its figures."""
        enough = [row for row in table.rows if _number(row[1]) >= self.least and row[4] is not None]
        if not enough:
            return "", []
        worst, best = enough[0], enough[-1]
        low, high = _number(worst[4]), _number(best[4])
        what = table.columns[0]
        sentence = (
            f"The least robust {what} is {worst[0]}: {wording.percent(low)} "
            f"(95% interval {worst[5]}); the most robust, {best[0]}, {wording.percent(high)}."
        )
        return sentence, [(f"worst_{what}_robust", low), (f"{what}_gap", high - low)]


def _row(subject: Subject, name: str, here: NDArray[np.bool_]) -> tuple[Cell, ...]:
    clean, robust = subject.report.correct_clean, subject.report.correct_robust
    cells: list[Cell] = [name, int(here.sum())]
    for correct in (clean, robust):
        if correct is None:
            cells += [None, wording.NONE]
        else:
            value, bounds = share(correct[here])
            cells += [value, wording.interval(bounds)]
    return tuple(cells)


def _number(cell: Cell) -> float:
    return float(cell) if cell is not None else float("nan")
