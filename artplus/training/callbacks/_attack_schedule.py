"""A setting of the attack that changes during training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from artplus.attacks import Attack
from artplus.attacks.combine import each
from artplus.errors import ConfigurationError
from artplus.training.callbacks._base import Callback
from artplus.training.state import State


class AttackSchedule(Callback):
    """Sets an integer setting of every attack before each step.

    The value depends only on the attack's initial value and the progress of training, so a resumed
    run continues with it. It works together with ``EpsWarmup``, in either order. After training the
    method has its initial attack again.
    """

    setting: ClassVar[str]
    """Name of the attack's setting; the history has its largest value as ``attack_<setting>``."""

    def __init__(self) -> None:
        self._initial: list[int] = []

    @abstractmethod
    def value(self, initial: int, state: State) -> int:
        """The value at this step.

        Args:
            initial: The attack's initial value.
            state: State of the run.
        """

    def on_fit_begin(self, state: State) -> None:
        self._initial = []  # stays so if a check fails
        self._initial = [self._checked(attack) for attack in self._attacks(state)]
        if not self._initial:
            raise ConfigurationError(
                f"{type(self).__name__} has no attack whose {self.setting} it could change; "
                "leave it out"
            )

    def on_step_begin(self, state: State) -> None:
        initial = iter(self._initial)
        self._change(state, lambda attack: self._with(attack, self.value(next(initial), state)))

    def on_epoch_end(self, state: State) -> None:
        values = [getattr(attack, self.setting) for attack in self._attacks(state)]
        state.row[f"attack_{self.setting}"] = max(values)

    def on_fit_end(self, state: State) -> None:
        initial = iter(self._initial)
        if self._initial:
            self._change(state, lambda attack: self._with(attack, next(initial)))
        self._initial = []

    def check(self, initial: int) -> None:
        """Raise a ``ConfigurationError`` for an initial value that the schedule cannot use."""

    def _checked(self, attack: Attack) -> int:
        initial = getattr(attack, self.setting, None)
        if not isinstance(initial, int) or not hasattr(attack, "__dataclass_fields__"):
            raise ConfigurationError(
                f"{type(self).__name__} changes the {self.setting} of an attack such as "
                f"PGD(..., {self.setting}=...), but {attack!r} has none"
            )
        self.check(initial)
        return initial

    def _attacks(self, state: State) -> list[Attack]:
        attacks: list[Attack] = []

        def collect(attack: Attack) -> Attack:
            attacks.append(attack)
            return attack

        self._change(state, collect)
        return attacks

    def _with(self, attack: Any, value: int) -> Attack:
        changed: Attack = replace(attack, **{self.setting: value})
        return changed

    @staticmethod
    def _change(state: State, change: Callable[[Attack], Attack]) -> None:
        if state.method.attack is not None:
            state.method = replace(state.method, attack=each(state.method.attack, change))
