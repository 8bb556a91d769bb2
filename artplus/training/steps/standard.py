"""The ordinary step: craft, weigh the terms, descend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from artplus import modes
from artplus.losses import Terms
from artplus.training.data import Batch
from artplus.training.state import State

Gradients = Callable[[], None]
"""Called between the backward pass and the optimizer: callbacks clip or inspect gradients."""

Step = Callable[[State, Batch, Gradients], None]

CLEAN_EVERY = 10
"""Steps between measurements of clean accuracy, for objectives that never look at ``x``."""


def standard(state: State, batch: Batch, gradients: Gradients) -> None:
    """Move the weights once down the objective on one batch.

    The attack runs first and leaves no gradient behind; then one backward pass fills ``.grad``.
    """
    method, model = state.method, state.model
    x_advs = method.craft(model, batch.x, batch.y, step=state.step, generator=state.generator)
    terms = method.terms(model, batch.x, x_advs, batch.y)
    loss = method.reduce(model, terms, batch.y, state.progress)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients()
    state.optimizer.step()
    _measure(state, batch, terms, loss)


def _measure(state: State, batch: Batch, terms: Terms, loss: Tensor) -> None:
    """Live figures from predictions that are there anyway; a clean pass now and then if not."""
    meter, model = state.meter, state.model
    meter.add("loss", loss.detach().expand(len(batch.x)))
    if not model.criterion.over_classes:
        return
    with torch.no_grad():
        clean = terms.clean
        if clean is None and ("clean_accuracy" not in meter or state.step % CLEAN_EVERY == 0):
            with modes.crafting(model.module):
                clean = model(batch.x)
        if clean is not None:
            meter.add("clean_accuracy", ~model.wrong(clean, batch.y))
        if terms.adversarial is not None:
            meter.add("adversarial_accuracy", ~model.wrong(terms.adversarial, batch.y))
