"""Before and after: two reports on the same examples, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.intervals import Interval
from artplus.evaluation.paired import paired_bootstrap
from artplus.evaluation.text import aligned

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult


@dataclass(frozen=True)
class Line:
    """One attack before and after; accuracies in [0, 1], or losses in regression."""

    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """After less before."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; ``str()`` is a table for the terminal.

    Attributes:
        lines: Clean, each attack of either report, and the worst case.
        gained: Examples that withstand every attack only afterwards; ``None`` in regression, or
            if no attack worked in one of the reports.
        lost: Examples that did so only before.
        p_value: Of McNemar's exact test that gains and losses are equally likely.
        interval: 95 % interval of the change of robust accuracy: a paired bootstrap, 10,000
            resamples with seed 0.
        accuracy: Whether the lines hold accuracies, not losses.
        notes: Why the comparison is not quite like for like.
    """

    lines: tuple[Line, ...]
    gained: int | None
    lost: int | None
    p_value: float | None
    accuracy: bool
    notes: tuple[str, ...] = ()
    interval: Interval | None = None

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        worst = self.lines[-1]
        if worst.before is None or worst.after is None:
            return "No attack worked on one of the two, so they cannot be compared."
        text = (
            f"In the worst case: {self.shown(worst.before)} before, {self.shown(worst.after)} after"
        )
        if self.gained is None:
            return text + "."
        return (
            f"{text}; {wording.plural(self.gained, 'example')} gained, {self.lost} lost "
            f"(McNemar's exact test: p {_p(self.p_value)})."
            + ("" if self.interval is None else f" Change {_points(*self.interval)}.")
        )

    def shown(self, value: float | None) -> str:
        """A value of a line as text."""
        return wording.percent(value) if self.accuracy else wording.number(value)

    def shown_change(self, line: Line) -> str:
        """A change as text: percentage points of accuracy, or units of the loss."""
        if line.change is None:
            return wording.NONE
        return f"{100 * line.change:+.1f} pts" if self.accuracy else f"{line.change:+.4g}"

    def cells(self) -> list[tuple[str, ...]]:
        """Heading and lines as text."""
        measure = "accuracy" if self.accuracy else "loss"
        return [
            (measure, "before", "after", "change"),
            *(
                (
                    line.name,
                    self.shown(line.before),
                    self.shown(line.after),
                    self.shown_change(line),
                )
                for line in self.lines
            ),
        ]

    def __str__(self) -> str:
        lines = aligned(self.cells())
        rule = "─" * max(map(len, lines))
        body = [lines[0], rule, *lines[1:-1], rule, lines[-1], "", self.verdict]
        return "\n".join([*body, *(f"· {note}" for note in self.notes)])


def compare(before: Report, after: Report) -> Comparison:
    """Set two reports on the same examples against each other.

    Args:
        before: For instance of the model as it was.
        after: For instance of the hardened model.

    Raises:
        ConfigurationError: if they are not on the same examples, not of the same task, or an
            attack has another ball in the one than in the other.
    """
    if before.n != after.n or before.data_hash != after.data_hash:
        raise ConfigurationError(
            f"reports compare only on the same examples: before has {before.n} (hash "
            f"{before.data_hash}), after {after.n} (hash {after.data_hash})"
        )
    if (before.clean_accuracy is None) != (after.clean_accuracy is None):
        raise ConfigurationError("one report is of a classifier, the other of a regression")
    accuracy = before.clean_accuracy is not None
    old, new = ({r.name: r for r in report.attacks} for report in (before, after))
    for name in old.keys() & new.keys():
        if wording.ball(old[name].norm, old[name].eps) != wording.ball(
            new[name].norm, new[name].eps
        ):
            raise ConfigurationError(
                f"attack {name!r} had {wording.ball(old[name].norm, old[name].eps)} before and "
                f"{wording.ball(new[name].norm, new[name].eps)} after; judge both by one radius"
            )
    names = [*old, *(name for name in new if name not in old)]
    gained, lost, p_value = _paired(before, after)
    return Comparison(
        lines=(
            Line(wording.CLEAN, *_pair(before.clean_accuracy, after.clean_accuracy,
                                       before.clean_loss, after.clean_loss)),
            *(Line(name, _value(old, name), _value(new, name)) for name in names),
            Line(wording.WORST, *_pair(before.robust_accuracy, after.robust_accuracy,
                                       before.robust_loss, after.robust_loss, accuracy)),
        ),
        gained=gained,
        lost=lost,
        p_value=p_value,
        accuracy=accuracy,
        notes=_notes(before, after),
        interval=_change(before, after),
    )  # fmt: skip


def _pair(
    old: float | None,
    new: float | None,
    old_loss: float | None,
    new_loss: float | None,
    accuracy: bool | None = None,
) -> tuple[float | None, float | None]:
    """Both accuracies, or in regression both losses."""
    classes = old is not None if accuracy is None else accuracy
    return (old, new) if classes else (old_loss, new_loss)


def _value(results: Mapping[str, AttackResult], name: str) -> float | None:
    if name not in results or results[name].broken is not None:
        return None
    result = results[name]
    return result.metrics.get("loss") if result.accuracy is None else result.accuracy


def _paired(before: Report, after: Report) -> tuple[int | None, int | None, float | None]:
    """Gains, losses, and how likely so uneven a split is by chance."""
    old, new = before.correct_robust, after.correct_robust
    if old is None or new is None:
        return None, None, None
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    if gained + lost == 0:
        return gained, lost, 1.0
    from scipy.stats import binomtest

    return gained, lost, float(binomtest(gained, gained + lost).pvalue)


def _change(before: Report, after: Report) -> Interval | None:
    old, new = before.correct_robust, after.correct_robust
    return None if old is None or new is None else paired_bootstrap(old, new)


def _notes(before: Report, after: Report) -> tuple[str, ...]:
    notes = [
        f"The evaluation {when} is {report.verdict}: {', '.join(r.name for r in report.reasons)}."
        for when, report in (("before", before), ("after", after))
        if report.reasons
    ]
    old, new = ({result.name for result in report.working} for report in (before, after))
    if old != new:
        notes.append(
            "The worst cases are not over the same attacks: "
            f"{', '.join(sorted(old ^ new))} counted in only one of the reports."
        )
    differ = [
        result.name
        for result in before.attacks
        for other in after.attacks
        if result.name == other.name and dict(result.params) != dict(other.params)
    ]
    if differ:
        notes.append(f"Not with the same settings in both: {', '.join(differ)}.")
    return tuple(notes)


def _points(low: float, high: float) -> str:
    return f"between {100 * low:+.1f} and {100 * high:+.1f} pts (95% interval, paired bootstrap)"


def _p(value: float | None) -> str:
    if value is None or value >= 0.001:
        return f"= {wording.number(value)}"
    return "< 0.001"
