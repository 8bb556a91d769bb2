"""A model that is looked at and not changed: what an attack changes is noticed and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from artplus import modes

_PARTS = (
    "_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks",
    "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
"""What a torch module holds by name: weights, buffers, sub-modules and hooks."""


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every flag and every parameter's ``.grad`` restored afterwards.

    ART's attacks run ``.backward()``, which adds to ``.grad``; a user who evaluates between two
    steps of an accumulated gradient must not find it changed. The tensors are put aside, not
    copied.
    """
    saved = [(parameter, parameter.grad) for parameter in module.parameters()]
    try:
        for parameter, _ in saved:
            parameter.grad = None
        with modes.attack_mode(module):
            yield
    finally:
        for parameter, grad in saved:
            parameter.grad = grad


class Guard:
    """Knows a module and torch's settings as they are, to put back what an attack changes.

    Weights and buffers are copied to the CPU, so a model on an accelerator takes no further memory
    there.

    Args:
        module: The attacked model, in evaluation mode.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = [
            (
                child,
                {name: dict(held) for name in _PARTS if (held := _held(child, name)) is not None},
            )
            for child in module.modules()
        ]
        self._weights = [(n, p, _copy(p)) for n, p in module.named_parameters()]
        self._buffers = [(buffer, _copy(buffer)) for buffer in module.buffers()]
        self._requires_grad = [(p, p.requires_grad) for p in module.parameters()]
        self._flags = modes.flags(module)
        self._grad, self._dtype = torch.is_grad_enabled(), torch.get_default_dtype()

    def put_back(self) -> str | None:
        """Put back what differs; name it, or ``None`` if nothing that decides results does.

        Train and eval flags, ``requires_grad`` and buffers are put back without a word: ART's
        estimators set flags at every call, and a model may count its own calls in a buffer.
        """
        changed = []
        if torch.is_grad_enabled() is not self._grad:
            torch.set_grad_enabled(self._grad)
            changed.append("whether torch records gradients")
        if torch.get_default_dtype() is not self._dtype:
            torch.set_default_dtype(self._dtype)
            changed.append("torch's default dtype")
        for child, parts in self._parts:
            for part, held in parts.items():
                present = _held(child, part)
                if present is not None and not _same(present, held):
                    present.clear()
                    present.update(held)
                    changed.append(f"{part.strip('_').replace('_', ' ')} of {type(child).__name__}")
        with torch.no_grad():
            for name, weight, value in self._weights:
                if not _equal(weight.detach().cpu(), value):
                    weight.copy_(value)
                    changed.append(name)
            for buffer, value in self._buffers:
                buffer.copy_(value)
        for parameter, requires_grad in self._requires_grad:
            if parameter.requires_grad is not requires_grad:
                parameter.requires_grad_(requires_grad)
        modes.restore(self._flags)
        return None if not changed else ", ".join(changed[:3]) + (" …" if changed[3:] else "")


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _held(module: nn.Module, part: str) -> dict[Any, Any] | None:
    held = vars(module).get(part)
    return held if isinstance(held, dict) else None


def _same(present: dict[Any, Any], saved: dict[Any, Any]) -> bool:
    return present.keys() == saved.keys() and all(present[k] is saved[k] for k in saved)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether they hold the same numbers; NaN equals NaN."""
    return torch.equal(a, b) or bool(
        a.is_floating_point() and a.shape == b.shape and ((a == b) | (a.isnan() & b.isnan())).all()
    )
