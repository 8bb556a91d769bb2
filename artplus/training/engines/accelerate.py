"""Hugging Face Accelerate as an engine, with the settings of its launcher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from artplus import distributed
from artplus.errors import ConfigurationError
from artplus.model import LossModel, device_of
from artplus.training.engines.fsdp2 import FSDP2
from artplus.training.numerics import Whole, gradients_scaled

if TYPE_CHECKING:
    from accelerate import Accelerator


class Accelerate(FSDP2):
    """An ``Accelerator`` places, wraps and steps; ``accelerate launch`` configures it.

    Mixed precision, compilation and the number of processes are the accelerator's. Its
    ``gradient_accumulation_steps`` is the number of parts that a batch is split into. As with every
    engine, ``batch_size`` counts the examples of one step of the weights, over all processes and
    parts.

    Differs from using Accelerate by hand: buffers are averaged after each epoch. They are not sent
    from process 0 before each pass, which would change them between the passes of one step.

    Args:
        accelerator: With your settings; ``None`` makes one with the launcher's.

    Raises:
        ConfigurationError: if Accelerate is not installed; for DeepSpeed, Megatron and FSDP 1,
            whose modules give attacks no input gradients; for fp16 on a CPU, which Accelerate
            ignores.
    """

    name = "accelerate"

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        super().__init__()
        try:
            from accelerate import Accelerator, DistributedType
        except ImportError as error:
            raise ConfigurationError(
                "engine='accelerate' needs Accelerate: pip install accelerate"
            ) from error
        # Without a GPU Accelerate connects processes only with cpu=True.
        cpu = distributed.started() > 1 and not torch.cuda.is_available()
        self.accelerator = accelerator or Accelerator(cpu=cpu)
        if self.accelerator.distributed_type in (
            DistributedType.DEEPSPEED,
            DistributedType.MEGATRON_LM,
        ) or (self.accelerator.distributed_type == DistributedType.FSDP and not self._sharded):
            raise ConfigurationError(
                f"attacks need gradients by the input, which {self.accelerator.distributed_type} "
                "does not give; configure Accelerate for DDP or FSDP2 (fsdp_version: 2)"
            )
        if self.accelerator.mixed_precision == "fp16" and not self.accelerator.native_amp:
            raise ConfigurationError(
                "Accelerate would train in fp32: it has mixed_precision='fp16' on GPUs only, and "
                f"this Accelerator's device is {self.accelerator.device}. Use 'bf16' or 'no', or "
                "precision='fp16' without Accelerate"
            )
        self.accumulation = self.accelerator.gradient_accumulation_steps
        self._wrapped: nn.Module | None = None
        self._optimizer: Any = None

    @property
    def compiles(self) -> bool:
        """Whether the accelerator has a dynamo backend."""
        plugin = self.accelerator.state.dynamo_plugin
        return bool(plugin.backend.value != "NO")

    @property
    def _sharded(self) -> bool:
        return bool(getattr(self.accelerator, "is_fsdp2", False))

    def connect(self, module: nn.Module) -> torch.device:
        """Move the module to the accelerator's device; the optimizer keeps its parameters."""
        if self.accelerator.num_processes != distributed.started():
            raise ConfigurationError(
                f"{distributed.started()} processes were started, but this Accelerator knows of "
                f"{self.accelerator.num_processes}; without GPUs: Accelerator(cpu=True)"
            )
        device: torch.device = self.accelerator.device
        if device_of(module).type != device.type:
            module.to(device)
        return device_of(module)

    def prepare(self, model: LossModel, optimizer: Optimizer) -> None:
        """Prepare module and optimizer by the accelerator."""
        self._wrapped, self._optimizer = self.accelerator.prepare(Whole(model), optimizer)
        if isinstance(self._wrapped, DistributedDataParallel):
            self._wrapped.broadcast_buffers = False
        bare = self._wrapped if self._sharded else self.accelerator.unwrap_model(self._wrapped)
        # Accelerate has no types; its sharded modules are torch's
        self._root = bare if self._sharded else None  # type: ignore[assignment]
        half = self.accelerator.mixed_precision == "fp16"
        self.attacked = replace(model, forward=gradients_scaled(bare) if half else bare)
        self.trained = replace(model, forward=self._wrapped)
        self._scaler = self.accelerator.scaler
        self.prepared = True

    @contextmanager
    def accumulating(self, *, last: bool, second_order: bool = False) -> Iterator[None]:
        """Gradients are complete at the last part, by the accelerator's ``no_sync``."""
        if self._root is not None:
            with super().accumulating(last=last, second_order=second_order):
                yield
        elif last or self._wrapped is None:
            yield
        else:
            with self.accelerator.no_sync(self._wrapped):
                yield

    def backward(self, loss: Tensor) -> None:
        """By the accelerator, whose division by the number of parts is undone: losses are sums."""
        self.accelerator.backward(loss * self.accelerator.gradient_accumulation_steps)

    def unscale(self, optimizer: Optimizer) -> None:
        """By the accelerator."""
        self.accelerator.unscale_gradients(self._optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """By the accelerator."""
        self._optimizer.step()

    def release(self, module: nn.Module) -> None:
        """Let the accelerator forget this model."""
        super().release(module)
        self.accelerator.free_memory()
        self._wrapped = self._optimizer = None
