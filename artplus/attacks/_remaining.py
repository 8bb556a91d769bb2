"""The examples that are still in a run: those that are done leave, its passes are on the rest."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from artplus.attacks._problem import Problem

EVERY = 8


class Rowwise(Protocol):
    """What a run remembers of each example."""

    def take(self: S, rows: Tensor) -> S:
        """That of the examples ``rows``."""
        ...

    def replaced(self: S, other: S, rows: Tensor) -> S:
        """``other`` for the examples ``rows``, the present for the rest."""
        ...


S = TypeVar("S", bound=Rowwise)


class Remaining(Generic[S]):
    """The part of a problem that a run is still about.

    The same examples are fooled as without leaving, up to the rounding of smaller batches.

    Attributes:
        problem: Of the examples that are still in the run.
        rows: Their numbers in the whole batch.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rows = torch.arange(len(problem), device=problem.z0.device)
        self._left: list[tuple[S, Tensor]] = []

    def __len__(self) -> int:
        return len(self.problem)

    def leave(
        self, step: int, done: Tensor, state: S, *, worth: float = 0.0, eager: bool = False
    ) -> Tensor | None:
        """Let the examples go that are done.

        Looks at steps 1, 2, 4, 8 and then at every eighth: only there does the host wait for the
        device. Between looks done examples are carried along, which changes no other.

        Args:
            step: Steps done, counted from 1.
            done: ``(batch,)`` booleans of the examples still in the run.
            state: What the run remembers of them.
            worth: Least share of the batch that must be done for a smaller batch to pay.
            eager: Look at every step where that costs nothing, on a CPU.

        Returns:
            Numbers, among those of ``done``, of the examples that stay; ``None`` if all do.
        """
        if not (eager and done.device.type == "cpu"):
            if step % EVERY and step not in (1, 2, 4):
                return None
        rows = (~done).nonzero().squeeze(1)
        if len(done) - len(rows) < max(1, worth * len(done)):
            return None
        self._left.append((state, rows))
        self.problem, self.rows = self.problem.take(rows), self.rows[rows]
        return rows

    def rejoined(self, state: S) -> S:
        """What the run remembers of the whole batch, given that of those that stayed to the end."""
        for whole, rows in reversed(self._left):
            state = whole.replaced(state, rows)
        return state
