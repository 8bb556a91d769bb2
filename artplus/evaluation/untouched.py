"""A model that is looked at and not changed: flags and gradients come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from artplus import modes


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
