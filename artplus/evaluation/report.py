"""The report on a model: each attack, each example's worst case, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from artplus.errors import DataError
from artplus.evaluation import schema, text, wording
from artplus.evaluation.checks._base import Check, Verdict, overall
from artplus.evaluation.intervals import Interval, wilson
from artplus.evaluation.names import Names
from artplus.evaluation.result import AttackResult, Bools, Examples, Floats, Integers
from artplus.evaluation.section import Section

FORMAT, VERSION = "artplus.report", 2
"""The version rises when a reader of the old one would go wrong, not for new fields alone."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Report(schema.Document):
    r"""How a model does on n examples, without and under attack.

    Robust accuracy is the per-example worst case,
    :math:`\frac{1}{n} \sum_i \prod_a [f(x_i^{(a)}) = y_i]` over the attacks ``a`` that worked: an
    example counts only if it is robust to all of them, so robust accuracy is at most the least of
    the attacks' accuracies. It is an upper bound: a stronger attack can only lower it.

    In regression predictions are neither right nor wrong: the accuracies are ``None``, and there
    are ``clean_loss`` and ``robust_loss``, the latter of each example under the attack that raised
    its loss most. Classification has both, too.

    Attributes:
        n: Number of examples.
        attacks: One result each, in the order they ran.
        eps: Radius common to all attacks that count; ``None`` if they differ.
        norm: Norm common to them; ``None`` if they differ.
        space: What ``eps`` bounds and in which unit, such as ``"per token, embedding space"``;
            empty where whole inputs are perturbed in their own units.
        seed: Of every random draw.
        batch_size: Random starts are drawn per batch, so a repetition needs it too.
        only_survivors: True if each attack ran only on examples that no attack before it fooled;
            its accuracy is then that of all attacks so far.
        correct_clean: ``(n,)`` booleans without an attack; ``None`` in regression.
        losses_clean: ``(n,)`` losses without an attack.
        clean_metrics: Means without an attack: ``"loss"``, and ``"rmse"`` in regression.
        robust_metrics: The same in the worst case; empty if no attack worked.
        worst_attack: ``n`` names, which attack hurt each example most: ``"clean"`` where the model
            is wrong without one, ``""`` where no attack fooled it.
        predictions_clean: ``(n,)`` class numbers without an attack; ``None`` in regression.
        predictions_worst: ``(n,)`` class numbers under :attr:`worst_attack`, and clean predictions
            where there is none; ``None`` if no attack worked.
        examples: A few attacked examples, or ``None``.
        class_names: One per class, for display.
        model: What was judged, a name for display.
        device: Where it ran.
        date: When it ran, ISO 8601, UTC.
        versions: Of artplus, torch, ART, numpy and Python.
        data_hash: Of inputs and labels; two reports compare only if it agrees.
        notes: What a reader should know beyond single attacks.
        checks: Results of the checks of the evaluation itself; empty if none were run.
        sections: Of the analyses: :mod:`artplus.evaluation.analyses`.
        call: Arguments of :func:`artplus.evaluate` as Python text by name, so that it can be called
            again; ``"estimator"`` describes the model. Empty if another function made the report.
    """

    n: int
    attacks: tuple[AttackResult, ...]
    losses_clean: Floats
    correct_clean: Bools | None = None
    worst_attack: Sequence[str] = ()
    predictions_clean: Integers | None = None
    predictions_worst: Integers | None = None
    clean_metrics: Mapping[str, float] = field(default_factory=dict)
    robust_metrics: Mapping[str, float] = field(default_factory=dict)
    eps: float | None = None
    norm: float | None = None
    space: str = ""
    seed: int = 0
    batch_size: int = 0
    only_survivors: bool = False
    examples: Examples | None = None
    class_names: tuple[str, ...] | None = None
    model: str = "model"
    device: str = "cpu"
    date: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    data_hash: str = ""
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    sections: tuple[Section, ...] = ()
    call: Mapping[str, str] = field(default_factory=dict)

    @property
    def working(self) -> tuple[AttackResult, ...]:
        """The attacks that count, which are not broken."""
        return tuple(result for result in self.attacks if result.broken is None)

    @property
    def broken(self) -> tuple[AttackResult, ...]:
        """The attacks that do not count."""
        return tuple(result for result in self.attacks if result.broken is not None)

    @property
    def correct(self) -> dict[str, Bools]:
        """``(n,)`` booleans of each attack that counts, by name."""
        return {r.name: r.correct for r in self.working if r.correct is not None}

    @property
    def correct_robust(self) -> Bools | None:
        """``(n,)`` booleans of the worst case; ``None`` if no attack worked or in regression.

        Mistakes that a broken attack found within the rules count; nothing else of it does.
        """
        if self.correct_clean is None or not self.correct:
            return None
        by_broken = [~r.fooled for r in self.broken if r.fooled is not None]
        robust: Bools = np.logical_and.reduce(
            [self.correct_clean, *self.correct.values(), *by_broken]
        )
        return robust

    @property
    def clean_accuracy(self) -> float | None:
        """Share of correct predictions without an attack; ``None`` in regression."""
        return None if self.correct_clean is None else float(self.correct_clean.mean())

    @property
    def robust_accuracy(self) -> float | None:
        """Share of examples that are correct under every attack; ``None`` if none worked."""
        correct = self.correct_robust
        return None if correct is None else float(correct.mean())

    @property
    def clean_interval(self) -> Interval | None:
        """95 % Wilson interval of :attr:`clean_accuracy`."""
        return None if self.correct_clean is None else _interval(self.correct_clean)

    @property
    def robust_interval(self) -> Interval | None:
        """95 % Wilson interval of :attr:`robust_accuracy`."""
        correct = self.correct_robust
        return None if correct is None else _interval(correct)

    @property
    def clean_loss(self) -> float:
        """Mean loss without an attack."""
        return float(self.losses_clean.mean(dtype=np.float64))

    @property
    def losses_robust(self) -> Floats | None:
        """``(n,)`` losses, each under the attack that raised it most; ``None`` if none worked."""
        losses = [r.losses for r in self.working if r.losses is not None]
        if not losses:
            return None
        worst: Floats = np.maximum.reduce([self.losses_clean, *losses])
        return worst

    @property
    def robust_loss(self) -> float | None:
        """Mean of :attr:`losses_robust`."""
        losses = self.losses_robust
        return None if losses is None else float(losses.mean(dtype=np.float64))

    @property
    def verdict(self) -> Verdict | None:
        """``"trusted"``, ``"suspicious"`` or ``"broken"``, the worst of :attr:`checks`.

        It is about the evaluation, not the model: a trusted accuracy may be low. ``None`` if
        nothing was checked.
        """
        return overall(self.checks)

    @property
    def reasons(self) -> tuple[Check, ...]:
        """The checks behind a verdict other than ``"trusted"``, the gravest first."""
        failed = [check for check in self.checks if check.verdict != "ok"]
        return tuple(sorted(failed, key=lambda check: check.verdict != "broken"))

    @property
    def summary(self) -> str:
        """The result in a sentence or two."""
        return wording.summary(self)

    def __str__(self) -> str:
        return text.table(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, versioned; :meth:`from_dict` is its inverse.

        ``"summary"`` repeats what follows from the rest, for readers without artplus. The format
        is described in :mod:`artplus.evaluation.schema`.
        """
        summary = ("clean_accuracy", "clean_interval", "robust_accuracy", "robust_interval",
                   "verdict", "summary")  # fmt: skip
        return {
            "format": FORMAT,
            "version": VERSION,
            "summary": {
                **{name: getattr(self, name) for name in summary},
                "attacks": {result.name: result.accuracy for result in self.attacks},
            },
            **schema.encode(self),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that :meth:`to_dict` wrote.

        Raises:
            DataError: if ``data`` is no report, damaged, or of another version.
        """
        schema.check_header(data, FORMAT, VERSION, "artplus report")
        report = schema.decode(cls, data)
        if len(report.losses_clean) != report.n:
            raise DataError(
                f"this report is damaged or incomplete: n is {report.n}, but losses_clean holds "
                f"{len(report.losses_clean)} values"
            )
        return replace(report, worst_attack=Names.of(report.worst_attack))


def _interval(correct: Bools) -> Interval:
    return wilson(int(correct.sum()), len(correct))
