"""The scores of many examples, filled in batch by batch: a few bytes per example."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from artplus.evaluation.data import Scores

METRIC = "metric "
"""Prefix of the names of columns that hold a metric's statistics."""


class ScoreTable:
    """Columns of ``n`` rows, allocated when the first batch shows which there are.

    Losses keep their precision, and class numbers take two bytes where that is enough. Other
    predictions are not kept; only what the task's metrics need of them is.

    Args:
        n: Number of rows.
        classes: Number of classes; ``None`` in regression.
    """

    def __init__(self, n: int, classes: int | None) -> None:
        self.n, self.columns = n, dict[str, Tensor]()
        self._class_dtype = None
        if classes is not None:
            small = classes <= torch.iinfo(torch.int16).max
            self._class_dtype = torch.int16 if small else torch.int32

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
        if self._class_dtype is not None:
            columns["predictions"] = scores.predictions.to(self._class_dtype)
        columns |= {f"{METRIC}{name}": values for name, values in scores.statistics.items()}
        for name, values in columns.items():
            self._column(name, values)[rows] = values

    def rows(self, rows: slice | Tensor) -> dict[str, Tensor]:
        """A copy of some rows, as :meth:`fill` takes them."""
        if isinstance(rows, slice):
            return {name: column[rows].clone() for name, column in self.columns.items()}
        mask = rows.numpy()
        return {name: torch.from_numpy(v.numpy()[mask]) for name, v in self.columns.items()}

    def fill(self, rows: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Enter what :meth:`rows` returned where ``rows`` is true."""
        for name, values in columns.items():
            self._column(name, values).numpy()[rows.numpy()] = values.numpy()

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
