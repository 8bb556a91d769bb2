"""Adjust λ during training so that clean accuracy stays above a floor."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.training.callbacks._base import Callback
from artplus.training.state import State

ACCURACIES = ("val_clean_accuracy", "clean_accuracy")
"""Clean accuracies, on held-out data and in training; the first that is measured is used."""


class CleanFloor(Callback):
    r"""Raise λ while clean accuracy is above ``floor``, lower it while it is below.

    .. math:: \lambda_{t+1} = \lambda_t \, \exp\bigl( g \, (a_t - a_\text{floor}) \bigr)

    after every epoch t with clean accuracy :math:`a_t`, within ``[least, greatest]``: an integral
    controller of :math:`\ln \lambda`. With :math:`g = 10`, one percentage point too much or too
    little changes λ by a tenth. If the floor cannot be reached, λ ends at ``least`` and a note in
    the history says so.

    The rule is ours, after constrained learning [Chamon20]_, where λ is a dual variable.

    Args:
        floor: Clean accuracy to hold, in (0, 1).
        gain: g, > 0.
        least: Smallest λ, > 0.
        greatest: Largest λ.

    Raises:
        ConfigurationError: for values that cannot work; when training begins, if λ is zero or a
            schedule, or if λ multiplies every term of the loss and so cannot shift weight between
            them.

    Example:
        >>> import torch, artplus
        >>> from artplus.training.callbacks import CleanFloor
        >>> model = torch.nn.Linear(4, 3)
        >>> data = torch.rand(16, 4), torch.randint(3, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = artplus.fit(model, data, optimizer, loss="trades", eps=0.04, epochs=3,
        ...                       callbacks=[CleanFloor(0.9)], progress=False)
        >>> history["lam"][0], history["lam"][2] < 6.0
        (6.0, True)

    References:
        .. [Chamon20] Chamon and Ribeiro, "Probably approximately correct constrained learning",
           NeurIPS 2020, https://arxiv.org/abs/2006.05487
    """

    def __init__(
        self, floor: float, *, gain: float = 10.0, least: float = 0.01, greatest: float = 100.0
    ) -> None:
        self.floor = _checks.fraction("floor", floor)
        self.gain = _checks.positive("gain", gain)
        self.least = _checks.positive("least", least)
        self.greatest = _checks.positive("greatest", greatest)
        if self.least > self.greatest:
            raise ConfigurationError(f"least={least:g} is above greatest={greatest:g}")
        self._lam: float | None = None
        self._accuracy = 1.0

    def on_fit_begin(self, state: State) -> None:
        objective = state.method.objective
        if callable(objective.lam) or objective.lam == 0:
            raise ConfigurationError(
                f"CleanFloor adjusts λ, which must begin as a number above 0, got {objective.lam!r}"
            )
        if not objective.has_fixed_term:
            raise ConfigurationError(
                f"loss {objective.name!r} has no clean term, so λ only scales it; use 'mix' or "
                "'trades'"
            )
        self._lam, self._accuracy = float(objective.lam), 1.0
        self._objective = objective

    def on_epoch_end(self, state: State) -> None:
        accuracy = next((state.row[name] for name in ACCURACIES if name in state.row), None)
        if accuracy is None or self._lam is None:
            raise ConfigurationError(
                "CleanFloor needs a clean accuracy, but this objective measures none and there is "
                "no validation data; pass validation data"
            )
        self._accuracy = accuracy
        lam = self._lam * math.exp(self.gain * (accuracy - self.floor))
        self._lam = min(max(lam, self.least), self.greatest)
        self._steer(state)

    def on_fit_end(self, state: State) -> None:
        if self._lam is None:
            return
        if self._lam <= self.least and self._accuracy < self.floor:
            state.history.notes.append(
                f"clean accuracy {self._accuracy:.1%} stayed below the floor {self.floor:.1%} even "
                f"at λ = {self._lam:g}: the model or the training cannot reach it"
            )
        state.method = replace(state.method, objective=self._objective)
        self._lam = None

    def state_dict(self) -> dict[str, Any]:
        return {"lam": self._lam, "accuracy": self._accuracy}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._lam, self._accuracy = saved["lam"], saved["accuracy"]

    def on_epoch_begin(self, state: State) -> None:
        self._steer(state)
        state.row["lam"] = state.method.objective.weight(state.progress)

    def on_step_begin(self, state: State) -> None:
        if state.method.objective.lam != self._lam:  # resumed in the middle of an epoch
            self._steer(state)

    def _steer(self, state: State) -> None:
        objective = state.method.objective.with_lam(self._lam)
        state.method = replace(state.method, objective=objective)
