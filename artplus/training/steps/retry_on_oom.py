"""A step that halves its parts until they fit into memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from artplus import distributed, modes
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
    """Run ``step``; where memory runs out, on the same batch again with parts half as large.

    Random streams and buffers are put back before, so the result is that of a run which began with
    the smaller parts: the same but for rounding, and BatchNorm, which normalises by parts. It stays
    at the size found, and says so in the history. With several processes the error is raised
    instead, since one cannot repeat a step without the others; so it is if the weights have moved.

    Args:
        step: What is run.
    """

    step: Step

    def __call__(self, state: State, batch: Batch, gradients: Gradients) -> None:
        """One step; see :data:`~artplus.training.steps.Step`."""
        streams = modes.RandomState(device_of(batch.x), state.model.module)
        while True:
            held = _Held(state, streams)
            try:
                self.step(state, batch, gradients)
                return
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                self._refuse(state, held, batch, error)
            # Outside the handler: its traceback would keep the failed pass's tensors alive.
            held.put_back()
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

    def _refuse(self, state: State, held: _Held, batch: Batch, error: Exception) -> None:
        if distributed.world_size() > 1:
            raise ConfigurationError(
                f"memory ran out in process {distributed.rank()}, which cannot repeat the step "
                f"without the others; give "
                f"micro_batch={max(SMALLEST, _size(state, batch) // 2)} or less"
            ) from error
        if state.moves != held.moves or _size(state, batch) <= SMALLEST:
            raise error


def ran_out(error: Exception) -> bool:
    """Whether an error is about memory, on a GPU or, as torch says it there, on a processor."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "defaultcpuallocator" in text or "not enough memory" in text


class _Held:
    """What a failed step may have moved: random streams, buffers, the generator."""

    def __init__(self, state: State, streams: modes.RandomState) -> None:
        self._state, self._streams, self._random = state, streams, streams.get()
        self._generator, self.moves = state.generator.get_state(), state.moves
        self._buffers = _copied(state.model.module)

    def put_back(self) -> None:
        self._streams.set(self._random)
        self._state.generator.set_state(self._generator)
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)


def _copied(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.detach().clone()) for buffer in module.buffers()]


def _size(state: State, batch: Batch) -> int:
    return min(state.micro_batch or len(batch), len(batch))
