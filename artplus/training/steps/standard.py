"""The ordinary step: craft, weigh the terms, descend."""

from __future__ import annotations

from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Gradients, craft, descend, measure, move


def standard(state: State, batch: Batch, gradients: Gradients) -> None:
    """Move the weights once down the objective on one batch.

    The attack runs first and leaves no gradient behind; then a backward pass, or one for each part
    of the batch, fills ``.grad``.
    """
    crafted = craft(state, batch)
    state.optimizer.zero_grad(set_to_none=True)
    seen = descend(state, batch, crafted)
    move(state, gradients)
    measure(state, batch, seen)
