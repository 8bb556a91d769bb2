"""The worst case of each example over the attacks so far."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from artplus.evaluation import wording
from artplus.evaluation.attack_run import Fate, metrics
from artplus.evaluation.names import Names, code_type
from artplus.evaluation.score_table import ScoreTable, statistics_of
from artplus.tasks import Task

HELD, CLEAN, FIRST = range(3)
"""Codes of what hurt an example: nothing, no attack, and then the attacks in order."""


class Worst:
    """What hurt each example most; an attack's result is folded in and need not be kept.

    An attack counts where it was run. Of those that fool an example, the one with the largest loss
    hurt it most; in regression the one that raised its loss most. What a broken attack turned
    inside the rules counts there, but not in the losses.

    Args:
        clean: Scores without an attack.
        attacks: Names of the attacks to come, in order.
    """

    def __init__(self, clean: ScoreTable, attacks: tuple[str, ...]) -> None:
        self._clean, self._attacks, self._working = clean, attacks, False
        n = len(clean)
        self.fallen: NDArray[np.bool_] = (
            np.zeros(n, bool) if clean.wrong is None else clean.wrong.numpy().copy()
        )
        self._codes = self.fallen.astype(code_type(FIRST + len(attacks)))  # true is CLEAN
        self._top = np.full(n, -np.inf, clean.losses.numpy().dtype)
        self._losses = clean.losses.numpy().copy()
        self._statistics = {k: v.numpy().copy() for k, v in clean.statistics.items()}
        self._predictions = None if clean.predictions is None else clean.predictions.numpy().copy()

    def add(self, k: int, fate: Fate, *, working: bool) -> None:
        """Fold in the ``k``-th attack, which is ``working`` unless it is broken."""
        rows, columns = fate.rows.numpy(), fate.columns
        losses = columns["losses"].numpy() if columns else self._losses[:0]
        if self._clean.wrong is None:
            struck = (losses > self._clean.losses.numpy()[rows]) & working
        else:
            struck = columns["wrong"].numpy() if columns else np.zeros(0, bool)
            self.fallen[rows] |= struck
        worse = struck & (losses > self._top[rows])
        _into(self._top, rows, worse, losses)
        _into(self._codes, rows, worse, FIRST + k)
        if self._predictions is not None and columns:
            _into(self._predictions, rows, worse, columns["predictions"].numpy())
        if not working:
            return
        self._working = True
        worse = losses > self._losses[rows]
        _into(self._losses, rows, worse, losses)
        for name, values in statistics_of(columns).items():
            _into(self._statistics[name], rows, worse, values.numpy())

    @property
    def attack(self) -> Names:
        """``n`` names: ``"clean"``, ``""`` where it held, or the attack that hurt most."""
        codes = self._codes
        if not self._working:
            codes = np.where(codes == CLEAN, CLEAN, HELD)
        return Names(codes, ("", wording.CLEAN, *self._attacks))

    @property
    def predictions(self) -> NDArray[np.int32] | None:
        """``(n,)`` class numbers under that attack; ``None`` if none worked or in regression."""
        if self._predictions is None or not self._working:
            return None
        return self._predictions.astype(np.int32)

    def metrics(self, task: Task) -> dict[str, float]:
        """Mean loss and the task's metrics, each example under what raised its loss most.

        Empty if no attack worked.
        """
        return metrics(task, self._losses, self._statistics) if self._working else {}


def _into(array: NDArray[Any], rows: NDArray[Any], which: NDArray[Any], values: Any) -> None:
    """Enter ``values`` where ``which`` is true among ``rows``."""
    own = array[rows]
    own[which] = values if isinstance(values, int) else values[which]
    array[rows] = own
