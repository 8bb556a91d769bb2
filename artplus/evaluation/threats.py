"""A model under several threats: a report on each, and each example's worst case over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from artplus.errors import ConfigurationError, DataError
from artplus.evaluation import schema, text, wording
from artplus.evaluation.checks._base import Check, Verdict
from artplus.evaluation.intervals import Interval
from artplus.evaluation.names import Names
from artplus.evaluation.report import Report
from artplus.evaluation.result import Array, Examples
from artplus.evaluation.section import Cell, Section, Table

FORMAT, VERSION = "artplus.threats", 2


@dataclass(frozen=True, eq=False)
class ThreatReport(schema.Document):
    """How a model does under each of several threats, and if an attacker may choose among them.

    An example counts as robust only if it withstands every attack of every threat, so robust
    accuracy over the union is at most the least of the threats' [Tramer19]_.

    Saved as a page, a table or a picture, it is :attr:`union`; as JSON it is everything.

    Args:
        reports: One for each threat, on the same model and examples.

    Raises:
        ConfigurationError: if there is none, two are of the same threat, or they are on different
            examples.

    References:
        .. [Tramer19] Tramèr & Boneh, "Adversarial Training and Robustness for Multiple
           Perturbations", NeurIPS 2019.
    """

    reports: tuple[Report, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "reports", tuple(self.reports))
        if not self.reports:
            raise ConfigurationError("a report on several threats needs at least one report")
        if len({(report.data_hash, report.n) for report in self.reports}) > 1:
            raise ConfigurationError(
                "the reports are on different examples, so no example's worst case is known"
            )
        if len(self.by_threat) < len(self.reports):
            raise ConfigurationError("two of the reports are on the same threat")

    @property
    def by_threat(self) -> dict[str, Report]:
        """The reports by what the attacker may do, such as ``"L∞ ≤ 8/255"``."""
        return {_threat(report): report for report in self.reports}

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.reports[0].n

    @property
    def clean_accuracy(self) -> float | None:
        """Share of correct predictions without an attack; ``None`` in regression."""
        return self.reports[0].clean_accuracy

    @property
    def correct_robust(self) -> Array | None:
        """``(n,)`` booleans over the union; ``None`` if no attack worked or in regression."""
        return self.union.correct_robust

    @property
    def robust_accuracy(self) -> float | None:
        """Share of examples that are correct under every attack of every threat."""
        return self.union.robust_accuracy

    @property
    def robust_interval(self) -> Interval | None:
        """95 % Wilson interval of :attr:`robust_accuracy`."""
        return self.union.robust_interval

    @property
    def verdict(self) -> Verdict | None:
        """The worst of the reports' verdicts; ``None`` if nothing was checked."""
        return self.union.verdict

    @property
    def reasons(self) -> tuple[Check, ...]:
        """The checks behind a verdict other than ``"trusted"``, each with its threat."""
        return self.union.reasons

    @property
    def summary(self) -> str:
        """The result in a few sentences."""
        return " ".join([self.union.summary, *_sentences(self)])

    @cached_property
    def union(self) -> Report:
        """All threats as one report; attacks, checks and sections are named with their threat."""
        first = self.reports[0]
        attacks, checks, sections = [], [], []
        for threat, report in self.by_threat.items():
            attacks += [replace(r, name=f"{threat}: {r.name}") for r in report.attacks]
            checks += [replace(c, name=f"{threat}: {c.name}") for c in report.checks]
            sections += [
                replace(s, name=f"{threat}: {s.name}", title=f"{s.title}, {threat}")
                for s in report.sections
            ]
        worst, predictions = _worst(self.by_threat)
        losses = [r.losses_robust for r in self.reports if r.losses_robust is not None]
        notes = dict.fromkeys(note for report in self.reports for note in report.notes)
        return replace(
            first,
            attacks=tuple(attacks),
            worst_attack=worst,
            predictions_worst=predictions,
            robust_metrics=(
                {"loss": float(np.maximum.reduce(losses).mean(dtype=np.float64))} if losses else {}
            ),
            eps=None,
            norm=None,
            examples=_examples(self.by_threat),
            notes=(*_sentences(self), *notes),
            checks=tuple(checks),
            sections=(_table(self.by_threat), *sections),
            call=_call(self.reports),
        )

    def __str__(self) -> str:
        rows = [
            (
                threat,
                wording.percent(report.robust_accuracy),
                wording.interval(report.robust_interval),
                str(len(report.working)),
                report.verdict or "",
            )
            for threat, report in [*self.by_threat.items(), ("all of them", self.union)]
        ]
        table = text.ruled([("threat", "robust", "95% interval", "attacks", "verdict"), *rows])
        return "\n".join([*table, "", *(f"{report}\n" for report in self.reports)]).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, versioned; :meth:`from_dict` is its inverse."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "summary": {
                "clean_accuracy": self.clean_accuracy,
                "robust_accuracy": self.robust_accuracy,
                "threats": {
                    threat: report.robust_accuracy for threat, report in self.by_threat.items()
                },
                "verdict": self.verdict,
                "summary": self.summary,
            },
            "reports": [report.to_dict() for report in self.reports],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ThreatReport:
        """What :meth:`to_dict` wrote.

        Raises:
            DataError: if ``data`` is something else, or of a version not known here.
        """
        schema.check_header(data, FORMAT, VERSION, "report on several threats")
        reports = data.get("reports")
        if not isinstance(reports, list) or not reports:
            raise DataError("this report on several threats is damaged: it holds no reports")
        return cls(tuple(Report.from_dict(report) for report in reports))


