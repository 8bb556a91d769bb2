"""The scores of many examples, filled in a batch at a time: a few bytes an example, no more."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from artplus.evaluation.data import Scores

METRIC = "metric "
"""What the name of a metric's column begins with."""


class ScoreTable:
    """Columns of ``n`` rows, allocated when the first batch says what it has.

    Losses keep their precision, and class numbers take two bytes where that is enough. Other
    predictions are not kept; what the task's metrics need of them is.

    Args:
        n: Number of rows.
        classes: Number of classes; ``None`` in regression.
    """

    def __init__(self, n: int, classes: int | None) -> None:
        self.n, self.columns = n, dict[str, Tensor]()
        self._kind = None
        if classes is not None:
            self._kind = torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32

    def __len__(self) -> int:
        return self.n

    @property
    def losses(self) -> Tensor:
        """``(n,)`` losses; infinite where the prediction is not a number."""
        return self.columns["losses"] if "losses" in self.columns else torch.zeros(self.n)

    @property
    def wrong(self) -> Tensor | None:
        """``(n,)`` booleans; ``None`` where predictions are neither right nor wrong."""
        return self.columns.get("wrong")

    @property
    def statistics(self) -> dict[str, Tensor]:
        """``(n, k)`` of each metric, by its name."""
        return statistics_of(self.columns)

    @property
    def predictions(self) -> Tensor | None:
        """``(n,)`` class numbers; ``None`` in regression."""
        return self.columns.get("predictions")

    def put(self, rows: slice, scores: Scores) -> None:
        """Enter a batch."""
        columns = {"losses": scores.losses}
        if scores.wrong is not None:
            columns["wrong"] = scores.wrong
        if self._kind is not None:
            columns["predictions"] = scores.predictions.to(self._kind)
        columns |= {f"{METRIC}{name}": values for name, values in scores.statistics.items()}
        for name, values in columns.items():
            self._column(name, values)[rows] = values

    def rows(self, which: slice | Tensor) -> dict[str, Tensor]:
        """A copy of some rows, as :meth:`enter` takes them."""
        return {name: _taken(column, which) for name, column in self.columns.items()}

    def enter(self, which: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Enter rows that :meth:`rows` gave, where ``which`` is true."""
        for name, values in columns.items():
            self._column(name, values).numpy()[which.numpy()] = values.numpy()

    def _column(self, name: str, like: Tensor) -> Tensor:
        if name not in self.columns:
            self.columns[name] = torch.zeros((self.n, *like.shape[1:]), dtype=like.dtype)
        return self.columns[name]


def statistics_of(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The metrics' columns among those of a table, by the metric's name."""
    return {
        name.removeprefix(METRIC): values
        for name, values in columns.items()
        if name.startswith(METRIC)
    }


def _taken(column: Tensor, which: slice | Tensor) -> Tensor:
    if isinstance(which, slice):
        return column[which].clone()
    return torch.from_numpy(column.numpy()[which.numpy()])
