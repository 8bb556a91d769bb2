"""Before and after: two reports on the same examples, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.intervals import Interval
from artplus.evaluation.text import aligned
from artplus.reporting import comparability
from artplus.reporting.change import Paired, paired, signed

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult


@dataclass(frozen=True)
class Line:
    """One attack before and after; accuracies in [0, 1], or losses in regression.

    Attributes:
        name: ``clean``, an attack's name, or ``worst case``.
        before: Its value before; ``None`` if unknown.
        after: Its value afterwards.
        paired: Examples gained and lost; ``None`` in regression, or if a side is unknown.
        ball: What it was allowed; both balls, if they differ.
        alike: Whether the two values are of the same ball, so that their difference says something.
    """

    name: str
    before: float | None
    after: float | None
    paired: Paired | None = None
    ball: str = ""
    alike: bool = True

    @property
    def change(self) -> float | None:
        """After less before; ``None`` where they do not compare."""
        if self.before is None or self.after is None or not self.alike:
            return None
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; ``str()`` is a table for the terminal.

    Attributes:
        lines: Clean, each attack of either report, and the worst case.
        accuracy: Whether the lines hold accuracies, not losses.
        notes: Why the comparison is not quite like for like.
        broken: When the evaluation was broken: ``before``, ``after``, both or neither.
    """

    lines: tuple[Line, ...]
    accuracy: bool
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def gained(self) -> int | None:
        """Examples that withstand every attack only afterwards; ``None`` if that is unknown."""
        worst = self.lines[-1].paired
        return None if worst is None else worst.gained

    @property
    def lost(self) -> int | None:
        """Examples that did so only before."""
        worst = self.lines[-1].paired
        return None if worst is None else worst.lost

    @property
    def p_value(self) -> float | None:
        """Of McNemar's exact test that gains and losses in the worst case are equally likely."""
        worst = self.lines[-1].paired
        return None if worst is None else worst.p_value

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the change of robust accuracy: a paired bootstrap."""
        worst = self.lines[-1].paired
        return None if worst is None else worst.interval

    @property
    def headline(self) -> str:
        """What was gained and lost, in the worst case and without an attack, in one sentence."""
        clean, worst = self.lines[0], self.lines[-1]
        text = f"{self._moved(worst, 'worst-case')}; {self._moved(clean, 'clean')}."
        if self.broken:
            when = " and ".join(self.broken)
            return f"The evaluation {when} is broken, so this says nothing of robustness: {text}"
        return text[0].upper() + text[1:]

    @property
    def verdict(self) -> str:
        """The headline, and the examples that it rests on."""
        found = (
            (self.lines[-1].paired, "in the worst case"),
            (self.lines[0].paired, "without an attack"),
        )
        counts = [
            f"{wording.plural(pairs.gained, 'example')} gained, {pairs.lost} lost {when}"
            for pairs, when in found
            if pairs is not None
        ]
        if not counts:
            return self.headline
        tests = "McNemar's exact tests" if len(counts) > 1 else "McNemar's exact test"
        intervals = "intervals" if len(counts) > 1 else "interval"
        return f"{self.headline} {'; '.join(counts)} ({tests}; 95% {intervals}: paired bootstrap)."

    def shown(self, value: float | None) -> str:
        """A value of a line as text."""
        return wording.percent(value) if self.accuracy else wording.number(value)

    def shown_change(self, line: Line) -> str:
        """A change as text: percentage points of accuracy, or units of the loss."""
        return signed(line.change, "percent" if self.accuracy else "number")

    def cells(self) -> list[tuple[str, ...]]:
        """Heading and lines as text: value before and after, and the change."""
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

    def full(self) -> list[tuple[str, ...]]:
        """:meth:`cells` with the ball, and in classification how sure each change is."""
        head, *rows = self.cells()
        found = [(*head, "ball"), *((*r, n.ball) for r, n in zip(rows, self.lines, strict=True))]
        if not self.accuracy:
            return found
        tests = [_tested(line.paired) for line in self.lines]
        return [
            (*row, *test)
            for row, test in zip(
                found, [("95% interval", "gained", "lost", "p"), *tests], strict=True
            )
        ]

    def __str__(self) -> str:
        lines = aligned(self.cells())
        rule = "─" * max(map(len, lines))
        body = [lines[0], rule, *lines[1:-1], rule, lines[-1], "", self.verdict]
        return "\n".join([*body, *(f"· {note}" for note in self.notes)])

    def _moved(self, line: Line, what: str) -> str:
        """What became of one accuracy or loss, without a full stop."""
        what = f"{what} {'accuracy' if self.accuracy else 'loss'}"
        old, new = self.shown(line.before), self.shown(line.after)
        if line.before is None or line.after is None:
            missing = "in both" if line.before is line.after else (
                "before" if line.before is None else "after"
            )  # fmt: skip
            return f"{what} cannot be compared, since no attack worked {missing}"
        if line.change is None:
            return f"{what} was {old} before and is {new} after, not within the same ball"
        if not math.isfinite(line.change):
            return f"{what} was {old} before and is {new} after"
        # By what is shown: a change that rounds away is none to the reader.
        by = self.shown_change(line).lstrip("+-").replace("pts", "points")
        if not any(digit in by for digit in "123456789"):
            text = f"{what} stayed at {new}"
        else:
            text = f"{what} {'rose' if line.change > 0 else 'fell'} by {by}, from {old} to {new}"
        if line.paired is None:
            return text
        return f"{text} (95% interval {line.paired.points}, p {line.paired.p})"


def compare(before: Report, after: Report) -> Comparison:
    """Set two reports on the same examples against each other.

    Values within different balls stand beside each other without a difference, and a note says so.

    Args:
        before: For instance of the model as it was.
        after: For instance of the hardened model.

    Raises:
        ConfigurationError: if they are not on the same examples, or not of the same task.
    """
    if before.n != after.n or before.data_hash != after.data_hash:
        raise ConfigurationError(
            f"reports compare only on the same examples: before has {before.n} (hash "
            f"{before.data_hash}), after {after.n} (hash {after.data_hash})"
        )
    if (before.clean_accuracy is None) != (after.clean_accuracy is None):
        raise ConfigurationError("one report is of a classifier, the other of a regression")
    accuracy = before.clean_accuracy is not None
    sides = (before, after)
    old, new = ({r.name: r for r in report.attacks} for report in sides)
    clean_old, clean_new = (r.clean_accuracy if accuracy else r.clean_loss for r in sides)
    worst = [r.robust_accuracy if accuracy else r.robust_loss for r in sides]
    one = comparability.one_ball(before, after) or None in worst
    return Comparison(
        lines=(
            Line(
                wording.CLEAN,
                clean_old,
                clean_new,
                paired(before.correct_clean, after.correct_clean),
            ),
            *(_line(name, old, new) for name in {**old, **new}),
            Line(
                wording.WORST,
                worst[0],
                worst[1],
                paired(before.correct_robust, after.correct_robust) if one else None,
                alike=one,
            ),
        ),
        accuracy=accuracy,
        notes=comparability.reports(before, after),
        broken=tuple(
            when
            for when, report in (("before", before), ("after", after))
            if report.verdict == "broken"
        ),
    )


def _line(name: str, old: Mapping[str, AttackResult], new: Mapping[str, AttackResult]) -> Line:
    """One attack, which may be in only one of the reports, or broken there."""
    both = [result for side in (old, new) if (result := side.get(name)) is not None]
    balls = list(dict.fromkeys(comparability.ball(result) for result in both))
    was, now = (None if r is None or r.broken else r for r in (old.get(name), new.get(name)))
    one = len(balls) == 1
    return Line(
        name,
        None if was is None else _value(was),
        None if now is None else _value(now),
        paired(was.correct, now.correct) if one and was is not None and now is not None else None,
        " → ".join(balls),
        one,
    )


def _value(result: AttackResult) -> float | None:
    return result.metrics.get("loss") if result.accuracy is None else result.accuracy


def _tested(pairs: Paired | None) -> tuple[str, ...]:
    if pairs is None:
        return (wording.NONE,) * 4
    return pairs.points, str(pairs.gained), str(pairs.lost), pairs.p.removeprefix("= ")
