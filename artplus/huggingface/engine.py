"""What a Trainer has set up, as an engine: it places, wraps, scales and moves by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from artplus.errors import ConfigurationError
from artplus.huggingface.accumulation import Accumulation
from artplus.model import LossModel
from artplus.spaces import run
from artplus.spaces.hidden import Hooks, Perturbed, perturbed
from artplus.training.engines.accelerate import Accelerate
from artplus.training.numerics import gradients_scaled
from artplus.tree import Tree


class TrainerEngine(Accelerate):
    """The accelerator, wrapper and precision of a ``Trainer``, used as they are.

    Attacks go to the bare module. Gradients of the weights go through the Trainer's wrapper. The
    Trainer itself clips them and takes the optimizer's step, after the last batch of an
    accumulation.

    Args:
        accelerator: The Trainer's.
        wrapped: The module that the Trainer calls: DDP's wrapper, the sharded module, or the bare
            one.
        accumulation: The present step of the weights.

    Attributes:
        loss: The present batch's share of the step's loss.
        hooks: Those of a space inside the model.
    """

    name = "transformers.Trainer"

    def __init__(
        self, accelerator: Any, wrapped: nn.Module, accumulation: Accumulation | None = None
    ) -> None:
        super().__init__(accelerator)
        self.loss = torch.zeros(())
        self._accumulation = accumulation or Accumulation()
        self.hooks: Hooks | None = None
        self._wrapped = wrapped
        self._root = wrapped if isinstance(wrapped, FSDPModule) else None
        self._moved = False

    def prepare(self, model: LossModel, optimizer: Optimizer) -> None:
        """Make both forms of ``model``; nothing is wrapped again."""
        half = self.accelerator.mixed_precision == "fp16"
        bare = partial(run, model.module)
        self.attacked = replace(model, forward=gradients_scaled(bare) if half else None)
        self.trained = replace(model, forward=self._through_wrapper)
        self.prepared = True

    def begin(self) -> None:
        """Before each batch."""
        self._moved, self.loss = False, torch.zeros((), device=self.accelerator.device)

    def backward(self, loss: Tensor) -> None:
        """By the accelerator, as the batch's share of an accumulation."""
        share = self._accumulation.share
        loss = loss if share is None else loss * share
        self.loss = self.loss + loss.detach()
        super().backward(loss)

    @contextmanager
    def accumulating(self, *, last: bool, second_order: bool = False) -> Iterator[None]:
        """The Trainer says when gradients are summed over processes; here earlier passes wait."""
        if not last and isinstance(self._wrapped, DistributedDataParallel):
            with self._wrapped.no_sync():
                yield
        elif second_order:  # the first backward pass would reshard what the second needs
            with self.gathered():
                yield
        else:
            yield

    def unscale(self, optimizer: Optimizer) -> None:
        """Left to the Trainer, which unscales before it clips."""

    def step(self, optimizer: Optimizer) -> None:
        """Left to the Trainer.

        Raises:
            ConfigurationError: at the second move in a batch.
        """
        if self._moved:
            raise ConfigurationError(
                "this step moves the weights several times a batch, as Free does, but a Trainer "
                "moves them once, after the last batch of an accumulation. Use an attack with the "
                "ordinary step, or artplus.fit(..., step=Free())"
            )
        self._moved = True

    def _through_wrapper(self, x: Tree) -> Any:
        wrapped = self._wrapped
        assert wrapped is not None  # only a released engine of the base class has none
        if isinstance(x, Perturbed) and self.hooks is not None:
            return perturbed(wrapped, self.hooks, x)
        return run(wrapped, x)


class Gradients:
    """Stands for the optimizer in a step: gradients are the Trainer's to clear.

    A step clears them before its first backward pass, when they are empty or hold those of earlier
    batches of an accumulation. Cleared again within the batch, they would take these along.
    """

    def __init__(self, engine: TrainerEngine, module: nn.Module) -> None:
        self._engine, self._module = engine, module
        self._cleared = self._accumulates = False

    def begin(self, *, accumulates: bool) -> None:
        """Before each batch; ``accumulates`` if it is one of several in a step of the weights."""
        self._cleared, self._accumulates = False, accumulates

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing at first; then the gradient of this batch, and its loss.

        Raises:
            ConfigurationError: if this would remove gradients of earlier batches.
        """
        if self._cleared:
            if self._accumulates:
                raise ConfigurationError(
                    "this step, as AWP, clears the gradients within a batch, which would remove "
                    "those of the other batches of an accumulation; use "
                    "gradient_accumulation_steps=1 with a larger batch"
                )
            self._module.zero_grad(set_to_none=set_to_none)
            self._engine.loss = torch.zeros_like(self._engine.loss)
        self._cleared = True
