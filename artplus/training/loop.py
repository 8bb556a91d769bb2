"""When: epochs, batches and events. It knows no features; callbacks do."""

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
    """Train for ``state.epochs`` epochs or until ``state.stop`` names a reason.

    With what a :class:`~artplus.training.snapshot.Snapshot` took, continue from there instead of
    from the beginning. Events go to the callbacks in order. The model trains in the mode that
    :func:`artplus.modes.begin_training` gives it; afterwards every sub-module has the flag it had
    before, also when an error ends the training.
    """
    module = state.model.module
    flags = modes.flags(module)
    snapshot = Snapshot(state, data, callbacks)
    state.capture, state.replayable = snapshot.take, data.replayable

    def gradients() -> None:
        for callback in callbacks:
            callback.on_gradients(state)

    with ExitStack() as ends:  # all of them run, in order, even if one fails
        for callback in reversed(callbacks):
            ends.callback(callback.on_fit_end, state)
        ends.callback(modes.restore, flags)
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
    for batch in _observed(_remaining(state, data, callbacks, snapshot)):
        for callback in callbacks:
            callback.on_step_begin(state)
        for callback in callbacks:
            batch = callback.on_batch(state, batch)
        state.frozen.release()  # a callback may have unfrozen some, which are about to move
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
    """The batches of an epoch, or those that a resumed run has left of one."""
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


def _observed(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; how long each was waited for is seen by a profiler."""
    while True:
        with region("artplus: data"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _pause(state: State, callbacks: Sequence[Callback]) -> None:
    for callback in callbacks:
        callback.on_pause(state)
