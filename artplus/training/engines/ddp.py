"""Data parallelism: each process has the whole model and a part of every batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from artplus import distributed
from artplus.model import LossModel
from artplus.training.engines._base import Launched
from artplus.training.numerics import Forward, Whole


class DDP(Launched):
    """``DistributedDataParallel`` under ``torchrun``: gradients are averaged once per weight step.

    ``batch_size`` counts the examples of all processes together, each of which takes its part of
    every batch. So the number of processes changes only rounding, and random starts and dropout,
    which each process draws for itself. Attacks run on the bare module, without communication in
    their inner loop. The weights of process 0 are sent to the others before the first step.

    BatchNorm normalises by each process's own part, as in any data-parallel training; the running
    statistics are averaged after every epoch. For statistics of the whole batch, convert the model
    with ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` before (GPUs only).

    Args:
        unused: Look for parameters that a batch does not use, which takes time in every step.
        options: As for :class:`~artplus.training.engines.Engine`.
    """

    name = "ddp"

    def __init__(self, *, unused: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._unused = unused
        self._wrapped: DistributedDataParallel | None = None

    def _wrap(self, model: LossModel, predict: Forward, device: torch.device) -> Forward:
        """Torch's wrapper, which averages gradients."""
        if distributed.world_size() == 1:
            return predict
        self._wrapped = DistributedDataParallel(
            predict if isinstance(predict, nn.Module) and self.numerics.compile else Whole(model),
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=self._unused,
        )
        # Buffers were sent once, just now; before each pass they would change within a step.
        self._wrapped.broadcast_buffers = False
        return self._wrapped

    @contextmanager
    def accumulating(self, *, last: bool, second_order: bool = False) -> Iterator[None]:
        """Gradients are averaged with those of the other processes at the last part only."""
        if self._wrapped is None or last:
            yield
            return
        with self._wrapped.no_sync():  # must enclose the forward pass too
            yield

    def release(self, module: nn.Module) -> None:
        """Drop the wrapper; the module itself was never changed."""
        super().release(module)
        self._wrapped = None
