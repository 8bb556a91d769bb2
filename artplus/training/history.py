"""What happened, epoch by epoch: plain rows that save, load and plot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artplus import atomic, saving
from artplus.errors import DataError

Row = dict[str, Any]


class History:
    """One row per epoch, each a dict of plain numbers.

    Keys, each present if it was measured: ``epoch``, ``lr``, ``lam``, ``eps_scale``, ``loss``,
    ``clean_accuracy``, ``adversarial_accuracy`` (on training batches, while the weights move),
    ``adversarial_examples`` (how many the weights' gradient was taken at in a step, on average, of
    all processes together), ``val_clean_accuracy``, ``val_adversarial_accuracy``, ``seconds``.

    Example:
        >>> history = History([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}])
        >>> history["loss"]
        [2.0, 1.0]
    """

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = list(rows or [])
        self.notes: list[str] = []
        """Decisions of the run and their reasons: stopped early, kept the best of epoch 7, ..."""

    def __getitem__(self, key: str) -> list[Any]:
        """The column ``key``; epochs without it are left out.

        Raises:
            KeyError: if no row has it; names the known columns.
        """
        column = [row[key] for row in self.rows if key in row]
        if not column:
            known = sorted({name for row in self.rows for name in row})
            raise KeyError(f"no column {key!r} in this history; known: {', '.join(known)}")
        return column

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        last = ", ".join(
            f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
            for k, v in (self.rows[-1] if self.rows else {}).items()
        )
        return f"History({len(self)} epochs; last: {last})"

    def to_dict(self) -> dict[str, Any]:
        """Rows and notes as plain data."""
        return {"rows": self.rows, "notes": self.notes}

    def save(self, path: str | Path) -> Path:
        """Write JSON to ``path``, or a plot if its suffix is ``.png``, ``.svg`` or ``.pdf``."""
        path = Path(path)
        if path.suffix in {".png", ".svg", ".pdf"}:
            return self.plot(path)
        return atomic.write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read what :meth:`save` wrote as JSON.

        Raises:
            DataError: if the file is not a saved history.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            history = cls(data["rows"])
            history.notes = list(data["notes"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a history written by History.save: {error}") from error
        return history

    def plot(self, path: str | Path) -> Path:
        """Draw loss and clean and adversarial accuracy over the epochs."""
        return saving.save(self, path)
