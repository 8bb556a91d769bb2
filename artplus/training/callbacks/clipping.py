"""Keep the gradient's norm below a bound."""

from __future__ import annotations

import torch

from artplus import _checks
from artplus.training.callbacks._base import Callback
from artplus.training.state import State


class GradientClipping(Callback):
    """Scale gradients down to a global norm before each step.

    Args:
        max_norm: Greatest L2 norm of all gradients together, > 0; 0.5 to 1.0 is common for
            fine-tuning and single-step training.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = _checks.positive("max_norm", max_norm)

    def on_gradients(self, state: State) -> None:
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
