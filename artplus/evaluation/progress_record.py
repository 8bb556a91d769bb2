"""What is known of one attack run, batch by batch: it can be saved, merged and continued."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.evaluation.data import Scores
from artplus.evaluation.score_table import ScoreTable
from artplus.evaluation.verify import Measured
from artplus.passes import Passes

DONE, SECONDS, OUTSIDE_BALL, OUTSIDE_SPACE, CHANGED, BEYOND, LENGTH, LONGEST = range(8)
FORWARDS, BACKWARDS = 8, 9
COLUMNS = 10
"""Columns of a batch's statistics: whether it was run, how long it took, how many examples broke
which rule, were changed or needed more than their radius, sum and maximum of the perturbations, and
how many examples went through the model forward and backward (NaN if unknown)."""


@dataclass(frozen=True)
class Example:
    """One attacked example, kept for the report.

    Attributes:
        batch: Number of its batch.
        position: In the data.
        x: The input.
        x_adv: The input under attack.
        prediction: For ``x_adv``.
    """

    batch: int
    position: int
    x: Tensor
    x_adv: Tensor
    prediction: Tensor


class ProgressRecord:
    """The batches of one attack run: a row of scores per example, statistics per batch.

    Batches depend only on their number, so any process can run them in any order, before or after
    an interruption, with the same result.

    Args:
        attacked: Number of examples that the attack is run on.
        batch_size: Examples per batch.
        classes: Number of classes; ``None`` in regression.
        max_examples: How many fooled examples to keep, and how many robust ones.
    """

    def __init__(
        self, attacked: int, batch_size: int, classes: int | None, max_examples: int
    ) -> None:
        self.settings = attacked, batch_size, classes, max_examples
        self.scores = ScoreTable(attacked, classes)
        self.batches = torch.zeros(math.ceil(attacked / batch_size), COLUMNS, dtype=torch.float64)
        self.fooled: list[Example] = []
        self.robust: list[Example] = []
        self.broken: tuple[int, str] | None = None
        self._size, self._max_examples = batch_size, max_examples

    @property
    def done(self) -> Tensor:
        """``(batches,)`` booleans."""
        return self.batches[:, DONE] > 0

    def todo(self) -> Tensor:
        """Numbers of the batches still to be run; none after the one where the attack broke."""
        end = len(self.batches) if self.broken is None else self.broken[0]
        return (~self.done[:end]).nonzero().flatten()

    def rows(self, batch: int) -> slice:
        """Where a batch is among the attacked examples."""
        return slice(batch * self._size, min(len(self.scores), (batch + 1) * self._size))

    def size(self, batch: int) -> int:
        """Number of examples in a batch."""
        rows = self.rows(batch)
        return int(rows.stop - rows.start)

    def count(self, *columns: int) -> list[int]:
        """Sums of columns over the batches."""
        return [int(self.batches[:, column].sum()) for column in columns]

    @property
    def examples_done(self) -> int:
        """How many of the attacked examples are done."""
        return sum(self.size(batch) for batch in self.done.nonzero().flatten().tolist())

    @property
    def longest(self) -> float | None:
        """Largest perturbation; ``None`` if no batch is done."""
        return float(self.batches[:, LONGEST].max()) if bool(self.done.any()) else None

    @property
    def mean_length(self) -> float | None:
        """Mean perturbation; the sum is exact, so that it does not depend on the batches' order."""
        if not bool(self.done.any()):
            return None
        return math.fsum(self.batches[:, LENGTH].tolist()) / self.examples_done

    @property
    def seconds(self) -> float:
        """Time of all batches, whichever process ran them and when."""
        return math.fsum(self.batches[:, SECONDS].tolist())

    @property
    def passes(self) -> tuple[int, int] | None:
        """Forward and backward passes of examples; ``None`` if unknown for any batch."""
        sums = self.batches[:, [FORWARDS, BACKWARDS]].sum(0).tolist()
        return None if any(map(math.isnan, sums)) else (int(sums[0]), int(sums[1]))

    def add(
        self,
        batch: int,
        positions: Tensor,
        z: Tensor,
        z_adv: Tensor,
        scores: Scores,
        measured: Measured,
        *,
        beyond: int,
        seconds: float,
        cost: Passes,
    ) -> None:
        """Enter a batch. It counts as done only with the last assignment.

        Args:
            batch: Its number.
            positions: Of its examples in the data.
            z: Its inputs, as the space has them.
            z_adv: The same under attack, inside the rules.
            scores: Of ``z_adv``.
            measured: What the attack returned, measured.
            beyond: How many examples needed more than the radius.
            seconds: Time it took.
            cost: Passes that the attack made.
        """
        self.scores.put(self.rows(batch), scores)
        self._keep_examples(batch, positions, z, z_adv, scores)
        counts = [measured.outside_ball, measured.outside_space, measured.changed]
        lengths = measured.lengths.double()
        passes = (cost.forwards, cost.backwards) if cost.known else (math.nan, math.nan)
        self.batches[batch] = torch.tensor(
            [1, seconds, *(int(c.sum()) for c in counts), beyond, lengths.sum(), lengths.max(),
             *passes],
            dtype=torch.float64,
        )  # fmt: skip

    def _keep_examples(
        self, batch: int, positions: Tensor, z: Tensor, z_adv: Tensor, scores: Scores
    ) -> None:
        wrong = scores.wrong
        fooled = torch.ones(len(positions), dtype=torch.bool) if wrong is None else wrong
        for kept, rows in ((self.fooled, fooled), (self.robust, ~fooled)):
            room = self._max_examples - sum(example.batch < batch for example in kept)
            for row in rows.nonzero().flatten()[: max(room, 0)].tolist():
                values = (v[row].detach().cpu().clone() for v in (z, z_adv, scores.predictions))
                kept.append(Example(batch, int(positions[row]), *values))

    def state(self, exclude: Tensor | None = None) -> dict[str, Any]:
        """The batches that are done, as tensors and plain data.

        Args:
            exclude: ``(batches,)`` booleans, which batches to leave out.
        """
        done = self.done if exclude is None else self.done & ~exclude
        return {
            "done": done,
            "batches": self.batches[done],
            "columns": self.scores.rows(self._rows_of(done)),
            "broken": self.broken,
            "examples": {
                name: [vars(example) for example in kept if done[example.batch]]
                for name, kept in (("fooled", self.fooled), ("robust", self.robust))
            },
        }

    def merge(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Enter the batches of other processes or earlier runs that are not done here."""
        for state in states:
            done: Tensor = state["done"]
            new = done & ~self.done
            if bool(new.any()):
                rows = self._rows_of(new)
                inside = rows.numpy()[self._rows_of(done).numpy()]
                self.scores.fill(
                    rows,
                    {k: torch.from_numpy(v.numpy()[inside]) for k, v in state["columns"].items()},
                )
                for name, kept in (("fooled", self.fooled), ("robust", self.robust)):
                    examples = (Example(**values) for values in state["examples"][name])
                    kept.extend(example for example in examples if new[example.batch])
                self.batches[new] = _all_columns(state["batches"][new[done]])
            if state["broken"] is not None:
                self.broken = min(filter(None, (self.broken, tuple(state["broken"]))))

    def finish(self) -> None:
        """Drop batches after a break, which one process alone would not have run."""
        if self.broken is not None:
            self.batches[self.broken[0] :] = 0
        done = self.done
        for kept in (self.fooled, self.robust):
            examples = sorted((e for e in kept if done[e.batch]), key=lambda e: e.position)
            kept[:] = examples[: self._max_examples]

    def rows_done(self) -> Tensor:
        """``(attacked,)`` booleans, which examples are in batches that are done."""
        return self._rows_of(self.done)

    def _rows_of(self, batches: Tensor) -> Tensor:
        return batches.repeat_interleave(self._size)[: len(self.scores)]


def _all_columns(batches: Tensor) -> Tensor:
    """Statistics of batches; columns that an older version did not save are unknown."""
    return F.pad(batches, (0, COLUMNS - batches.shape[1]), value=math.nan)
