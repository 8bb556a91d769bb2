"""Removes finished examples from a run, so that forward passes are only on the rest."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from artplus.attacks._problem import Problem

_INTERVAL = 8
"""Steps between two removals, after the first few."""


class Rowwise(Protocol):
    """State of a run with one row per example."""

    def take(self: S, rows: Tensor) -> S:
        """The state of the examples ``rows``."""
        ...

    def replaced(self: S, other: S, rows: Tensor) -> S:
        """``other`` for the examples ``rows``, ``self`` for the rest."""
        ...


S = TypeVar("S", bound=Rowwise)


class Remaining(Generic[S]):
    """The part of a problem that is still in a run.

    The same examples are fooled as with whole batches, up to the rounding of smaller batches.

    Attributes:
        problem: The problem of the examples that are still in the run.
        rows: Their indices in the whole batch.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rows = torch.arange(len(problem), device=problem.z0.device)
        self._earlier: list[tuple[S, Tensor]] = []

    def __len__(self) -> int:
        return len(self.problem)

    def leave(
        self, step: int, done: Tensor, state: S, *, worth: float = 0.0, eager: bool = False
    ) -> Tensor | None:
        """Remove the examples that are done.

        This synchronises with the device, so it happens only at steps 1, 2, 4, 8 and then every
        eighth step. In between, done examples stay in the batch, which does not affect others.

        Args:
            step: Steps done, counted from 1.
            done: ``(batch,)`` booleans of the examples still in the run.
            state: Their state.
            worth: Smallest share of the batch that must be done to make the batch smaller.
            eager: Check at every step on a CPU, where that costs nothing.

        Returns:
            Indices into ``done`` of the examples that stay; ``None`` if all do.
        """
        if not (eager and done.device.type == "cpu"):
            if step % _INTERVAL and step not in (1, 2, 4):
                return None
        rows = (~done).nonzero().squeeze(1)
        if len(done) - len(rows) < max(1, worth * len(done)):
            return None
        self._earlier.append((state, rows))
        self.problem, self.rows = self.problem.take(rows), self.rows[rows]
        return rows

    def rejoined(self, state: S) -> S:
        """The state of the whole batch, from the final state of the examples that stayed."""
        for earlier, rows in reversed(self._earlier):
            state = earlier.replaced(state, rows)
        return state
