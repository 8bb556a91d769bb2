"""Several processes, each with the whole model and a part of every batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from artplus import ranks
from artplus.model import LossModel, device_of
from artplus.training.engines._base import Engine
from artplus.training.numerics import low_precision


class DDP(Engine):
    """``DistributedDataParallel`` under ``torchrun``: gradients are averaged once per weight step.

    ``batch_size`` is that of all processes together, each of which takes its part of every batch,
    so the number of processes changes nothing but rounding, random starts and dropout, which each
    draws for itself. Attacks run on the bare module: no communication in their inner loop. The
    weights of process 0 are given to the others before the first step.

    BatchNorm normalises by each process's own part, as in any data-parallel training; the running
    statistics are averaged after every epoch. For statistics of the whole batch, convert the model
    with ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` before (GPUs only).

    Args:
        unused: Look for parameters that a batch does not use; costs time where there are none.
        options: As for :class:`Engine`.
    """

    name = "ddp"

    def __init__(self, *, unused: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._unused = unused
        self._wrapped: DistributedDataParallel | None = None

    def connect(self, module: nn.Module) -> torch.device:
        """Join the other processes, with NCCL for GPUs and gloo for processors."""
        device = device_of(module)
        ranks.join(device)
        return device

    def _distributed(self, model: LossModel, predict: Any, device: torch.device) -> LossModel:
        """Averaged gradients through torch's wrapper."""
        if ranks.ranks() == 1:
            return super()._distributed(model, predict, device)
        self._wrapped = DistributedDataParallel(
            predict,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=self._unused,
        )
        # Sent once, now; sent before each pass they would be altered between those of one step.
        self._wrapped.broadcast_buffers = False
        return replace(model, forward=low_precision(self._wrapped, self.numerics, device))

    @contextmanager
    def accumulating(self, *, last: bool, second_order: bool = False) -> Iterator[None]:
        """Gradients are averaged with those of the other processes at the last part only."""
        if self._wrapped is None or last:
            yield
            return
        with self._wrapped.no_sync():  # must hold the forward pass too
            yield

    def agree(self) -> None:
        """Average what BatchNorm has seen over the processes."""
        average_buffers(self.attacked.module)

    def release(self, module: nn.Module) -> None:
        """Let the wrapper go; the module itself was never changed."""
        super().release(module)
        self._wrapped = None


def average_buffers(module: nn.Module) -> None:
    """Replace floating-point buffers by their mean over the processes; one message for all."""
    buffers = [b for b in module.buffers() if b.is_floating_point() and b.numel()]
    if ranks.ranks() == 1 or not buffers:
        return
    flat = torch.cat([buffer.detach().reshape(-1).double() for buffer in buffers])
    means = ranks.total(flat) / ranks.ranks()
    with torch.no_grad():
        for buffer, mean in zip(buffers, means.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))
