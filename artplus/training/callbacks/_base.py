"""The events of training; a callback overrides those it cares about."""

from __future__ import annotations

from typing import Any, ClassVar

from artplus.training.data import Batch
from artplus.training.state import State


class Callback:
    """Empty hooks. A callback may replace ``state.method``, add to ``state.row`` or stop training.

    Callbacks run in the order of the list: what measures comes before what reads the figures. The
    same object may serve several fits, so it resets its state in :meth:`on_fit_begin`. The state
    that a resumed run needs is in :meth:`state_dict`. If a run is resumed in the middle of an
    epoch, that epoch's :meth:`on_epoch_begin` is not called again.

    Example:
        >>> class StopAfter(Callback):
        ...     def __init__(self, epochs: int) -> None:
        ...         self.epochs = epochs
        ...     def on_epoch_end(self, state: State) -> None:
        ...         if state.epoch >= self.epochs:
        ...             state.stop = f"{self.epochs} epochs are enough"
    """

    watches: ClassVar[bool] = False
    """Whether it only watches, so that a resumed run may add it or leave it out.

    Checkpoints hold its state all the same, for runs that have it again.
    """

    def on_fit_begin(self, state: State) -> None:
        """Before the first epoch; the model is in train mode."""

    def on_epoch_begin(self, state: State) -> None:
        """Before an epoch's first batch; ``state.epoch`` epochs are finished."""

    def on_step_begin(self, state: State) -> None:
        """Before a batch is attacked."""

    def on_batch(self, state: State, batch: Batch) -> Batch:
        """The batch to train on, before it is attacked; as it came, unless overridden."""
        return batch

    def on_gradients(self, state: State) -> None:
        """Between the backward pass and the optimizer's step."""

    def on_step_end(self, state: State) -> None:
        """After the weights moved; ``state.step`` counts the step just done."""

    def on_epoch_end(self, state: State) -> None:
        """After an epoch's last batch, before ``state.row`` joins the history."""

    def on_pause(self, state: State) -> None:
        """Between two steps: after a step's last callback, and after an epoch's row is written.

        ``state.done`` is 0 after an epoch. The state is complete here and may be saved.
        """

    def on_fit_end(self, state: State) -> None:
        """After training, also when an error ends it; flags are restored."""

    def state_dict(self) -> dict[str, Any]:
        """Its state as tensors and plain data; empty by default."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; called after :meth:`on_fit_begin`."""
