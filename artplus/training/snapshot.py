"""Everything that later steps of a run depend on, saved between two steps and restored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from artplus import distributed
from artplus.errors import CheckpointError
from artplus.seeding import set_streams, streams
from artplus.training.callbacks import Callback
from artplus.training.data import Batch, Source
from artplus.training.state import State


class Snapshot:
    """Saves and restores a run, part by part.

    The parts: weights and buffers without the frozen ones, what else the optimizer updates, the
    optimizer, the progress of training, the callbacks, and the random streams. Streams are saved as
    they are and as they were when the epoch began, so that its order can be drawn again.

    Args:
        state: State of the run.
        data: Batches of the training data.
        callbacks: All of them.
    """

    def __init__(self, state: State, data: Source, callbacks: Sequence[Callback]) -> None:
        self._state, self._data, self._callbacks = state, data, callbacks
        self._opening: dict[str, Any] = {}

    def take(self) -> dict[str, Any]:
        """Tensors and plain data that share memory with what is training.

        All processes must call it; each gets the parts of all.
        """
        state = self._state
        shared = {
            "run": state.fingerprint,
            "model": state.moving(),
            "beside": self._outside_parameters(),
            "optimizer": state.optimizer.state_dict(),
            "engine": state.engine.state_dict(),
            "numerics": asdict(state.engine.numerics),
            "state": state.state_dict(),
            "callbacks": {name: c.state_dict() for name, c in self._named()},
            "watchers": {name: c.state_dict() for name, c in self._named(watching=True)},
        }
        local = {
            "state": state.local_state_dict(),
            "streams": self._streams(),
            "opening": self._opening if state.done else {},
        }
        if distributed.world_size() > 1:
            local["buffers"] = dict(state.model.module.named_buffers())
        return {**state.engine.full(shared), "own": distributed.all_gather(local)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`take` returned; call it after :meth:`Callback.on_fit_begin`.

        Raises:
            CheckpointError: if a part is missing, or does not fit this run.
        """
        state = self._state
        try:
            if saved["state"]["done"] and not self._data.replayable:
                raise CheckpointError(
                    "this checkpoint was taken in the middle of an epoch, but the data is an "
                    "iterable that cannot be begun again where it was. Resume from one taken at "
                    "an epoch's end, or give a DataLoader over a map-style data set."
                )
            local = saved["own"][distributed.rank()]
            shared = state.engine.own({k: saved[k] for k in ("model", "state", "callbacks")})
            state.frozen.load_state_dict(local["state"]["frozen"], copied=shared["model"])
            state.load_state_dict(shared["state"])
            state.put_back(shared["model"])
            with torch.no_grad():
                for present, value in zip(self._outside_parameters(), saved["beside"], strict=True):
                    present.copy_(value)
                buffers = dict(state.model.module.named_buffers())
                for name, value in local.get("buffers", {}).items():
                    buffers[name].copy_(value)
            state.load_local_state_dict(local["state"])
            for name, callback in self._named():
                callback.load_state_dict(shared["callbacks"][name])
            watchers = saved.get("watchers", {})  # may be added or left out on resumption
            for name, callback in self._named(watching=True):
                if watchers.get(name):
                    callback.load_state_dict(watchers[name])
            # After the schedulers, whose constructors may have set learning rates.
            state.optimizer.load_state_dict(
                state.engine.own_optimizer(saved["optimizer"], state.optimizer)
            )
            state.engine.load_state_dict(saved["engine"])
            self._opening = local["opening"]
            self._set_streams(local["streams"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"this checkpoint does not fit the run ({type(error).__name__}: {error}). Resume "
                "it with the code that wrote it."
            ) from error

    def open(self) -> Iterator[Batch]:
        """Begin an epoch over the data."""
        self._opening = self._streams()
        return self._data.begin()

    def reopen(self) -> Iterator[Batch]:
        """Begin the restored epoch again and skip its finished batches."""
        now = self._streams()
        self._set_streams(self._opening)
        batches = self._data.begin(self._state.done)
        self._set_streams(now)
        return batches

    def _named(self, *, watching: bool = False) -> Iterator[tuple[str, Callback]]:
        """Callbacks that change the run, or that watch it, by their type's name and a number."""
        counts: dict[str, int] = {}
        for callback in self._callbacks:
            if callback.watches is not watching:
                continue
            name = type(callback).__qualname__
            counts[name] = counts.get(name, 0) + 1
            yield f"{name} {counts[name]}", callback

    def _outside_parameters(self) -> list[Tensor]:
        """Parameters in the optimizer but not in the model, such as those of a loss."""
        inside = {id(parameter) for parameter in self._state.model.module.parameters()}
        optimized = (p for group in self._state.optimizer.param_groups for p in group["params"])
        return [p.detach() for p in optimized if id(p) not in inside]

    def _streams(self) -> dict[str, Any]:
        return {"global": streams(), "order": self._data.order()}

    def _set_streams(self, saved: dict[str, Any]) -> None:
        set_streams(saved["global"])
        self._data.set_order(saved["order"])
