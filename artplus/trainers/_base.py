"""Named methods: an objective, its attack, a step and callbacks, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from artplus.attacks import Attack
from artplus.losses import Objective
from artplus.registry import Registry
from artplus.spaces import Space
from artplus.training.callbacks import Callback
from artplus.training.steps import Step, standard


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a registered trainer is made of.

    Attributes:
        objective: What to minimise.
        attack: Makes the adversarial examples; ``None`` for an objective that needs none.
        step: How the weights move on a batch.
        callbacks: Callbacks of the run.
        space: What the method perturbs; ``None`` is inputs.

    Example:
        >>> import torch, artplus
        >>> from artplus.trainers import make_recipe
        >>> recipe = make_recipe("trades", eps=0.1, steps=2)
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> data = torch.rand(64, 4), torch.randint(3, (64,))
        >>> history = artplus.fit(
        ...     model, data, optimizer, **recipe.options(), epochs=1, progress=False)
    """

    objective: Objective
    attack: Attack | None = None
    step: Step = standard
    callbacks: tuple[Callback, ...] = ()
    space: Space | None = None

    def options(self) -> dict[str, Any]:
        """The recipe as options of :func:`artplus.fit`."""
        options: dict[str, Any] = {
            "loss": self.objective,
            "step": self.step,
            "callbacks": self.callbacks,
        }
        if self.attack is not None:
            options["attack"] = self.attack
        if self.space is not None:
            options["space"] = self.space
        return options


trainers: Registry[Recipe] = Registry("trainer", "artplus.trainers")


def register_trainer(name: str) -> Callable[[Callable[..., Recipe]], Callable[..., Recipe]]:
    """Register a factory ``(*, eps, norm, ...) -> Recipe`` under ``name``.

    The name then works in ``make_trainer(name, classifier, ...)``, which passes the keywords that
    the factory has to it, and appears in :func:`list_trainers`.

    Raises:
        ConfigurationError: if the name is taken.

    Example:
        >>> from artplus.attacks import PGD
        >>> from artplus.losses import mix
        >>> from artplus.trainers import Recipe, register_trainer
        >>> @register_trainer("doctest_two_steps")
        ... def two_steps(*, eps: float) -> Recipe:
        ...     return Recipe(objective=mix(), attack=PGD(eps=eps, steps=2))
    """
    return trainers.register(name)


def make_recipe(name: str, **options: Any) -> Recipe:
    """The recipe registered under ``name``, for :func:`artplus.fit`.

    Raises:
        UnknownNameError: if no trainer has this name.
        ConfigurationError: for an argument that the recipe does not know.
    """
    return trainers.make(name, **options)


def list_trainers() -> list[str]:
    """Names of all registered trainers, including entry points of other packages."""
    return trainers.names()
