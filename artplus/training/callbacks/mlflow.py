"""A run's settings, curves and notes in MLflow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from artplus.errors import ConfigurationError
from artplus.fingerprint import Fingerprint
from artplus.training.callbacks.tracking import Figures, Tracker, missing
from artplus.training.state import State, Weights

SEND_EVERY = 5.0
"""Seconds between messages with figures of steps, each of which blocks training."""

LONGEST = 500
"""Largest number of characters of a setting in older servers."""


class MLflow(Tracker):
    """Write a run to MLflow, on a server or in a folder.

    A run that is resumed from a checkpoint continues the same MLflow run, with status ``RUNNING``
    again. Steps between the checkpoint and the interruption are logged twice, with the same values
    if training is deterministic.

    See :class:`~artplus.training.callbacks.tracking.Tracker` for what is written when. A run ends
    as ``FINISHED``, or as ``FAILED`` if an error or a signal ended training early.

    Args:
        experiment: Name of the experiment; created if missing.
        name: Name of the run; ``None`` lets MLflow choose.
        uri: Address of the tracking server, or a folder; ``None`` is MLflow's setting.
        tags: Tags of the run.
        weights: Also save the final weights as ``weights.pt``, a ``state_dict``.
        every_steps: Steps between figures of a step.

    Raises:
        ConfigurationError: before training, if MLflow is not installed or cannot be reached.

    Example:
        >>> MLflow("digits", tags={"data": "v2"}).weights
        False
    """

    def __init__(
        self,
        experiment: str = "artplus",
        *,
        name: str | None = None,
        uri: str | None = None,
        tags: Mapping[str, str] | None = None,
        weights: bool = False,
        every_steps: int = 10,
    ) -> None:
        super().__init__(every_steps=every_steps)
        self.experiment, self.name, self.uri = experiment, name, uri
        self.tags, self.weights = dict(tags or {}), weights
        self.run_id: str | None = None
        """Identifier of the run in MLflow, once it has begun."""
        self._client: Any = None
        self._unsent: list[tuple[str, float, int, int]] = []
        self._sent_at = 0.0

    def connect(self) -> None:
        self.run_id, self._unsent, self._sent_at = None, [], time.monotonic()
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(missing("MLflow", "mlflow-skinny or mlflow")) from error

    def begin(self, settings: Fingerprint, done: int) -> None:
        from mlflow import MlflowClient

        try:
            self._client = MlflowClient(tracking_uri=self.uri)
            if self.run_id is None:
                self.run_id = self._create(settings)
            else:
                self._client.update_run(self.run_id, status="RUNNING")
        except Exception as error:  # network, disk and server raise different errors
            raise ConfigurationError(
                f"MLflow could not begin a run in experiment {self.experiment!r}: {error}"
            ) from error

    def log(self, figures: Figures, step: int) -> None:
        now = int(time.time() * 1000)
        self._unsent += [(name, value, now, step) for name, value in figures.items()]
        epoch = any(name.startswith("epoch/") for name in figures)
        if epoch or time.monotonic() - self._sent_at > SEND_EVERY:
            self._send()

    def end(self, state: State, weights: Weights | None, *, finished: bool) -> None:
        self._send()
        if state.history.notes:
            self._client.log_text(self.run_id, "\n".join(state.history.notes) + "\n", "notes.txt")
        if weights is not None:
            self._save(weights)
        self._client.set_terminated(self.run_id, "FINISHED" if finished else "FAILED")

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.run_id = saved["run_id"]

    def _create(self, settings: Fingerprint) -> str:
        from mlflow.entities import Param

        existing = self._client.get_experiment_by_name(self.experiment)
        number = (
            existing.experiment_id if existing else self._client.create_experiment(self.experiment)
        )
        run = self._client.create_run(number, run_name=self.name, tags=self.tags)
        params = [Param(key, value[:LONGEST]) for key, value in settings.items()]
        self._client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def _send(self) -> None:
        from mlflow.entities import Metric

        figures, self._unsent, self._sent_at = self._unsent, [], time.monotonic()
        size = 1000  # MLflow's limit for one message
        for start in range(0, len(figures), size):
            metrics = [Metric(*figure) for figure in figures[start : start + size]]
            self._client.log_batch(self.run_id, metrics=metrics)

    def _save(self, weights: Weights) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.pt"
            torch.save(weights, path)
            self._client.log_artifact(self.run_id, str(path))
