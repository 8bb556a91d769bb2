"""What the model predicted before training: adapters off, or a frozen copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from artplus import modes
from artplus.errors import ConfigurationError
from artplus.model import LossModel


@contextmanager
def reference(model: LossModel, frozen: nn.Module | None, loss: str) -> Iterator[LossModel]:
    """The model as it was before training, in evaluation mode and without gradients.

    Switching PEFT's adapters off needs no second model in memory. It is exact as long as only
    adapters are trained.

    Args:
        model: What is trained; wrappers such as DDP's may surround it.
        frozen: A copy from before training; ``None`` switches the adapters off.
        loss: Name of the objective, for messages.

    Raises:
        ConfigurationError: for a model without adapters and no copy.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if frozen is None:
            stack.enter_context(_without_adapters(model.module, loss))
        else:
            model = replace(model, module=frozen, forward=None)  # which calls the trained one
        stack.enter_context(modes.attack_mode(model.module))
        yield model


@contextmanager
def _without_adapters(module: nn.Module, loss: str) -> Iterator[None]:
    adapted: Any = next((m for m in modes.unwrapped(module) if hasattr(m, "disable_adapter")), None)
    if adapted is None:
        raise ConfigurationError(
            f"loss {loss!r} compares the model with itself before training. That is free with "
            "adapters, which are switched off for it: peft.get_peft_model(model, LoraConfig(...)). "
            f"{type(module).__name__} has none, so give a frozen copy: {loss}(reference="
            "copy.deepcopy(model))."
        )
    # PEFT switches requires_grad with the adapters, and on for all of them afterwards.
    flags = [(p, p.requires_grad) for p in adapted.parameters()]
    try:
        with adapted.disable_adapter():
            yield
    finally:
        for parameter, trainable in flags:
            if parameter.requires_grad is not trainable:
                parameter.requires_grad_(trainable)
