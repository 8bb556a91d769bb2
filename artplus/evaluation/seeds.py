"""One seed is an anecdote: several reports on the same examples as mean, spread and worst case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.intervals import Interval, wilson
from artplus.evaluation.report import Report
from artplus.evaluation.text import aligned


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds.

    Attributes:
        values: One per seed, in the order of the reports.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Their standard deviation, with n - 1 in the denominator."""
        return float(np.std(self.values, ddof=1))

    @property
    def interval(self) -> Interval:
        """95 % interval of the mean over all seeds, by Student's t: wide for few."""
        from scipy.stats import t

        n = len(self.values)
        half = float(t.ppf(0.975, n - 1)) * self.deviation / math.sqrt(n)
        return self.mean - half, self.mean + half

    @property
    def least(self) -> float:
        """The least."""
        return min(self.values)

    @property
    def greatest(self) -> float:
        """The greatest."""
        return max(self.values)


@dataclass(frozen=True, eq=False)
class OverSeeds:
    """What several seeds say together; ``str()`` is a table.

    Attributes:
        clean: Accuracy without an attack, per seed.
        attacks: Accuracy under each attack that counts in every report, per seed.
        robust: Worst-case accuracy, per seed.
        correct_worst: ``(n,)`` booleans, which examples withstand every attack at every seed.
        seeds: Of the reports.
        notes: What does not quite compare.
    """

    clean: Spread
    attacks: dict[str, Spread]
    robust: Spread
    correct_worst: NDArray[np.bool_]
    seeds: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst_accuracy(self) -> float:
        """Share of examples that stand at every seed; at most the least robust accuracy.

        Of one model attacked with several seeds it is a sharper robust accuracy, as several
        restarts are. Of several models it is what no training seed is spared.
        """
        return float(self.correct_worst.mean())

    @property
    def worst_interval(self) -> Interval:
        """95 % Wilson interval of :attr:`worst_accuracy`."""
        return wilson(int(self.correct_worst.sum()), len(self.correct_worst))

    def __str__(self) -> str:
        spreads = {wording.CLEAN: self.clean, **self.attacks, wording.WORST: self.robust}
        cells: list[tuple[str, ...]] = [("accuracy", "mean", "sd", "least", "greatest")]
        for name, spread in spreads.items():
            shown = (spread.mean, spread.deviation, spread.least, spread.greatest)
            cells.append((name, *(wording.percent(value) for value in shown)))
        lines = aligned(cells)
        rule = "─" * max(map(len, lines))
        said = (
            f"Over {len(self.seeds)} seeds robust accuracy is {100 * self.robust.mean:.1f} ± "
            f"{100 * self.robust.deviation:.1f}%; {wording.percent(self.worst_accuracy)} "
            f"(95% interval {wording.interval(self.worst_interval)}) stand at every seed."
        )
        body = [lines[0], rule, *lines[1:-1], rule, lines[-1], "", said]
        return "\n".join([*body, *(f"· {note}" for note in self.notes)])


def over_seeds(reports: Sequence[Report]) -> OverSeeds:
    """Several reports on the same examples as one: mean, spread, and the worst case per example.

    Either one model evaluated with several seeds, or models trained alike from several seeds.

    Args:
        reports: At least two, of classifiers, on the same examples within the same ball.

    Raises:
        ConfigurationError: for fewer than two, for regressions, for reports on different examples
            or balls, or where no attack worked.

    Example:
        >>> import torch, artplus
        >>> _ = torch.manual_seed(0)
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(16, 4)
        >>> y = model(x).argmax(1)
        >>> reports = [
        ...     artplus.evaluate(model, x, y, attacks=["pgd"], eps=0.05, seed=seed, progress=False)
        ...     for seed in range(3)
        ... ]
        >>> together = over_seeds(reports)
        >>> together.worst_accuracy <= together.robust.least
        True
    """
    reports = list(reports)
    if len(reports) < 2:
        raise ConfigurationError(f"a spread needs at least two reports, got {len(reports)}")
    first = reports[0]
    for report in reports:
        _comparable(first, report)
    stood = [report.correct_robust for report in reports]
    clean, robust, shared = [], [], _shared(reports)
    for report in reports:
        if report.clean_accuracy is not None and report.robust_accuracy is not None:
            clean.append(report.clean_accuracy)
            robust.append(report.robust_accuracy)
    if len(robust) < len(reports):
        raise ConfigurationError(
            "every report must be of a classifier and hold an attack that worked; "
            f"{len(reports) - len(robust)} of {len(reports)} do not"
        )
    every = [set(report.correct) for report in reports]
    left = sorted(set.union(*every) - set(shared))
    seeds = tuple(report.seed for report in reports)
    notes = [f"Not in every report, or broken in one: {', '.join(left)}."] if left else []
    if len(set(seeds)) < len(seeds) and len({report.model for report in reports}) == 1:
        notes.append("Some reports have the same seed: of one model they say the same twice.")
    return OverSeeds(
        clean=Spread(tuple(clean)),
        attacks={
            name: Spread(tuple(float(report.correct[name].mean()) for report in reports))
            for name in shared
        },
        robust=Spread(tuple(robust)),
        correct_worst=np.logical_and.reduce([rows for rows in stood if rows is not None]),
        seeds=seeds,
        notes=tuple(notes),
    )


def _comparable(first: Report, other: Report) -> None:
    if (first.n, first.data_hash) != (other.n, other.data_hash):
        raise ConfigurationError(
            f"reports compare only on the same examples: {first.n} (hash {first.data_hash}) and "
            f"{other.n} (hash {other.data_hash})"
        )
    if (first.eps, first.norm) != (other.eps, other.norm):
        raise ConfigurationError(
            f"reports compare only within the same ball: eps {first.eps}, norm {first.norm} and "
            f"eps {other.eps}, norm {other.norm}"
        )


def _shared(reports: Sequence[Report]) -> list[str]:
    """Names of attacks that count in every report, in the order of the first."""
    return [name for name in reports[0].correct if all(name in r.correct for r in reports)]
