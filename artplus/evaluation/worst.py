"""The worst case of each example over the attacks so far."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from artplus.evaluation import wording
from artplus.evaluation.attack_run import AttackScores, metrics
from artplus.evaluation.names import Names, code_type
from artplus.evaluation.score_table import ScoreTable, statistics_of
from artplus.tasks import Task

ROBUST, CLEAN, FIRST = range(3)
"""Codes of what made an example wrong: nothing, no attack, and then the attacks in order."""


class Worst:
    """The worst case of each example; results are folded in and need not be kept.

    An attack counts where it was run. Of those that fool an example, the one with the largest loss
    is the worst; in regression the one that raised the loss most. Mistakes of a broken attack
    inside the rules count here, but not its losses.

    Args:
        clean: Scores without an attack.
        attacks: Names of the attacks to come, in order.
    """

    def __init__(self, clean: ScoreTable, attacks: tuple[str, ...]) -> None:
        self._clean, self._attacks, self._any_worked = clean, attacks, False
        n = len(clean)
        self.fooled: NDArray[np.bool_] = (
            np.zeros(n, bool) if clean.wrong is None else clean.wrong.numpy().copy()
        )
        self._codes = self.fooled.astype(code_type(FIRST + len(attacks)))  # true is CLEAN
        self._largest = np.full(n, -np.inf, clean.losses.numpy().dtype)
        self._losses = clean.losses.numpy().copy()
        self._statistics = {k: v.numpy().copy() for k, v in clean.statistics.items()}
        self._predictions = None if clean.predictions is None else clean.predictions.numpy().copy()

    def add(self, k: int, scores: AttackScores, *, working: bool) -> None:
        """Fold in the ``k``-th attack; ``working`` is false if it is broken."""
        rows, columns = scores.rows.numpy(), scores.columns
        losses = columns["losses"].numpy() if columns else self._losses[:0]
        if self._clean.wrong is None:
            fooled = (losses > self._clean.losses.numpy()[rows]) & working
        else:
            fooled = columns["wrong"].numpy() if columns else np.zeros(0, bool)
            self.fooled[rows] |= fooled
        worse = fooled & (losses > self._largest[rows])
        _assign(self._largest, rows, worse, losses)
        _assign(self._codes, rows, worse, FIRST + k)
        if self._predictions is not None and columns:
            _assign(self._predictions, rows, worse, columns["predictions"].numpy())
        if not working:
            return
        self._any_worked = True
        worse = losses > self._losses[rows]
        _assign(self._losses, rows, worse, losses)
        for name, values in statistics_of(columns).items():
            _assign(self._statistics[name], rows, worse, values.numpy())

    @property
    def attack(self) -> Names:
        """``n`` names: ``"clean"``, ``""`` where robust, or the worst attack."""
        codes = self._codes
        if not self._any_worked:
            codes = np.where(codes == CLEAN, CLEAN, ROBUST)
        return Names(codes, ("", wording.CLEAN, *self._attacks))

    @property
    def predictions(self) -> NDArray[np.int32] | None:
        """``(n,)`` class numbers under that attack; ``None`` if none worked or in regression."""
        if self._predictions is None or not self._any_worked:
            return None
        return self._predictions.astype(np.int32)

    def metrics(self, task: Task) -> dict[str, float]:
        """Mean loss and the task's metrics, each example under what raised its loss most.

        Empty if no attack worked.
        """
        return metrics(task, self._losses, self._statistics) if self._any_worked else {}


def _assign(array: NDArray[Any], rows: NDArray[Any], where: NDArray[Any], values: Any) -> None:
    """Set ``array`` to ``values`` where ``where`` is true among ``rows``."""
    selected = array[rows]
    selected[where] = values if isinstance(values, int) else values[where]
    array[rows] = selected
