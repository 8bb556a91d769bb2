"""The events of training; a callback overrides those it cares about."""

from __future__ import annotations

from typing import Any, ClassVar

from artplus.training.data import Batch
from artplus.training.state import State


class Callback:
    """Empty hooks. A callback may replace ``state.method``, add to ``state.row`` or stop.

    Order matters and is the order of the list: what makes figures comes before what reads them.
    The same callback object may serve several fits: what it remembers is set in
    :meth:`on_fit_begin`. What a resumed run needs of it goes through :meth:`state_dict`; where a
    run is resumed in the middle of an epoch, that epoch's :meth:`on_epoch_begin` is not called
    again.

    Example:
        >>> class StopAfter(Callback):
        ...     def __init__(self, epochs: int) -> None:
        ...         self.epochs = epochs
        ...     def on_epoch_end(self, state: State) -> None:
        ...         if state.epoch >= self.epochs:
        ...             state.stop = f"{self.epochs} epochs are enough"
    """

    watches: ClassVar[bool] = False
    """Whether it only looks on: such a one may come and go between a run and its resumption.

    What it remembers is in the checkpoint all the same, for where it is there again.
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

        ``state.done`` is 0 after an epoch. Nothing is half done here.
        """

    def on_fit_end(self, state: State) -> None:
        """After training, also when an error ends it; flags are restored."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as tensors and plain data; empty for one that remembers nothing."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave; comes after :meth:`on_fit_begin`."""
