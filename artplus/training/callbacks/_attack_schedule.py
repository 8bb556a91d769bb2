"""A setting of the attack that changes while training goes on."""

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
    """Sets one whole-numbered setting of every attack before each step.

    The value follows from the attack's own one and from where training stands, so a resumed run
    goes on with it. It stands beside an ``EpsWarmup``, whichever comes first in the list. After
    training the method has its attack back.
    """

    setting: ClassVar[str]
    """Name of the attack's setting, and of the history's column with the largest value in force."""

    def __init__(self) -> None:
        self._own: list[int] = []

    @abstractmethod
    def value(self, own: int, state: State) -> int:
        """What the setting is at this step.

        Args:
            own: The attack's own value.
            state: Where training stands.
        """

    def on_fit_begin(self, state: State) -> None:
        self._own = []
        found = [self._checked(attack) for attack in self._attacks(state)]
        self._own = found
        if not found:
            raise ConfigurationError(
                f"{type(self).__name__} has no attack whose {self.setting} it could change; "
                "leave it out"
            )

    def on_step_begin(self, state: State) -> None:
        own = iter(self._own)
        self._each(state, lambda attack: self._with(attack, self.value(next(own), state)))

    def on_epoch_end(self, state: State) -> None:
        present = [getattr(attack, self.setting) for attack in self._attacks(state)]
        state.row[f"attack_{self.setting}"] = max(present)

    def on_fit_end(self, state: State) -> None:
        own = iter(self._own)
        if self._own:
            self._each(state, lambda attack: self._with(attack, next(own)))
        self._own = []

    def check(self, own: int) -> None:
        """Raise a ``ConfigurationError`` for an own value that the schedule cannot begin from."""

    def _checked(self, attack: Attack) -> int:
        own = getattr(attack, self.setting, None)
        if not isinstance(own, int) or not hasattr(attack, "__dataclass_fields__"):
            raise ConfigurationError(
                f"{type(self).__name__} changes the {self.setting} of an attack such as "
                f"PGD(..., {self.setting}=...), but {attack!r} has none"
            )
        self.check(own)
        return own

    def _attacks(self, state: State) -> list[Attack]:
        found: list[Attack] = []

        def note(attack: Attack) -> Attack:
            found.append(attack)
            return attack

        self._each(state, note)
        return found

    def _with(self, attack: Any, value: int) -> Attack:
        changed: Attack = replace(attack, **{self.setting: value})
        return changed

    @staticmethod
    def _each(state: State, change: Callable[[Attack], Attack]) -> None:
        if state.method.attack is not None:
            state.method = replace(state.method, attack=each(state.method.attack, change))
