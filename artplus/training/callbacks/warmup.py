"""Raise the radius from zero: training that starts at a large radius collapses."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from artplus import _checks
from artplus.attacks import Relative
from artplus.errors import ConfigurationError
from artplus.training.callbacks._base import Callback
from artplus.training.method import Method
from artplus.training.state import State

LARGE = 0.05
"""Smallest share of the input range that is a large radius: 8/255 is 0.03, MNIST's radius 0.3."""


class EpsWarmup(Callback):
    r"""Raise ε linearly from zero to its full value, step by step.

    .. math:: \epsilon_t = \epsilon \, \min(1, (t + 1) / T)

    Step sizes grow in proportion. Without it, PGD training on MNIST at 0.3 stays at chance, and
    single-step training overfits catastrophically within an epoch.

    Args:
        epochs: Length T of the ramp in epochs, which need not be whole; 0 is none.
        fraction: Length as a fraction of the planned training, instead of ``epochs``.
    """

    def __init__(self, epochs: float | None = None, *, fraction: float | None = None) -> None:
        if (epochs is None) == (fraction is None):
            raise ConfigurationError("give EpsWarmup either epochs or fraction=")
        self.epochs = None if epochs is None else _checks.nonnegative("epochs", epochs)
        self.fraction = None if fraction is None else _checks.nonnegative("fraction", fraction)
        self._full: Method | None = None

    def on_fit_begin(self, state: State) -> None:
        self._full = state.method
        if state.method.attack is not None and self._scale(state) < 1:
            state.method.attack.with_eps(0.5)  # raises before any step if it cannot be scaled

    def on_step_begin(self, state: State) -> None:
        full = self._full
        if full is None or full.attack is None:
            return
        scale = self._scale(state)
        if scale == 1 and state.method.attack is full.attack:
            return  # most of training: the method has the full attack already
        attack = full.attack if scale == 1 else full.attack.with_eps(scale)
        state.method = replace(state.method, attack=attack)

    def on_epoch_end(self, state: State) -> None:
        state.row["eps_scale"] = self._scale(state, done=True)

    def on_fit_end(self, state: State) -> None:
        if self._full is not None:
            state.method = replace(state.method, attack=self._full.attack)

    def _scale(self, state: State, *, done: bool = False) -> float:
        length = (self.epochs or 0.0) / state.epochs if self.fraction is None else self.fraction
        if length == 0:
            return 1.0
        if state.total_steps is None:  # data without a length: the present epoch counts as done
            return min(1.0, (state.epoch + (not done)) / (length * state.epochs))
        return min(1.0, (state.step + (not done)) / (length * state.total_steps))


def default_warmup(method: Method) -> EpsWarmup | None:
    r"""A ramp over the first quarter where ε is large for the input range, else ``None``.

    Large means at least :data:`LARGE` of the range per feature: :math:`\epsilon / (h - l)` for
    L∞. For L2 and L1 the range of a feature is compared too, since one feature may take all of it.
    """
    attack = method.attack
    width = None if method.space is None else method.space.width()
    eps = getattr(attack, "eps", None)
    if attack is None or width is None or eps is None or isinstance(eps, Relative):
        return None
    largest = float(torch.as_tensor(eps).max())
    if not math.isfinite(largest) or largest < LARGE * width:
        return None
    try:
        attack.with_eps(0.5)
    except ConfigurationError:  # a minimum-norm attack, or one with a random radius
        return None
    return EpsWarmup(fraction=0.25)
