"""A step that is repeated with smaller parts of the batch when memory runs out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from artplus import distributed
from artplus.errors import ConfigurationError
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Gradients, Step
from artplus.tree import device_of

_log = logging.getLogger(__name__)

SMALLEST = 2
"""Examples in the smallest part: BatchNorm cannot train on one."""


@dataclass(frozen=True)
class RetryOnOOM:
    """Run ``step``; if memory runs out, repeat it on the same batch in parts half as large.

    Random streams and buffers are restored first, so the result is that of a run which began with
    the smaller parts: the same but for rounding, and BatchNorm, which normalises by parts. Later
    steps keep the smaller size, and a note in the history names it. The error is raised instead if
    the weights have already moved, or with several processes, since one cannot repeat a step
    without the others.

    Args:
        step: The step to run.
    """

    step: Step

    def __call__(self, state: State, batch: Batch, gradients: Gradients) -> None:
        """One step; see :data:`~artplus.training.steps.Step`."""
        while True:
            before = _Volatile(state)
            try:
                self.step(state, batch, gradients)
                return
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                self._refuse(state, before, batch, error)
            # Outside the handler, whose traceback keeps the failed pass's tensors alive.
            before.restore()
            state.optimizer.zero_grad(set_to_none=True)
            if device_of(batch.x).type == "cuda":
                torch.cuda.empty_cache()
            state.micro_batch = max(SMALLEST, _size(state, batch) // 2)
            note = (
                f"memory ran out in step {state.step + 1}: batches are split into parts of "
                f"{state.micro_batch} from there"
            )
            state.history.notes.append(note)
            _log.warning(note)

    def _refuse(self, state: State, before: _Volatile, batch: Batch, error: Exception) -> None:
        """Raise, if the step cannot be repeated."""
        if distributed.world_size() > 1:
            raise ConfigurationError(
                f"memory ran out in process {distributed.rank()}, which cannot repeat the step "
                f"without the others; give "
                f"micro_batch={max(SMALLEST, _size(state, batch) // 2)} or less"
            ) from error
        if state.moves != before.moves or _size(state, batch) <= SMALLEST:
            raise error


def ran_out(error: Exception) -> bool:
    """Whether an error is about memory, on a GPU or, by torch's messages, on a CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "defaultcpuallocator" in text or "not enough memory" in text


class _Volatile:
    """A copy of what a failed step may have changed: random streams, buffers, the generator."""

    def __init__(self, state: State) -> None:
        self._state, self._random = state, state.streams.get()
        self._generator, self.moves = state.generator.get_state(), state.moves
        self._buffers = [(b, b.detach().clone()) for b in state.model.module.buffers()]

    def restore(self) -> None:
        self._state.streams.set(self._random)
        self._state.generator.set_state(self._generator)
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)


def _size(state: State, batch: Batch) -> int:
    return min(state.micro_batch or len(batch), len(batch))
