"""The loop over epochs and batches, and its events; features are callbacks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from artplus import modes
from artplus.errors import DataError
from artplus.training.callbacks import Callback
from artplus.training.data import Batch, Source
from artplus.training.profiling import region
from artplus.training.snapshot import Snapshot
from artplus.training.state import Meter, State
from artplus.training.steps import Gradients, Step


def run(
    state: State,
    data: Source,
    step: Step,
    callbacks: Sequence[Callback] = (),
    saved: dict[str, Any] | None = None,
) -> None:
    """Train for ``state.epochs`` epochs, or until ``state.stop`` names a reason.

    Events go to the callbacks in order. The model trains in the mode that
    :func:`artplus.modes.begin_training` sets; afterwards the train/eval flag of every sub-module is
    restored, also after an error.

    Args:
        state: Changed in place.
        data: Batches of the training data.
        step: Moves the weights on a batch.
        callbacks: In the order of their events.
        saved: What a :class:`~artplus.training.snapshot.Snapshot` took, to continue from.

    Raises:
        DataError: if an epoch has no batch.
    """
    module = state.model.module
    flags = modes.flags(module)
    snapshot = Snapshot(state, data, callbacks)
    state.capture, state.replayable = snapshot.take, data.replayable

    def gradients() -> None:
        for callback in callbacks:
            callback.on_gradients(state)

    with ExitStack() as stack:  # runs every on_fit_end, in order, even if one fails
        for callback in reversed(callbacks):
            stack.callback(callback.on_fit_end, state)
        stack.callback(modes.restore, flags)
        note = modes.begin_training(module)
        if note is not None:
            state.history.notes.append(note)
        for callback in callbacks:
            callback.on_fit_begin(state)
        if saved is not None:
            snapshot.restore(saved)
        while state.epoch < state.epochs and state.stop is None:
            _epoch(state, data, step, callbacks, gradients, snapshot)


def _epoch(
    state: State,
    data: Source,
    step: Step,
    callbacks: Sequence[Callback],
    gradients: Gradients,
    snapshot: Snapshot,
) -> None:
    for batch in _profiled(_remaining(state, data, callbacks, snapshot)):
        for callback in callbacks:
            callback.on_step_begin(state)
        for callback in callbacks:
            batch = callback.on_batch(state, batch)
        state.frozen.release()  # a callback may have unfrozen weights
        step(state, replace(batch, x=state.engine.place(batch.x)), gradients)
        state.step += 1
        state.done += 1
        for callback in callbacks:
            callback.on_step_end(state)
        _pause(state, callbacks)
    if state.done == 0:
        raise DataError(
            f"the data gave no batch in epoch {state.epoch + 1}. An iterable that can be read only "
            "once is empty from the second epoch on; pass a list, a Dataset or a DataLoader."
        )
    state.epoch, state.done = state.epoch + 1, 0
    state.engine.agree()
    state.row |= state.meter.pool()
    state.row["seconds"] = time.perf_counter() - state.began
    for callback in callbacks:
        callback.on_epoch_end(state)
    state.history.rows.append(state.row)
    _pause(state, callbacks)


def _remaining(
    state: State, data: Source, callbacks: Sequence[Callback], snapshot: Snapshot
) -> Iterator[Batch]:
    """The batches of an epoch, or the remaining ones of a resumed epoch."""
    if state.done:
        return snapshot.reopen()
    state.began = time.perf_counter()
    state.meter = Meter()
    state.row = {
        "epoch": state.epoch + 1,
        "lr": state.optimizer.param_groups[0]["lr"],
        "lam": state.method.objective.weight(state.progress),
    }
    for callback in callbacks:
        callback.on_epoch_begin(state)
    data.tell(state.epoch)
    return snapshot.open()


def _profiled(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; a profiler shows the time that loading each one took."""
    while True:
        with region("artplus: data"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _pause(state: State, callbacks: Sequence[Callback]) -> None:
    for callback in callbacks:
        callback.on_pause(state)
