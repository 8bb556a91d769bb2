"""Combinations of attacks: in turn, averaged by the training step, or the worst per example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, cast, runtime_checkable

from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Attack, Budget, check_part
from artplus.attacks._best import evaluated
from artplus.attacks._call import BaseAttack, run_attack
from artplus.attacks._problem import Problem
from artplus.attacks.chain import Chain
from artplus.attacks.microbatched import Microbatched
from artplus.errors import ConfigurationError


@runtime_checkable
class Combination(Protocol):
    """Several attacks; a training step asks which of them to run on a batch."""

    def members(self, step: int) -> tuple[Attack, ...]:
        """The attacks whose loss terms are averaged at batch ``step``, counted from 0."""
        ...

    def with_eps(self, scale: float) -> Combination:
        """The same combination with every radius and step length multiplied by ``scale``."""
        ...


def members(attack: Attack | Combination, step: int) -> tuple[Attack, ...]:
    """The attacks to run at batch ``step``: those of a combination, or the single attack."""
    return attack.members(step) if isinstance(attack, Combination) else (attack,)


@dataclass(frozen=True)
class _Several:
    """Base class of combinations.

    Attributes:
        attacks: The combined attacks, at least one.
    """

    attacks: Sequence[Attack]

    def __post_init__(self) -> None:
        if isinstance(self.attacks, Attack):
            raise ConfigurationError(
                f"{type(self).__name__} takes a list: {type(self).__name__}([attack, ...])"
            )
        several = _checks.several("attacks", self.attacks, "attacks")
        object.__setattr__(self, "attacks", several)
        if not self.attacks:
            raise ConfigurationError(f"{type(self).__name__} needs at least one attack")
        for attack in self.attacks:
            check_part(self, attack)

    @property
    def eps(self) -> Budget:
        """Radius of the first attack; the others may differ."""
        return self.attacks[0].eps

    @property
    def norm(self) -> float:
        """Norm of the first attack; the others may differ."""
        return self.attacks[0].norm


S = TypeVar("S", bound=_Several)


def _scaled(combination: S, scale: float) -> S:
    return replace(
        combination, attacks=tuple(attack.with_eps(scale) for attack in combination.attacks)
    )


def each(attack: Attack | Combination, change: Callable[[Attack], Attack]) -> Attack | Combination:
    """The same attack or combination with ``change`` applied to every single attack in it.

    Example:
        >>> from dataclasses import replace
        >>> from artplus.attacks import PGD, Cycle
        >>> both = Cycle([PGD(eps=0.1), PGD(eps=1.0, norm=2)])
        >>> [one.steps for one in each(both, lambda one: replace(one, steps=3)).attacks]
        [3, 3]
    """
    if isinstance(attack, _Several):
        return replace(attack, attacks=tuple(_each(one, change) for one in attack.attacks))
    return _each(cast(Attack, attack), change)


def _each(attack: Attack, change: Callable[[Attack], Attack]) -> Attack:
    if isinstance(attack, WorstOf):
        return replace(attack, attacks=tuple(_each(one, change) for one in attack.attacks))
    if isinstance(attack, Microbatched):
        return replace(attack, attack=_each(attack.attack, change))
    if isinstance(attack, Chain):
        return replace(attack, first=_each(attack.first, change), then=_each(attack.then, change))
    return change(attack)


@dataclass(frozen=True)
class Cycle(_Several):
    """One attack per batch, in turn, as ART does with a list of attacks.

    The training loop counts the batches, so a resumed run continues with the right attack.

    Example:
        >>> from artplus.attacks import PGD, Cycle, fgm
        >>> both = Cycle([fgm(0.1), PGD(eps=0.1, steps=7)])
        >>> [both.members(step)[0].steps for step in range(3)]
        [1, 7, 1]
    """

    def members(self, step: int) -> tuple[Attack, ...]:
        """The one attack whose turn it is."""
        return (self.attacks[step % len(self.attacks)],)

    def with_eps(self, scale: float) -> Cycle:
        """The same cycle with every radius and step length multiplied by ``scale``."""
        return _scaled(self, scale)


@dataclass(frozen=True)
class Average(_Several):
    """Every attack on every batch; the training step averages their terms (Tramèr and Boneh, 2019).

    Example:
        >>> from artplus.attacks import Average, PGD
        >>> len(Average([PGD(eps=0.1), PGD(eps=1.0, norm=2)]).members(0))
        2
    """

    def members(self, step: int) -> tuple[Attack, ...]:
        """All attacks."""
        return tuple(self.attacks)

    def with_eps(self, scale: float) -> Average:
        """The same attacks with every radius and step length multiplied by ``scale``."""
        return _scaled(self, scale)


@dataclass(frozen=True)
class WorstOf(_Several, BaseAttack):
    """Per example the worst result of all attacks (the "max" of Tramèr and Boneh, 2019).

    A misclassified example beats any that is not; among equals the larger inner loss wins. The
    attacks may have different norms; ``eps`` and ``norm`` are those of the first.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD, WorstOf
        >>> from artplus.model import LossModel
        >>> model = LossModel(torch.nn.Linear(4, 3))
        >>> x, y = torch.rand(2, 4), torch.tensor([0, 2])
        >>> WorstOf([PGD(eps=0.1), PGD(eps=0.3, norm=2)])(model, x, y).shape
        torch.Size([2, 4])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for attack in self.attacks:
            if getattr(attack, "targeted", False):
                raise ConfigurationError(
                    "WorstOf compares attacks by the loss of the true label, but "
                    f"{type(attack).__name__} is targeted; leave targeted=False"
                )

    @property
    def climbs_own(self) -> bool:
        """Whether one of the attacks has a loss of its own, so that this accepts no inner loss."""
        return any(getattr(attack, "climbs_own", False) for attack in self.attacks)

    def run(self, problem: Problem) -> Tensor:
        """The worst result of each example."""
        results = (evaluated(problem, run_attack(a, problem, problem.start)) for a in self.attacks)
        best = next(results)
        for result in results:
            best = best.better(result)
        return best.z

    def members(self, step: int) -> tuple[Attack, ...]:
        """This attack itself, as one."""
        return (self,)

    def with_eps(self, scale: float) -> WorstOf:
        """The same attacks with every radius and step length multiplied by ``scale``."""
        return _scaled(self, scale)
