"""Before and after: two reports on the same examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.text import aligned
from artplus.reporting import comparability
from artplus.reporting.change import Paired, paired, signed
from artplus.reporting.tables import Column, Entry, TableView, sort_key

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
        paired: Examples gained and lost; ``None`` in regression, or if a value is unknown.
        ball: What it was allowed; both balls, if they differ.
        comparable: Whether both values are for the same ball, so that they have a difference.
    """

    name: str
    before: float | None
    after: float | None
    paired: Paired | None = None
    ball: str = ""
    comparable: bool = True

    @property
    def change(self) -> float | None:
        """After less before; ``None`` where they cannot be compared."""
        if self.before is None or self.after is None or not self.comparable:
            return None
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`; ``str()`` is a table for the terminal.

    Attributes:
        lines: Clean, each attack of either report, and the worst case.
        accuracy: Whether the lines hold accuracies, not losses.
        notes: How the two evaluations differ.
        broken: Which evaluations are broken: ``before``, ``after``, both or neither.
    """

    lines: tuple[Line, ...]
    accuracy: bool
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def clean(self) -> Line:
        """Without an attack."""
        return self.lines[0]

    @property
    def worst(self) -> Line:
        """In the worst case over all attacks."""
        return self.lines[-1]

    @property
    def headline(self) -> str:
        """What was gained and lost, in the worst case and without an attack, in one sentence."""
        text = f"{self._sentence(self.worst, 'worst-case')}; {self._sentence(self.clean, 'clean')}."
        if self.broken:
            when = " and ".join(self.broken)
            return f"The evaluation {when} is broken, so this says nothing of robustness: {text}"
        return text[0].upper() + text[1:]

    @property
    def verdict(self) -> str:
        """The headline, and the numbers of examples behind it."""
        counts = [
            f"{wording.plural(test.gained, 'example')} gained, {test.lost} lost {when}"
            for test, when in (
                (self.worst.paired, "in the worst case"),
                (self.clean.paired, "without an attack"),
            )
            if test is not None
        ]
        if not counts:
            return self.headline
        s = "s" if len(counts) > 1 else ""
        tests = f"McNemar's exact test{s}; 95% interval{s} from the same test"
        return f"{self.headline} {'; '.join(counts)} ({tests})."

    def shown(self, value: float | None) -> str:
        """A value of a line as text."""
        return wording.percent(value) if self.accuracy else wording.number(value)

    def shown_change(self, line: Line) -> str:
        """A change as text: percentage points of accuracy, or units of the loss."""
        return signed(line.change, "percent" if self.accuracy else "number")

    def table(self) -> TableView:
        """Every line with its change and, in classification, how certain the change is."""
        names = ["accuracy" if self.accuracy else "loss", "before", "after", "change", "ball"]
        names += ["95% interval", "gained", "lost", "p"] if self.accuracy else []
        columns = (Column(name, k > 0 and name != "ball") for k, name in enumerate(names))
        tones = (
            "" if not line.change or math.isnan(line.change)
            else "up" if (line.change > 0) == self.accuracy
            else "down"
            for line in self.lines
        )  # fmt: skip
        return TableView(tuple(columns), tuple(map(self._row, self.lines)), tones=tuple(tones))

    def __str__(self) -> str:
        lines = aligned([row[:4] for row in self.table().cells()])
        rule = "─" * max(map(len, lines))
        body = [lines[0], rule, *lines[1:-1], rule, lines[-1], "", self.verdict]
        return "\n".join([*body, *(f"· {note}" for note in self.notes)])

    def _row(self, line: Line) -> tuple[Entry, ...]:
        """A line of the table as texts and sort keys."""
        test = line.paired
        certainty: list[Entry] = [(wording.NONE, "")] * 4
        if test is not None:
            certainty = [
                (test.points, sort_key(test.interval[0])),
                (str(test.gained), sort_key(test.gained)),
                (str(test.lost), sort_key(test.lost)),
                (test.p.removeprefix("= "), sort_key(test.p_value)),
            ]
        return (
            (line.name, line.name),
            (self.shown(line.before), sort_key(line.before)),
            (self.shown(line.after), sort_key(line.after)),
            (self.shown_change(line), sort_key(line.change)),
            (line.ball, line.ball),
            *(certainty if self.accuracy else ()),
        )

    def _sentence(self, line: Line, what: str) -> str:
        """How one accuracy or loss changed, without a full stop."""
        what = f"{what} {'accuracy' if self.accuracy else 'loss'}"
        old, new = self.shown(line.before), self.shown(line.after)
        if line.before is None or line.after is None:
            when = "before" if line.before is None else "after"
            when = "in both" if line.before is line.after else when
            return f"{what} cannot be compared, since no attack worked {when}"
        if line.change is None:
            return f"{what} was {old} before and is {new} after, not within the same ball"
        if not math.isfinite(line.change):
            return f"{what} was {old} before and is {new} after"
        # By what is shown: a change that rounds to zero is none to the reader.
        by = self.shown_change(line).lstrip("+-").replace("pts", "points")
        if not any(digit in by for digit in "123456789"):
            text = f"{what} stayed at {new}"
        else:
            text = f"{what} {'rose' if line.change > 0 else 'fell'} by {by}, from {old} to {new}"
        if line.paired is None:
            return text
        return f"{text} (95% interval {line.paired.points}, p {line.paired.p})"


def compare(before: Report, after: Report) -> Comparison:
    """Compare two reports on the same examples.

    Values for different balls are shown without a difference, and a note says so.

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
    old, new = ({result.name: result for result in report.attacks} for report in sides)
    clean = [report.clean_accuracy if accuracy else report.clean_loss for report in sides]
    worst = [report.robust_accuracy if accuracy else report.robust_loss for report in sides]
    same = comparability.one_ball(before, after) or None in worst
    clean_test = paired(before.correct_clean, after.correct_clean)
    worst_test = paired(before.correct_robust, after.correct_robust) if same else None
    return Comparison(
        lines=(
            Line(wording.CLEAN, clean[0], clean[1], clean_test),
            *(_line(name, old.get(name), new.get(name)) for name in {**old, **new}),
            Line(wording.WORST, worst[0], worst[1], worst_test, comparable=same),
        ),
        accuracy=accuracy,
        notes=comparability.reports(before, after),
        broken=tuple(
            when
            for when, report in zip(("before", "after"), sides, strict=True)
            if report.verdict == "broken"
        ),
    )


def _line(name: str, old: AttackResult | None, new: AttackResult | None) -> Line:
    """One attack, which may be in only one of the reports, or broken there."""
    balls = list(dict.fromkeys(comparability.ball(result) for result in (old, new) if result))
    was, now = (None if result is None or result.broken else result for result in (old, new))
    test = paired(was.correct, now.correct) if was and now and len(balls) == 1 else None
    return Line(name, _value(was), _value(now), test, " → ".join(balls), len(balls) == 1)


def _value(result: AttackResult | None) -> float | None:
    if result is None:
        return None
    return result.metrics.get("loss") if result.accuracy is None else result.accuracy
