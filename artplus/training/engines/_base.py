"""The base class of engines, which determine devices and arithmetic of a step: one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import convolution, distributed, modes
from artplus.errors import ConfigurationError
from artplus.model import LossModel, device_of
from artplus.spaces import run
from artplus.training.numerics import (
    Compile,
    Forward,
    Numerics,
    Precision,
    Whole,
    compiled,
    gradients_scaled,
    low_precision,
)
from artplus.tree import Tree, map_tensors


class Engine:
    """Everything about hardware and nothing about methods.

    An engine prepares the model in two forms: :attr:`attacked` for attacks, and :attr:`trained` for
    the gradients of the weights. :attr:`attacked` has no wrapper of data parallelism, so the inner
    loop of attacks causes no communication. This base class runs in one process.

    Args:
        precision: See :class:`~artplus.training.numerics.Numerics`.
        channels_last: See :class:`~artplus.training.numerics.Numerics`.
        compile: See :class:`~artplus.training.numerics.Numerics`.

    Example:
        >>> from artplus.training.engines import Engine
        >>> Engine(precision="bf16").numerics.precision
        'bf16'
    """

    name = "torch"

    accumulation = 1
    """Number of parts that every batch is split into."""

    def __init__(
        self,
        *,
        precision: Precision = "fp32",
        channels_last: bool | None = None,
        compile: Compile = False,
    ) -> None:
        self.requested = Numerics(precision=precision, channels_last=channels_last, compile=compile)
        self.numerics = self.requested
        self.attacked: LossModel
        self.trained: LossModel
        self.prepared = False
        self._scaler: torch.amp.GradScaler | None = None

    @property
    def compiles(self) -> bool:
        """Whether the network is certainly compiled; ``"auto"`` is not certain."""
        return self.requested.compile is True or self.requested.compile == "reduce-overhead"

    def connect(self, module: nn.Module) -> torch.device:
        """Join the other processes, if any; return the device that batches go to."""
        if distributed.world_size() > 1:
            raise ConfigurationError(
                f"{distributed.world_size()} processes are connected, but this engine knows of "
                "one: each would train a model of its own. Use engine='ddp', 'fsdp2' or "
                "'auto'."
            )
        return device_of(module)

    def prepare(self, model: LossModel, optimizer: Optimizer) -> None:
        """Make :attr:`attacked` and :attr:`trained` from ``model``, in the chosen arithmetic."""
        device = device_of(model.module)
        self._refuse_half(device)
        if self.numerics.channels_last:
            # torch's stubs leave out the overload with a memory format alone
            model.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._shard_weights(model.module, optimizer)
        predict: Forward = partial(run, model.module) if model.forward is None else model.forward
        if self.numerics.compile:
            predict = compiled(Whole(model), self.numerics)
        forward = low_precision(predict, self.numerics, device)
        half = self.numerics.precision == "fp16"
        self.attacked = replace(model, forward=gradients_scaled(forward) if half else forward)
        wrapped = self._wrap(model, predict, device)
        self.trained = replace(model, forward=low_precision(wrapped, self.numerics, device))
        self._scaler = torch.amp.GradScaler(device.type) if half else None
        self.prepared = True

    def place(self, x: Tree) -> Tree:
        """A batch in the memory layout of the network."""
        if not self.numerics.channels_last:
            return x
        return map_tensors(
            lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t, x
        )

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Wraps the attack; weights are frozen so that a compiled graph omits their gradients."""
        if not self.numerics.compile:
            yield
            return
        with convolution.left_alone(), modes.frozen(self.attacked.module):
            yield

    @contextmanager
    def accumulating(self, *, last: bool, second_order: bool = False) -> Iterator[None]:
        """Wraps forward and backward pass of a part of a batch; the last completes the gradients.

        With ``second_order`` the forward pass contains a backward pass.
        """
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` to ``.grad`` of the weights."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Undo the scaling of ``.grad`` in fp16, after the last :meth:`backward`."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Update the weights; in fp16 a step whose gradients overflowed is skipped."""
        if self._scaler is None:
            optimizer.step()
            return
        self._scaler.step(optimizer)
        self._scaler.update()

    def agree(self) -> None:
        """Average BatchNorm's running statistics over the processes, at the end of an epoch.

        Every floating-point buffer becomes its mean; all are sent in one message.
        """
        buffers = [b for b in self.attacked.module.buffers() if b.is_floating_point() and b.numel()]
        if distributed.world_size() == 1 or not buffers:
            return
        flat = torch.cat([buffer.detach().reshape(-1).double() for buffer in buffers])
        means = (distributed.all_reduce(flat) / distributed.world_size()).split(
            [b.numel() for b in buffers]
        )
        with torch.no_grad():
            for buffer, mean in zip(buffers, means, strict=True):
                buffer.copy_(mean.view_as(buffer))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gathers sharded weights for forward passes that each process runs by itself."""
        yield

    def full(self, saved: Any) -> Any:
        """``saved`` with sharded tensors gathered, for a checkpoint; all processes must call it."""
        return saved

    def own(self, saved: Any) -> Any:
        """What :meth:`full` returned, each tensor as this process holds it."""
        return saved

    def own_optimizer(self, saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state that :meth:`full` returned, as this process holds it."""
        return saved

    def state_dict(self) -> dict[str, Any]:
        """The scale of gradients in fp16."""
        return {} if self._scaler is None else dict(self._scaler.state_dict())

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if self._scaler is not None:
            self._scaler.load_state_dict(saved)

    def release(self, module: nn.Module) -> None:
        """Undo the changes that :meth:`prepare` made to the module."""
        if self.numerics.channels_last:
            # as above
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.prepared = False
        del self.attacked, self.trained

    def _shard_weights(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Shard the weights over the processes; here each process has all of them."""

    def _wrap(self, model: LossModel, predict: Forward, device: torch.device) -> Forward:
        """The forward pass that gives the weights their gradients; here ``predict`` itself."""
        return predict

    def _refuse_half(self, device: torch.device) -> None:
        if self.numerics.precision == "bf16" and device.type == "cuda":
            if not torch.cuda.is_bf16_supported():
                raise ConfigurationError(
                    "this GPU has no bf16; use precision='fp16', or 'auto' to have it measured"
                )


class Launched(Engine):
    """Base class of engines launched by ``torchrun``, with one process or several."""

    def connect(self, module: nn.Module) -> torch.device:
        """Join the other processes, with NCCL for GPUs and gloo for processors."""
        if not distributed.launched_any():
            raise ConfigurationError(
                f"engine={self.name!r} is for the processes that torchrun starts, but RANK and "
                "WORLD_SIZE are not in the environment, so nothing was started. Run "
                "torchrun --nproc_per_node 2 your_script.py, or leave out engine=: 'auto' takes "
                "one process where there is one, and DDP under torchrun"
            )
        device = device_of(module)
        distributed.join(device)
        return device
