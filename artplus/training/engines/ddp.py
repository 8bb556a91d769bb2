"""Several processes, each with the whole model and a part of every batch."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from artplus import ranks
from artplus.errors import ConfigurationError
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
        join(device)
        return device

    def _distributed(self, model: LossModel, predict: Any, device: torch.device) -> LossModel:
        """Averaged gradients through torch's wrapper."""
        if ranks.ranks() == 1:
            return super()._distributed(model, predict, device)
        self._wrapped = DistributedDataParallel(
            predict,
            device_ids=[device] if device.type == "cuda" else None,
            # Buffers sent before each pass would be altered between the passes of one step.
            broadcast_buffers=False,
            find_unused_parameters=self._unused,
        )
        return replace(model, forward=low_precision(self._wrapped, self.numerics, device))

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
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


def join(device: torch.device) -> None:
    """Connect the processes that ``torchrun`` started, if it did and nobody has yet.

    Raises:
        ConfigurationError: if processes of one machine share a GPU.
    """
    own = int(os.environ.get("LOCAL_RANK", 0))
    if device.type == "cuda" and "LOCAL_RANK" in os.environ and device.index not in (None, own):
        raise ConfigurationError(
            f"process {own} of this machine has its model on {device}, the GPU of another "
            "process. Before the model is built: "
            'torch.cuda.set_device(int(os.environ["LOCAL_RANK"])), and .to("cuda")'
        )
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    dist.init_process_group("cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


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


def give(tensor: Tensor) -> None:
    """Overwrite ``tensor`` by that of process 0."""
    sent = tensor.detach() if "nccl" not in dist.get_backend() else tensor.detach().cuda()
    dist.broadcast(sent, 0)
    if sent.data_ptr() != tensor.data_ptr():
        tensor.detach().copy_(sent)
