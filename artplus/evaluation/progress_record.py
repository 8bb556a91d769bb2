"""What is known of one attack so far, batch by batch: it can be saved, joined and continued."""

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
from artplus.evaluation.verify import Findings
from artplus.passes import Passes

DONE, SECONDS, OUTSIDE_BALL, OUTSIDE_SPACE, CHANGED, BEYOND, LENGTH, LONGEST = range(8)
FORWARDS, BACKWARDS = 8, 9
COLUMNS = 10
"""Columns of the ledger: was it run, how long did it take, how many broke which rule or were
changed or needed more than their radius, the sum and the largest of the perturbations, and how many
examples went through the model and back, NaN where that is not known."""


@dataclass(frozen=True)
class Example:
    """One attacked example, kept to be looked at.

    Attributes:
        batch: Number of the batch that it was in.
        position: In the data.
        x: The input.
        x_adv: What the attack made of it.
        prediction: For ``x_adv``.
    """

    batch: int
    position: int
    x: Tensor
    x_adv: Tensor
    prediction: Tensor


class ProgressRecord:
    """The batches of one attack: scores a row each, and a line of the ledger for each batch.

    Batches depend on nothing but their number, so they may be run in any order, by any process
    and in several lives; those that are done are the same whoever did them.

    Args:
        attacked: Number of examples that the attack is run on.
        batch_size: How many make a batch.
        classes: Number of classes; ``None`` in regression.
        room: How many examples to keep that it turned, and how many that it did not.
    """

    def __init__(self, attacked: int, batch_size: int, classes: int | None, room: int) -> None:
        self.form = attacked, batch_size, classes, room
        self.sheet, self._size, self._room = ScoreTable(attacked, classes), batch_size, room
        self.ledger = torch.zeros(math.ceil(attacked / batch_size), COLUMNS, dtype=torch.float64)
        self.fooled: list[Example] = []
        self.held: list[Example] = []
        self.broken: tuple[int, str] | None = None

    @property
    def done(self) -> Tensor:
        """``(batches,)`` booleans."""
        return self.ledger[:, DONE] > 0

    def todo(self) -> Tensor:
        """Numbers of the batches that are still to be run; none after one where it broke."""
        upto = len(self.ledger) if self.broken is None else self.broken[0]
        return (~self.done[:upto]).nonzero().flatten()

    def rows(self, batch: int) -> slice:
        """Where a batch stands among the attacked examples."""
        return slice(batch * self._size, min(len(self.sheet), (batch + 1) * self._size))

    def size(self, batch: int) -> int:
        """How many examples a batch has."""
        rows = self.rows(batch)
        return int(rows.stop - rows.start)

    def count(self, *columns: int) -> list[int]:
        """Sums over the ledger's columns."""
        return [int(self.ledger[:, column].sum()) for column in columns]

    @property
    def examples(self) -> int:
        """How many of the attacked examples are done."""
        numbers = self.done.nonzero().flatten()
        last = len(self.ledger) - 1
        missing = self._size * len(self.ledger) - len(self.sheet)
        return self._size * len(numbers) - (missing if bool((numbers == last).any()) else 0)

    @property
    def longest(self) -> float | None:
        """Largest perturbation; ``None`` if there is none."""
        return float(self.ledger[:, LONGEST].max()) if bool(self.done.any()) else None

    @property
    def mean_length(self) -> float | None:
        """Mean perturbation; exact sums, so that the order of the batches does not show."""
        if not bool(self.done.any()):
            return None
        return math.fsum(self.ledger[:, LENGTH].tolist()) / self.examples

    @property
    def seconds(self) -> float:
        """What the batches took, whoever ran them and when."""
        return math.fsum(self.ledger[:, SECONDS].tolist())

    @property
    def passes(self) -> tuple[int, int] | None:
        """Examples sent forward and backward by the batches; ``None`` if one is not known."""
        sums = self.ledger[:, [FORWARDS, BACKWARDS]].sum(0).tolist()
        return None if any(map(math.isnan, sums)) else (int(sums[0]), int(sums[1]))

    def add(
        self,
        batch: int,
        part: Tensor,
        z: Tensor,
        z_adv: Tensor,
        scores: Scores,
        found: Findings,
        *,
        beyond: int,
        seconds: float,
        cost: Passes,
    ) -> None:
        """Enter a batch; only with the last assignment does it count as done.

        Args:
            batch: Its number.
            part: Positions of its examples in the data.
            z: Its inputs, as the space has them.
            z_adv: What the attack made of them, inside the rules.
            scores: How they fare.
            found: What the attack returned, measured.
            beyond: How many needed more than the radius.
            seconds: What it took.
            cost: Passes that the attack made.
        """
        self.sheet.put(self.rows(batch), scores)
        self._exhibit(batch, part, z, z_adv, scores)
        counts = [found.outside_ball, found.outside_space, found.changed]
        lengths = found.lengths.double()
        passes = (cost.forwards, cost.backwards) if cost.known else (math.nan, math.nan)
        self.ledger[batch] = torch.tensor(
            [1, seconds, *(int(c.sum()) for c in counts), beyond, lengths.sum(), lengths.max(),
             *passes],
            dtype=torch.float64,
        )  # fmt: skip

    def _exhibit(self, batch: int, part: Tensor, z: Tensor, z_adv: Tensor, scores: Scores) -> None:
        turned = torch.ones(len(part), dtype=torch.bool) if scores.wrong is None else scores.wrong
        for shelf, which in ((self.fooled, turned), (self.held, ~turned)):
            room = self._room - sum(other.batch < batch for other in shelf)
            if room <= 0:
                continue
            for row in which.nonzero().flatten()[:room].tolist():
                kept = (v[row].detach().cpu().clone() for v in (z, z_adv, scores.predictions))
                shelf.append(Example(batch, int(part[row]), *kept))

    def state(self, but: Tensor | None = None) -> dict[str, Any]:
        """The batches that are done as tensors and plain data.

        Args:
            but: ``(batches,)`` booleans, which to leave out.
        """
        done = self.done if but is None else self.done & ~but
        shelves = {"fooled": self.fooled, "held": self.held}
        return {
            "done": done,
            "ledger": self.ledger[done],
            "columns": self.sheet.rows(self._mask(done)),
            "broken": self.broken,
            "exhibits": {
                name: [vars(e) for e in shelf if done[e.batch]] for name, shelf in shelves.items()
            },
        }

    def absorb(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Enter what other processes or other lives have done, and is not done here."""
        for state in states:
            theirs: Tensor = state["done"]
            fresh = theirs & ~self.done
            inside = fresh[theirs]
            if bool(fresh.any()):
                rows = self._mask(fresh)
                among = rows.numpy()[self._mask(theirs).numpy()]
                self.sheet.enter(
                    rows,
                    {k: torch.from_numpy(v.numpy()[among]) for k, v in state["columns"].items()},
                )
                for name, shelf in (("fooled", self.fooled), ("held", self.held)):
                    found = (Example(**e) for e in state["exhibits"][name])
                    shelf.extend(exhibit for exhibit in found if fresh[exhibit.batch])
                self.ledger[fresh] = _complete(state["ledger"][inside])
            if state["broken"] is not None:
                self.broken = min(filter(None, (self.broken, tuple(state["broken"]))))

    def settle(self) -> None:
        """Forget what one process alone would never have come to: batches after a break."""
        if self.broken is not None:
            self.ledger[self.broken[0] :] = 0
        done = self.done
        for shelf in (self.fooled, self.held):
            kept = sorted((e for e in shelf if done[e.batch]), key=lambda e: e.position)
            shelf[:] = kept[: self._room]

    def rows_done(self) -> Tensor:
        """``(attacked,)`` booleans, which rows are in batches that are done."""
        return self._mask(self.done)

    def _mask(self, batches: Tensor) -> Tensor:
        return batches.repeat_interleave(self._size)[: len(self.sheet)]


def _complete(ledger: Tensor) -> Tensor:
    """Lines of a ledger; what those of before did not hold is not known."""
    return F.pad(ledger, (0, COLUMNS - ledger.shape[1]), value=math.nan)
