"""Exponential moving average of the weights, which validation and the final model use."""

from __future__ import annotations

from typing import Any

import torch

from artplus import _checks
from artplus.training.callbacks._base import Callback
from artplus.training.state import State, clone


class EMA(Callback):
    r"""Average the weights over steps: :math:`\bar w \leftarrow d \bar w + (1 - d) w`.

    With :math:`d = \min(\text{decay}, (1 + t) / (10 + t))` after t steps, so that the first weights
    lose their influence soon [Rebuffi21]_. Trainable parameters are averaged; buffers (BatchNorm
    statistics, counters) are those of the training weights. The average of a weight that is
    unfrozen later starts from its frozen value. Validation uses the averages, and the model has
    them after training. Weights are exchanged by ``state_dict``, so it also works if a wrapper
    keeps a reference to the module.

    Args:
        decay: In [0, 1); 0.995 [Rebuffi21]_ for long runs with large batches, 0.999 or more for
            many small steps.

    References:
        .. [Rebuffi21] Rebuffi et al., "Data augmentation can improve robustness", NeurIPS 2021.
    """

    def __init__(self, decay: float = 0.995) -> None:
        self.decay = _checks.fraction("decay", decay)
        self._steps = 0

    def on_fit_begin(self, state: State) -> None:
        self._steps = 0
        state.averaged = state.copy()

    def on_step_end(self, state: State) -> None:
        if state.averaged is None:
            return
        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        named = state.model.module.named_parameters(remove_duplicate=False)
        parameters = {name for name, _ in named} - state.frozen.buffers
        present = state.model.module.state_dict()
        unfrozen = state.frozen.originals.keys() - state.averaged.keys()
        state.averaged |= clone({name: state.frozen.originals[name] for name in unfrozen})
        with torch.no_grad():
            for name in present.keys() & parameters:
                if name not in state.frozen:
                    state.averaged[name].lerp_(present[name], 1 - decay)
        state.averaged |= clone({k: v for k, v in present.items() if k not in parameters})

    def on_epoch_end(self, state: State) -> None:
        if state.averaged is None:
            return
        # The engine has just averaged the buffers of all processes.
        with torch.no_grad():
            for name, buffer in state.model.module.named_buffers():
                if name in state.averaged:
                    state.averaged[name].copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._steps = saved["steps"]

    def on_fit_end(self, state: State) -> None:
        if state.averaged is not None:
            state.put_back(state.averaged)
            state.averaged = None
