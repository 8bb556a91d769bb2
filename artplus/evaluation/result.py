"""The result of one attack: which examples it fooled, how far it moved them, if it worked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artplus.evaluation.intervals import Interval, wilson

# The types of a report's arrays say how a file holds them: artplus.evaluation.schema.
Array = NDArray[Any]
Bools = NDArray[np.bool_]
Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackResult:
    """One attack on n examples.

    A *broken* attack is no evidence of robustness, so it has no accuracy. Mistakes that it found
    within the rules are real, and count in the worst case.

    Attributes:
        name: Its name in the report.
        norm: Of its ball: ``inf``, 2 or 1.
        eps: Radius it is judged by, in the units of the inputs or of the report's space; the
            largest where it differs per feature or example.
        params: Its settings, for the record; values are numbers, strings or booleans.
        attacked: Number of examples it was run on. By default those that are correct without
            an attack, in regression all.
        correct: ``(n,)`` booleans, which examples are still correct under this attack; ``None``
            if it is broken or predictions are neither right nor wrong (regression). Examples
            that are wrong without it count as wrong. If only survivors were attacked, those that
            an earlier attack fooled count as wrong too.
        losses: ``(n,)`` losses under this attack, the clean loss where it was not run; ``None``
            if it is broken.
        metrics: Means over the n examples: ``"loss"``, and ``"rmse"`` in regression.
        changed: Number of examples that it returned changed.
        max_norm: Largest perturbation among those attacked, in ``norm`` and the unit of ``eps``.
        mean_norm: Mean of them.
        eps_violations: Number of examples outside the ball.
        clip_violations: Number of examples outside the range of valid inputs, or changed where
            the mask forbids it.
        seconds: Wall time, the predictions included.
        forwards: Forward passes of examples by the attack, its queries, without the judge's own
            predictions. ``None`` if they could not be counted.
        backwards: Gradients with respect to an input that it took; 0 of a black-box attack.
            ``None`` if they could not be counted. Both, unlike ``seconds``, are the same on any
            machine, after a resumption, and with any number of processes.
        flags: What a reader should know although it does not break the attack.
        broken: Why it does not count; ``None`` if it does.
        fooled: ``(n,)`` booleans, which examples a broken attack fooled within the rules; ``None``
            if there are none, or it is not broken.
    """

    name: str
    norm: float
    eps: float
    params: Mapping[str, Any] = field(default_factory=dict)
    attacked: int = 0
    correct: Bools | None = None
    losses: Floats | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    changed: int = 0
    max_norm: float | None = None
    mean_norm: float | None = None
    eps_violations: int = 0
    clip_violations: int = 0
    seconds: float = 0.0
    forwards: int | None = None
    backwards: int | None = None
    flags: tuple[str, ...] = ()
    broken: str | None = None
    fooled: Bools | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of all n examples that are still correct under this attack."""
        return None if self.correct is None else float(self.correct.mean())

    @property
    def interval(self) -> Interval | None:
        """95 % Wilson interval of :attr:`accuracy`."""
        if self.correct is None:
            return None
        return wilson(int(self.correct.sum()), len(self.correct))


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """A few attacked examples to look at.

    Attributes:
        index: ``(k,)`` positions in the data.
        x: ``(k, *input)`` clean inputs.
        x_adv: ``(k, *input)`` under attack.
        y: ``(k,)`` true class numbers, or ``(k, ...)`` targets of a regression.
        clean: Predictions for ``x``: class numbers, or raw outputs in regression.
        adversarial: Predictions for ``x_adv``, likewise.
        attack: ``k`` names, which attack made each.
    """

    index: Integers
    x: Pixels
    x_adv: Pixels
    y: Array
    clean: Array
    adversarial: Array
    attack: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)
