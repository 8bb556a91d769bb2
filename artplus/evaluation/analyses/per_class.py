"""Accuracy class by class, and group by group: an average may hide one that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._measure import share
from artplus.evaluation.section import Cell, Section, Table


@register_analysis("per_class")
@dataclass(frozen=True, kw_only=True, eq=False)
class PerClass(BaseAnalysis):
    """Clean and robust accuracy of every class, and of every group, with intervals.

    Robust means the worst case over the report's attacks, so no attack is run. Adversarial
    training widens the gap between classes [Xu21]_, and the mean does not show it.

    Args:
        groups: ``(n,)`` labels of groups across classes (site, speaker, sex); ``None``: classes
            only.
        group: What a group is called.
        least: Classes with fewer examples are shown, but not called the worst, since chance decides
            there.

    Raises:
        ConfigurationError: in regression, or if there is not one group label per example.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> analysis = PerClass(groups=["left", "right"] * 10)
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           analyses=[analysis], progress=False)
        >>> [table.columns[0] for table in report.sections[0].blocks]
        ['class', 'group']

    References:
        .. [Xu21] Xu et al., "To be robust or to be fair: towards fairness in adversarial
           training", ICML 2021, https://arxiv.org/abs/2010.06121
    """

    name = "per_class"
    title = "Accuracy by class"
    structured = True

    groups: Sequence[Any] | NDArray[Any] | None = field(default=None, repr=False)
    group: str = "group"
    least: int = 5

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.groups is not None and len(self.groups) != setting.data.n:
            raise ConfigurationError(
                f"groups must hold one label per example, {setting.data.n}, got {len(self.groups)}"
            )

    def __call__(self, subject: Subject) -> Section:
        classes = {k: subject.class_name(k) for k in range(subject.classes)}
        tables = [_table(subject, "class", subject.labels(subject.first(None)), classes)]
        if self.groups is not None:
            groups = np.asarray(self.groups)
            names = {value: str(value) for value in sorted(set(groups.tolist()), key=str)}
            tables.append(_table(subject, self.group, groups, names))
        figures: dict[str, float] = {}
        sentences = []
        for table in tables:
            # Rows are sorted, the least robust first.
            known = [row for row in table.rows if row[4] is not None]
            enough = [row for row in known if float(row[1] or 0) >= self.least]
            if enough:
                what, low, high = table.columns[0], float(enough[0][4] or 0), enough[-1][4]
                sentences.append(
                    f"The least robust {what} is {enough[0][0]}: {wording.percent(low)} (95% "
                    f"interval {enough[0][5]}); the most robust, {enough[-1][0]}, "
                    f"{wording.percent(float(high or 0))}."
                )
                figures |= {f"worst_{what}_robust": low, f"{what}_gap": float(high or 0) - low}
        title = self.title + (f" and {self.group}" if len(tables) > 1 else "")
        section = self.section(
            " ".join(sentences),
            tables,
            figures=figures,
            notes=(
                "Intervals are 95 % Wilson intervals, each by itself: of twenty, one is expected "
                "to miss.",
            ),
        )
        return replace(section, title=title)


def _table(subject: Subject, what: str, values: NDArray[Any], names: dict[Any, str]) -> Table:
    """A row for each of the values, the least robust first."""
    report, rows = subject.report, []
    for value, name in names.items():
        members = np.asarray(values == value)
        if not members.any():
            continue
        cells: list[Cell] = [name, int(members.sum())]
        for correct in (report.correct_clean, report.correct_robust):
            if correct is None:
                cells += [None, wording.NONE]
            else:
                accuracy, bounds = share(correct[members])
                cells += [accuracy, wording.interval(bounds)]
        rows.append(tuple(cells))
    rows.sort(key=lambda row: (row[4] is None, row[4], row[2]))
    return Table(
        columns=(what, "n", "clean", "clean interval", "robust", "robust interval"),
        units=("text", "count", "percent", "text", "percent", "text"),
        rows=tuple(rows),
        caption=f"Each {what}, the least robust first.",
    )
