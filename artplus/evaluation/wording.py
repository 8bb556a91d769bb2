"""A report in words: numbers as people read them, rows of its table, and its sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artplus.evaluation.intervals import Interval

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult
    from artplus.evaluation.section import Unit

WORST = "worst case"
CLEAN = "clean"
_DOUBT = {
    "suspicious": "True robust accuracy may be lower.",
    "broken": "The attacks cannot have worked as they should, so the number says nothing.",
}
NONE = "–"
PASSES = "fwd+bwd"
_PASSES_LEGEND = (
    f"{PASSES}: forward and backward passes of the attack for each example that it attacked, "
    "without the judge's own predictions. A black-box attack takes no backward pass."
)
_CUMULATIVE = (
    "Accuracies are cumulative: each attack was run only on examples that no attack before it "
    "fooled."
)


@dataclass(frozen=True)
class Row:
    """One line of a report's table.

    Attributes:
        name: ``clean``, an attack's name, or ``worst case``.
        value: Accuracy in [0, 1], or the mean loss in regression; ``None`` if unknown.
        cells: The other cells as text, in the order of :func:`columns` after the name.
        broken: Why an attack does not count.
        flags: What else to know about it.
    """

    name: str
    value: float | None
    cells: tuple[str, ...]
    broken: str | None = None
    flags: tuple[str, ...] = ()


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal.

    Example:
        >>> percent(0.615)
        '61.5%'
    """
    return NONE if share is None else f"{100 * share:.1f}%"


def interval(bounds: Interval | None) -> str:
    """Both ends of an interval of shares, in percent."""
    return NONE if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}%"


def number(value: float | None) -> str:
    """A quantity to four significant digits."""
    return NONE if value is None else f"{value:.4g}"


def cell(value: str | float | None, unit: Unit) -> str:
    """A value of a section as text, by its unit.

    Example:
        >>> cell(0.5, "percent"), cell(12000, "count"), cell(0.12345, "number"), cell(None, "text")
        ('50.0%', '12,000', '0.123', '–')
    """
    if value is None:
        return NONE
    if isinstance(value, str) or unit == "text":
        return str(value)
    if not math.isfinite(value):
        return "unknown" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if unit == "percent":
        return percent(value)
    if unit == "count" or (float(value).is_integer() and 1000 <= abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.4g}"


def measured(value: float | None, low: float | None, high: float | None, unit: Unit) -> str:
    """A value with its interval, if there is one.

    Example:
        >>> measured(0.5, 0.4, 0.6, "percent"), measured(2.0, None, None, "number")
        ('50.0% (40.0–60.0%)', '2')
    """
    text = cell(value, unit)
    if value is None or low is None or high is None:
        return text
    if unit == "percent":
        return f"{text} ({interval((low, high))})"
    return f"{text} ({cell(low, unit)}–{cell(high, unit)})"


def headline(report: Report) -> str:
    """The result and whether to believe it, in one sentence."""
    if not report.working:
        return "No attack worked, so nothing is known about this model's robustness."
    if report.robust_accuracy is None:
        result = f"the mean loss is {number(report.robust_loss)} in the worst case"
    else:
        result = f"at most {percent(report.robust_accuracy)} of inputs stay right under attack"
        if report.eps is not None and report.norm is not None:
            result += f" within {ball(report.norm, report.eps, report.space)}"
    if report.verdict == "broken":
        return f"This evaluation is broken: its number, {result}, says nothing about the model."
    checks = plural(len(report.checks), "check")
    belief = {
        "trusted": f"and {checks} found no sign that the attacks failed",
        "suspicious": f"but {len(report.reasons)} of {checks} say that the truth may be lower",
        None: "with no check made of whether the attacks worked as they should",
    }[report.verdict]
    return f"{result[0].upper()}{result[1:]}, {belief}."


def radius(eps: float) -> str:
    """A radius: as a multiple of 1/255 where it is one, unless it is a short decimal.

    Example:
        >>> radius(8 / 255), radius(0.3)
        ('8/255', '0.3')
    """
    levels = eps * 255
    if abs(eps - float(f"{eps:.3g}")) > 1e-9 and abs(levels - round(levels)) < 1e-5:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def norm_name(norm: float) -> str:
    """``L∞``, ``L2`` or ``L1``."""
    return "L∞" if math.isinf(norm) else f"L{norm:g}"


def ball(norm: float, eps: float, space: str = "") -> str:
    """The ball within which an attack may move an input, and in which space if it is another one.

    Example:
        >>> ball(2, 0.5), ball(2, 0.5, "per token, embedding space")
        ('L2 ≤ 0.5', 'L2 ≤ 0.5 (per token, embedding space)')
    """
    return f"{norm_name(norm)} ≤ {radius(eps)}" + (f" ({space})" if space else "")


def duration(seconds: float) -> str:
    """Wall time in a unit that suits it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def passes(forwards: int | None, backwards: int | None, examples: int) -> str:
    """Mean passes per attacked example, forward and backward.

    Example:
        >>> passes(2100, 2000, 100), passes(123_456, 0, 100), passes(150, 40, 100)
        ('21+20', '1,235+0', '1.5+0.4')
    """
    if forwards is None or backwards is None or not examples:
        return NONE
    return f"{_mean(forwards, examples)}+{_mean(backwards, examples)}"


def _mean(total: int, count: int) -> str:
    mean = total / count
    return f"{mean:,.0f}" if mean >= 100 or total % count == 0 else f"{mean:.1f}"


def plural(count: int, noun: str) -> str:
    """``1 attack``, ``2 attacks``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def columns(report: Report) -> tuple[str, ...]:
    """Headings of :func:`rows`, the name's first."""
    accuracy = report.clean_accuracy is not None
    measures = ("accuracy", "95% interval") if accuracy else ("loss",)
    cost = (PASSES,) if counted(report) else ()
    return "attack", *measures, *other_metrics(report), "ball", "max norm", *cost, "time"


