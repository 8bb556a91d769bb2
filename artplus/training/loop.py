"""When: epochs, batches and events. It knows no features; callbacks do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from artplus import modes
from artplus.errors import DataError
from artplus.training.callbacks import Callback
from artplus.training.data import Batch
from artplus.training.state import Meter, State
from artplus.training.steps import Step
from artplus.training.steps.standard import Gradients


def run(
    state: State, data: Iterable[Batch], step: Step, callbacks: Sequence[Callback] = ()
) -> None:
    """Train for ``state.epochs`` epochs or until ``state.stop`` names a reason.

    Events go to the callbacks in order. The model trains in the mode that
    :func:`artplus.modes.begin_training` gives it; afterwards every sub-module has the flag it had
    before, also when an error ends the training.
    """
    module = state.model.module
    saved = modes.flags(module)

    def gradients() -> None:
        for callback in callbacks:
            callback.on_gradients(state)

    with ExitStack() as ends:  # all of them run, in order, even if one fails
        for callback in reversed(callbacks):
            ends.callback(callback.on_fit_end, state)
        ends.callback(modes.restore, saved)
        modes.begin_training(module)
        for callback in callbacks:
            callback.on_fit_begin(state)
        while state.epoch < state.epochs and state.stop is None:
            _epoch(state, data, step, callbacks, gradients)


def _epoch(
    state: State,
    data: Iterable[Batch],
    step: Step,
    callbacks: Sequence[Callback],
    gradients: Gradients,
) -> None:
    started, before = time.perf_counter(), state.step
    state.meter = Meter()
    state.row = {
        "epoch": state.epoch + 1,
        "lr": state.optimizer.param_groups[0]["lr"],
        "lam": state.method.objective.weight(state.progress),
    }
    for callback in callbacks:
        callback.on_epoch_begin(state)
    for batch in data:
        for callback in callbacks:
            callback.on_step_begin(state)
        step(state, batch, gradients)
        state.step += 1
        for callback in callbacks:
            callback.on_step_end(state)
    if state.step == before:
        raise DataError(
            f"the data gave no batch in epoch {state.epoch + 1}. An iterable that can be read only "
            "once is empty from the second epoch on; pass a list, a Dataset or a DataLoader."
        )
    state.epoch += 1
    state.row |= state.meter.read()
    state.row["seconds"] = time.perf_counter() - started
    for callback in callbacks:
        callback.on_epoch_end(state)
    state.history.rows.append(state.row)