def _threat(report: Report) -> str:
    if report.eps is None or report.norm is None:
        raise ConfigurationError(
            "the attacks of a report have different balls, so it is on no single threat"
        )
    return wording.ball(report.norm, report.eps)


def _call(reports: Sequence[Report]) -> dict[str, str]:
    """The one call that gave all reports, with the pairs of radius and norm as ``threats``."""
    calls = [report.call for report in reports]
    if not all(calls):
        return {}
    pairs = ", ".join(f"({call.get('eps')}, {call.get('norm')})" for call in calls)
    kept = {key: value for key, value in calls[0].items() if key not in ("eps", "norm")}
    return {**kept, "threats": f"[{pairs}]"}


def _sentences(threats: ThreatReport) -> list[str]:
    """A sentence on each threat alone."""
    sentences = []
    for threat, report in threats.by_threat.items():
        alone = f"Under {threat} alone"
        if not report.working:
            sentences.append(f"{alone} nothing is known: no attack worked.")
        elif report.robust_accuracy is not None:
            sentences.append(f"{alone} {wording.percent(report.robust_accuracy)} stay right.")
        else:
            sentences.append(f"{alone} the mean loss is {wording.number(report.robust_loss)}.")
    return sentences


def _table(threats: Mapping[str, Report]) -> Section:
    """The result under each threat, as a section."""
    rows: list[tuple[Cell, ...]] = [
        (threat, report.robust_accuracy, wording.interval(report.robust_interval),
         report.robust_loss, len(report.working), report.verdict)
        for threat, report in threats.items()
    ]  # fmt: skip
    return Section(
        name="threats",
        title="Each threat alone",
        summary="The report is on the worst case over all threats. This is each of them alone.",
        blocks=(
            Table(
                columns=("threat", "robust", "95% interval", "robust loss", "attacks", "verdict"),
                units=("text", "percent", "text", "number", "count", "text"),
                rows=tuple(rows),
            ),
        ),
    )


def _worst(threats: Mapping[str, Report]) -> tuple[Names, Array | None]:
    """The attack that raised each example's loss most, and the predictions under it."""
    reports = list(threats.values())
    names, codes, losses = ["", wording.CLEAN], [], []
    for threat, report in threats.items():
        worst, by_name = Names.of(report.worst_attack), {r.name: r.losses for r in report.attacks}
        code, loss = np.zeros(report.n, np.int64), np.full(report.n, -np.inf)
        for k, name in enumerate(worst.names):
            rows = worst.codes == k
            if name == wording.CLEAN:
                code[rows] = 1
            elif name:
                code[rows] = len(names)
                names.append(f"{threat}: {name}")
                # A broken attack has no losses; its mistakes count at the loss without an attack.
                under_attack = by_name[name]
                loss[rows] = (report.losses_clean if under_attack is None else under_attack)[rows]
        codes.append(code)
        losses.append(loss)
    choice = np.argmax(losses, axis=0)
    predictions = [
        r.predictions_clean if r.predictions_worst is None else r.predictions_worst for r in reports
    ]
    known = any(report.working for report in reports) and predictions[0] is not None
    return Names(_chosen(codes, choice), names), _chosen(predictions, choice) if known else None


def _chosen(rows: Sequence[Any], choice: Array) -> Array:
    """Each example's value from the row given by ``choice``."""
    return np.stack(rows)[choice, np.arange(len(choice))]


def _examples(threats: Mapping[str, Report]) -> Examples | None:
    """Some examples of each threat, in total about as many as the largest of them shows."""
    shown = {threat: r.examples for threat, r in threats.items() if r.examples is not None}
    if not shown:
        return None
    room = -(-max(map(len, shown.values())) // len(shown))
    arrays = {
        name: np.concatenate([getattr(examples, name)[:room] for examples in shown.values()])
        for name in ("index", "x", "x_adv", "y", "clean", "adversarial")
    }
    names = tuple(f"{threat}: {a}" for threat, e in shown.items() for a in e.attack[:room])
    return Examples(**arrays, attack=names)


def check_threats(threats: Sequence[Any]) -> list[tuple[Any, float]]:
    """Pairs of radius and norm, each once.

    Raises:
        ConfigurationError: for anything else.
    """
    wanted = "threats must be pairs (eps, norm), such as [(8 / 255, numpy.inf), (0.5, 2)]"
    if not isinstance(threats, Sequence) or isinstance(threats, str) or not threats:
        raise ConfigurationError(f"{wanted}, got {threats!r}")
    for pair in threats:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigurationError(f"{wanted}; one of them is {pair!r}")
        if not isinstance(pair[0], (int, float)) or isinstance(pair[0], bool):
            raise ConfigurationError(f"{wanted}, one number each; one radius is {pair[0]!r}")
    pairs = [(float(eps), float(norm)) for eps, norm in threats]
    if len({wording.ball(norm, eps) for eps, norm in pairs}) < len(pairs):
        raise ConfigurationError(f"{wanted}, each of them once; got {threats!r}")
    return pairs
