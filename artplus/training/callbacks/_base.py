"""The events of training; a callback overrides those it cares about."""

from __future__ import annotations

from artplus.training.state import State


class Callback:
    """Empty hooks. A callback may replace ``state.method``, add to ``state.row`` or stop.

    Order matters and is the order of the list: what makes figures comes before what reads them.
    The same callback object may serve several fits: what it remembers is set in
    :meth:`on_fit_begin`.

    Example:
        >>> class StopAfter(Callback):
        ...     def __init__(self, epochs: int) -> None:
        ...         self.epochs = epochs
        ...     def on_epoch_end(self, state: State) -> None:
        ...         if state.epoch >= self.epochs:
        ...             state.stop = f"{self.epochs} epochs are enough"
    """

    def on_fit_begin(self, state: State) -> None:
        """Before the first epoch; the model is in train mode."""

    def on_epoch_begin(self, state: State) -> None:
        """Before an epoch's first batch; ``state.epoch`` epochs are finished."""

    def on_step_begin(self, state: State) -> None:
        """Before a batch is attacked."""

    def on_gradients(self, state: State) -> None:
        """Between the backward pass and the optimizer's step."""

    def on_step_end(self, state: State) -> None:
        """After the weights moved; ``state.step`` counts the step just done."""

    def on_epoch_end(self, state: State) -> None:
        """After an epoch's last batch, before ``state.row`` joins the history."""

    def on_fit_end(self, state: State) -> None:
        """After training, also when an error ends it; flags are restored."""
