"""All that an attack sees: the clean point, the ball, the value to maximise, and success."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from artplus.attacks._base import (
    Budget,
    Climb,
    Inner,
    Relative,
    gradient,
    look,
    own_loss,
    resolve,
    scaled,
    take,
)
from artplus.errors import ConfigurationError
from artplus.geometry import Eps, Geometry, Retraction, clip
from artplus.model import LossModel
from artplus.spaces import Region, Space
from artplus.tree import Tree, detach
from artplus.tree import take as take_rows


class PredictionLoss(Protocol):
    """A loss of predictions that an attack maximises instead of the model's own."""

    def __call__(self, predictions: Any, targets: Any, /) -> Tensor:
        """The loss of each example, ``(batch,)``."""
        ...

    def take(self, rows: Tensor) -> PredictionLoss:
        """The loss of the examples ``rows``."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise a value over a ball, independently for each example of a batch.

    ``z`` is one float tensor ``(batch, ...)``, whatever the inputs are.

    Attributes:
        model: The attacked model, in evaluation mode.
        inputs: Clean inputs, a tree.
        targets: True labels, or the targets of a targeted attack.
        space: Turns ``z`` into inputs.
        z0: ``z`` of the clean inputs.
        ball: Geometry of the norm, per example or per token.
        eps: Radius.
        region: Bounds and mask of ``z``.
        targeted: Whether to reach ``targets``; values are then negated losses.
        inner: The loss to maximise; ``None`` is ``loss``, or else the model's own.
        loss: A loss of the predictions to maximise instead of the model's own.
        start: First iterate, if one was given.
        generator: Source of randomness; ``None`` is torch's global one.
    """

    model: LossModel
    inputs: Tree
    targets: Tree
    space: Space
    z0: Tensor
    ball: Geometry
    eps: Eps
    region: Region
    targeted: bool = False
    inner: Inner | None = None
    loss: PredictionLoss | None = None
    start: Tensor | None = None
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return len(self.z0)

    @property
    def over_classes(self) -> bool:
        """Whether predictions are logits with one label per example."""
        return self.model.task.over_classes

    def insert(self, z: Tensor) -> Tree:
        """The inputs with ``z`` in place of the clean values."""
        return self.space.insert(self.inputs, z)

    def predict(self, z: Tensor, rows: Tensor | None = None) -> Tree:
        """Predictions at ``z`` (which may hold only the examples ``rows``); one forward pass."""
        inputs = self.inputs
        # z replaces a tensor of inputs entirely, so its rows need not be copied.
        if rows is not None and (self.space.hidden or not isinstance(inputs, Tensor)):
            inputs = take_rows(inputs, rows)
        return self.model(self.space.insert(inputs, z))

    @cached_property
    def climb(self) -> Climb:
        """The loss as a function of the inputs; built once per batch."""
        if self.loss is None:
            return (self.inner or own_loss)(self.model, self.inputs, self.targets)
        loss, model, targets = self.loss, self.model, self.targets
        return lambda x_adv: loss(model(x_adv), targets)

    @cached_property
    def _loss_at(self) -> Callable[[Tensor], Tensor]:
        """The loss as a function of ``z``."""
        climb, insert, inputs = self.climb, self.space.insert, self.inputs
        return lambda z: climb(insert(inputs, z))

    def value(self, z: Tensor) -> Tensor:
        """The value to maximise, ``(batch,)``."""
        values = self._loss_at(z)
        return -values if self.targeted else values

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value and its gradient by ``z`` alone; one forward and one backward pass."""
        values, slope = gradient(self._loss_at, z)
        return (-values, -slope) if self.targeted else (values, slope)

    def fooled(self, predictions: Tree) -> Tensor:
        """On which examples the attack succeeds, ``(batch,)`` booleans.

        All false for a task without right and wrong.
        """
        right = self.model.task.correct(predictions, self.targets)
        if right is None:
            return torch.zeros(len(self.z0), dtype=torch.bool, device=self.z0.device)
        return right if self.targeted else ~right

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value, and which examples are fooled, from one forward pass.

        An inner loss returns no predictions, so with one no example counts as fooled: the point of
        largest value is the best, which is what training needs.
        """
        if self.inner is not None:
            values = self.value(z)
            return values, torch.zeros_like(values, dtype=torch.bool)
        predictions = self.predict(z)
        loss = self.model.task.loss if self.loss is None else self.loss
        values = loss(predictions, self.targets)
        fooled = self.fooled(detach(predictions))
        return (-values if self.targeted else values), fooled

    def look(self, z: Tensor, draws: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """The value, the fooled examples, and the gradient; averaged over ``draws`` passes."""
        return look(self.judge, z, draws)

    def retraction(self, scale: float = 1.0) -> Retraction:
        """A function that brings points into the ball of ``scale * eps`` and the region."""
        eps = self.eps if scale == 1.0 else scale * self.eps
        return self.ball.retraction(self.z0, eps, self.region)

    def random_point(self) -> Tensor:
        """A uniformly random point of the ball, clipped to the region."""
        noise = self.ball.random(self.z0, self.eps, self.generator)
        return clip(self.z0 + self.region.restrict(noise), self.region)

    def resolve(self, budget: Budget) -> Eps:
        """A length in the units of the radius, such as a step size, in the units of ``z``."""
        return resolve(scaled(budget, self._unit), self.z0, self.ball)

    @cached_property
    def _unit(self) -> float:
        return self.space.unit(self.model)

    def take(self, rows: Tensor) -> Problem:
        """The problem of the examples ``rows`` alone."""
        return replace(
            self,
            inputs=take_rows(self.inputs, rows),
            targets=take_rows(self.targets, rows),
            space=self.space.take(rows, self.inputs),
            z0=self.z0[rows],
            eps=take(self.eps, rows, self.z0),
            region=self.region.rows(rows, self.z0),
            loss=None if self.loss is None else self.loss.take(rows),
            start=None if self.start is None else self.start[rows],
        )

    def climbing(self, loss: PredictionLoss) -> Problem:
        """The same problem with ``loss`` as the value to maximise."""
        return replace(self, loss=loss, inner=None)

    def require_classes(self, attack: str) -> None:
        """Refuse a model without class logits.

        Raises:
            ConfigurationError: naming the attack.
        """
        if not self.over_classes:
            raise ConfigurationError(
                f"{attack} needs class logits, one label per example, but this model's task is "
                f"{self.model.task.name or type(self.model.task).__name__!r}: its loss has no "
                "classes. Use PGD, which climbs any loss."
            )

    def require_whole_examples(self, attack: str) -> None:
        """Refuse a radius per token, for attacks that measure whole examples.

        Raises:
            ConfigurationError: naming the attack.
        """
        if self.space.per != "example":
            raise ConfigurationError(
                f"{attack} measures the perturbation of a whole example; in a space per token use "
                "PGD or APGD"
            )


def ball_of(space: Space, eps: Budget, norm: float) -> Geometry:
    """The geometry of an attack's norm in a space.

    Raises:
        ConfigurationError: for a norm that the space has not, or a relative radius in a space whose
            clean point is zero.
    """
    if space.hidden and isinstance(eps, Relative):
        raise ConfigurationError(
            "Relative(c) is a share of the norm of the input, and a hidden perturbation starts at "
            "zero, so the radius would be zero. Use relative=True of the space: a multiple of the "
            "mean row norm."
        )
    return space.geometry(norm)


def make_problem(
    model: LossModel,
    x: Tree,
    y: Tree,
    *,
    eps: Budget,
    norm: float,
    space: Space,
    targeted: bool = False,
    inner: Inner | None = None,
    start: Tree | None = None,
    generator: torch.Generator | None = None,
) -> Problem:
    """The problem of an attack's call.

    Raises:
        ConfigurationError: for a radius that does not fit the inputs, or a relative one in a space
            whose clean point is zero.
    """
    ball = ball_of(space, eps, norm)
    z0 = space.lift(model, x)
    space, unit = space.on(z0), space.unit(model)
    return Problem(
        model=model,
        inputs=x,
        targets=y,
        space=space,
        z0=z0,
        ball=ball,
        eps=resolve(eps if unit == 1.0 else scaled(eps, unit), z0, ball),
        region=space.region(x, z0),
        targeted=targeted,
        inner=inner,
        start=None if start is None else space.extract(start).detach(),
        generator=generator,
    )
