"""The ordinary step: craft adversarial examples, compute gradients, move the weights."""

from __future__ import annotations

from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Gradients, craft, descend, measure, move


def standard(state: State, batch: Batch, gradients: Gradients) -> None:
    """Take one step of the optimizer on one batch.

    The attack runs first and leaves no gradient. Then one backward pass, or one for each part of
    the batch, fills ``.grad``.
    """
    crafted = craft(state, batch)
    state.optimizer.zero_grad(set_to_none=True)
    output = descend(state, batch, crafted)
    move(state, gradients)
    measure(state, batch, output)
