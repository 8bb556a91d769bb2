"""Several reports on the same examples, as from several seeds: mean, spread and worst case."""

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
from artplus.evaluation.text import ruled


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
    """Several seeds together; ``str()`` gives a table.

    Attributes:
        clean: Accuracy without an attack, per seed.
        attacks: Accuracy under each attack that counts in every report, per seed.
        robust: Worst-case accuracy, per seed.
        correct_worst: ``(n,)`` booleans, which examples are robust to every attack at every seed.
        seeds: Of the reports.
        notes: What limits the comparison.
    """

    clean: Spread
    attacks: dict[str, Spread]
    robust: Spread
    correct_worst: NDArray[np.bool_]
    seeds: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst_accuracy(self) -> float:
        """Share of examples that are robust at every seed; at most the least robust accuracy.

        If one model was attacked with several seeds, this is a sharper robust accuracy, since seeds
        act as restarts. If models were trained from several seeds, it is what all of them achieve.
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
        sentence = (
            f"Over {len(self.seeds)} seeds robust accuracy is {100 * self.robust.mean:.1f} ± "
            f"{100 * self.robust.deviation:.1f}%; {wording.percent(self.worst_accuracy)} "
            f"(95% interval {wording.interval(self.worst_interval)}) are robust at every seed."
        )
        return "\n".join([*ruled(cells), "", sentence, *(f"· {note}" for note in self.notes)])


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
    clean = [r.clean_accuracy for r in reports if r.clean_accuracy is not None]
    robust = [r.correct_robust for r in reports if r.correct_robust is not None]
    shared = [name for name in first.correct if all(name in r.correct for r in reports)]
    if len(robust) < len(reports):
        raise ConfigurationError(
            "every report must be of a classifier and hold an attack that worked; "
            f"{len(reports) - len(robust)} of {len(reports)} do not"
        )
    left = sorted({name for report in reports for name in report.correct} - set(shared))
    seeds = tuple(report.seed for report in reports)
    notes = [f"Not in every report, or broken in one: {', '.join(left)}."] if left else []
    if len(set(seeds)) < len(seeds) and len({report.model for report in reports}) == 1:
        notes.append("Some reports are on the same model with the same seed: they say the same.")
    return OverSeeds(
        clean=Spread(tuple(clean)),
        attacks={
            name: Spread(tuple(float(report.correct[name].mean()) for report in reports))
            for name in shared
        },
        robust=Spread(tuple(float(correct.mean()) for correct in robust)),
        correct_worst=np.logical_and.reduce(robust),
        seeds=seeds,
        notes=tuple(notes),
    )


def _comparable(first: Report, other: Report) -> None:
    if (first.n, first.data_hash) != (other.n, other.data_hash):
        raise ConfigurationError(
            f"reports compare only on the same examples: {first.n} (hash {first.data_hash}) and "
            f"{other.n} (hash {other.data_hash})"
        )
    balls = [
        f"eps {report.eps}, norm {report.norm}" + (f", {report.space}" if report.space else "")
        for report in (first, other)
    ]
    if balls[0] != balls[1]:
        raise ConfigurationError(
            f"reports compare only within the same ball: {balls[0]} and {balls[1]}"
        )