def other_metrics(report: Report) -> list[str]:
    """Names of the task's metrics, which have columns of their own; the loss is not among them."""
    return [name for name in report.clean_metrics if name != "loss"]


def counted(report: Report) -> bool:
    """Whether the passes of any attack are known."""
    return any(result.forwards is not None for result in report.attacks)


def legend(report: Report) -> tuple[str, ...]:
    """Notes that explain the headings of :func:`columns`."""
    cumulative = report.only_survivors and report.clean_accuracy is not None
    return (
        *((_CUMULATIVE,) if cumulative and len(report.attacks) > 1 else ()),
        *((f"ball, max norm: {report.space}.",) if report.space else ()),
        *((_PASSES_LEGEND,) if counted(report) else ()),
    )


def rows(report: Report) -> list[Row]:
    """Clean, every attack, and the worst case."""
    cost = ("", _all_passes(report)) if counted(report) else ()
    clean = Row(
        CLEAN,
        _value(report.clean_accuracy, report.clean_metrics),
        (*_measures(report, report.clean_interval, report.clean_accuracy, report.clean_metrics),
         "", "", *cost[:1], ""),
    )  # fmt: skip
    worst = Row(
        WORST,
        _value(report.robust_accuracy, report.robust_metrics),
        (*_measures(report, report.robust_interval, report.robust_accuracy, report.robust_metrics),
         "", "", *cost[1:], duration(sum(result.seconds for result in report.attacks))),
    )  # fmt: skip
    return [clean, *(_row(report, result) for result in report.attacks), worst]


def _all_passes(report: Report) -> str:
    """Mean passes of all attacks together per attacked example."""
    forwards = [result.forwards for result in report.attacks]
    backwards = [result.backwards for result in report.attacks]
    if None in forwards or None in backwards:
        return NONE
    examples = max((result.attacked for result in report.attacks), default=0)
    return passes(sum(filter(None, forwards)), sum(filter(None, backwards)), examples)


def summary(report: Report) -> str:
    """The result in a few sentences."""
    sentences = [_result(report)]
    if report.broken and report.working:
        names = ", ".join(result.name for result in report.broken)
        sentences.append(f"Not counted, since broken: {names}.")
        if any(result.fooled is not None for result in report.broken):
            sentences.append("Mistakes that they found within the rules are mistakes all the same.")
    if report.robust_accuracy is not None:
        sentences.append("It is an upper bound: a stronger attack can only lower it.")
    return " ".join(sentences)


def trust(report: Report) -> str:
    """The verdict of the checks in a sentence; empty if there were none."""
    if report.verdict is None:
        return ""
    names = ", ".join(reason.name for reason in report.reasons)
    checks = plural(len(report.checks), "check")
    if not names:
        return f"Trusted: {checks} found no sign that the attacks failed."
    return (
        f"{report.verdict.capitalize()}: {len(report.reasons)} of {checks} failed "
        f"({names}). {_DOUBT[report.verdict]}"
    )


def _result(report: Report) -> str:
    examples = plural(report.n, "example")
    if report.clean_accuracy is None:
        clean = f"The mean loss over {examples} is {number(report.clean_loss)} without an attack"
    else:
        clean = f"{percent(report.clean_accuracy)} of {examples} are right without an attack"
    if not report.working:
        return (
            f"No attack worked, so nothing is known about robustness "
            f"({plural(len(report.broken), 'attack')} broken). {clean}."
        )
    several = len(report.working) > 1
    attacks = plural(len(report.working), "attack") if several else "the attack"
    if report.eps is not None and report.norm is not None:
        attacks += f" within {ball(report.norm, report.eps, report.space)}"
    if report.robust_accuracy is None:
        return f"{clean}, and {number(report.robust_loss)} in the worst case of {attacks}."
    return (
        f"{clean}; {percent(report.robust_accuracy)} "
        f"(95% interval {interval(report.robust_interval)}) stay right under "
        f"{'each of ' if several else ''}{attacks}."
    )


def _row(report: Report, result: AttackResult) -> Row:
    measures = _measures(report, result.interval, result.accuracy, result.metrics)
    if result.broken is not None:
        measures = ("broken", *(NONE,) * (len(measures) - 1))
    cost = passes(result.forwards, result.backwards, result.attacked)
    if result.broken is not None:
        cost = NONE  # it may have stopped before all examples were attacked
    return Row(
        result.name,
        None if result.broken is not None else _value(result.accuracy, result.metrics),
        (*measures, ball(result.norm, result.eps), number(result.max_norm),
         *((cost,) if counted(report) else ()), duration(result.seconds)),
        result.broken,
        result.flags,
    )  # fmt: skip


def _value(accuracy: float | None, metrics: Mapping[str, float]) -> float | None:
    return accuracy if accuracy is not None else metrics.get("loss")


def _measures(
    report: Report, bounds: Interval | None, accuracy: float | None, metrics: Mapping[str, float]
) -> tuple[str, ...]:
    others = tuple(number(metrics.get(name)) for name in other_metrics(report))
    if report.clean_accuracy is not None:
        return percent(accuracy), interval(bounds), *others
    return number(metrics.get("loss")), *others
