"""All that an attack sees: where to begin, the ball, what is climbed, and what is right."""

from __future__ import annotations

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
from artplus.tree import Tree
from artplus.tree import take as take_rows


class PredictionLoss(Protocol):
    """A loss of predictions that an attack climbs instead of the model's own."""

    def __call__(self, predictions: Any, targets: Any, /) -> Tensor:
        """The loss of each example, ``(batch,)``."""
        ...

    def take(self, rows: Tensor) -> PredictionLoss:
        """That of the examples ``rows``."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise a value over a ball, for each example of a batch by itself.

    ``z`` is one float tensor ``(batch, ...)``, whatever the inputs are.

    Attributes:
        model: What is attacked, in evaluation mode.
        inputs: Clean inputs, a tree.
        targets: True labels, or the targets of a targeted attack.
        space: Turns ``z`` into inputs.
        z0: ``z`` of the clean inputs.
        ball: Norm, over an example or each token.
        eps: Radius.
        region: Bounds and mask of ``z``.
        targeted: Whether ``targets`` are to be reached; values are then negated losses.
        inner: What is climbed; ``None`` is the model's own loss, or ``loss``.
        loss: A loss of the predictions to climb instead of the model's own.
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
        """Whether predictions are logits with one label an example."""
        return self.model.task.over_classes

    def insert(self, z: Tensor) -> Tree:
        """The inputs that ``z`` stands for."""
        return self.space.insert(self.inputs, z)

    def predict(self, z: Tensor, rows: Tensor | None = None) -> Tree:
        """Predictions at ``z``, which may hold the examples ``rows`` alone; one forward pass."""
        inputs = self.inputs
        # A tensor of inputs is replaced by z as a whole, so its rows need not be copied.
        if rows is not None and (self.space.hidden or not isinstance(inputs, Tensor)):
            inputs = take_rows(inputs, rows)
        return self.model(self.space.insert(inputs, z))

    @cached_property
    def climb(self) -> Climb:
        """What is climbed, as a function of inputs; computed once a batch."""
        if self.loss is None:
            return (self.inner or own_loss)(self.model, self.inputs, self.targets)
        loss, model, targets = self.loss, self.model, self.targets
        return lambda x_adv: loss(model(x_adv), targets)

    def value(self, z: Tensor) -> Tensor:
        """What the attack makes large, ``(batch,)``."""
        values = self.climb(self.space.insert(self.inputs, z))
        return -values if self.targeted else values

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value and its gradient by ``z`` alone; one forward and one backward pass."""
        values, slope = gradient(lambda at: self.climb(self.space.insert(self.inputs, at)), z)
        return (-values, -slope) if self.targeted else (values, slope)

    def fooled(self, predictions: Tree) -> Tensor:
        """Which examples reach the attack's aim, ``(batch,)`` booleans.

        All false where the task calls nothing right or wrong.
        """
        right = self.model.task.correct(predictions, self.targets)
        if right is None:
            return torch.zeros(len(self.z0), dtype=torch.bool, device=self.z0.device)
        return right if self.targeted else ~right

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value, and who is fooled, from one forward pass.

        An inner loss gives no predictions, so with one nobody counts as fooled: the largest value
        wins, which is what training asks for.
        """
        if self.inner is not None:
            values = self.value(z)
            return values, torch.zeros_like(values, dtype=torch.bool)
        predictions = self.predict(z)
        loss = self.model.task.loss if self.loss is None else self.loss
        values = loss(predictions, self.targets)
        fooled = self.fooled(detached(predictions))
        return (-values if self.targeted else values), fooled

    def look(self, z: Tensor, draws: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """The value, who is fooled, and the gradient, see :func:`artplus.attacks._base.look`."""
        return look(self.judge, z, draws)

    def retraction(self, scale: float = 1.0) -> Retraction:
        """Back into the ball, of ``scale`` times the radius, and the region."""
        eps = self.eps if scale == 1.0 else scale * self.eps
        return self.ball.retraction(self.z0, eps, self.region)

    def random_point(self) -> Tensor:
        """A point of the ball, uniformly drawn, inside the region."""
        noise = self.ball.random(self.z0, self.eps, self.generator)
        return clip(self.z0 + self.region.restrict(noise), self.region)

    def resolve(self, budget: Budget) -> Eps:
        """A length in the units of the radius, such as a step size, beside ``z``."""
        return resolve(scaled(budget, self._unit), self.z0, self.ball)

    @cached_property
    def _unit(self) -> float:
        return self.space.unit(self.model)

    def take(self, rows: Tensor) -> Problem:
        """The problem of the examples ``rows``: model, inputs, targets, radius and mask follow."""
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
        """The same problem with another loss of the predictions to climb."""
        return replace(self, loss=loss, inner=None)

    def require_classes(self, who: str) -> None:
        """Refuse a model without class logits.

        Raises:
            ConfigurationError: naming the attack.
        """
        if not self.over_classes:
            raise ConfigurationError(
                f"{who} needs class logits, one label an example, but this model's task is "
                f"{self.model.task.name or type(self.model.task).__name__!r}: its loss has no "
                "classes. Use PGD, which climbs any loss."
            )

    def require_whole_examples(self, who: str) -> None:
        """Refuse a radius for each token where an attack measures whole examples.

        Raises:
            ConfigurationError: naming the attack.
        """
        if self.space.per != "example":
            raise ConfigurationError(
                f"{who} measures the perturbation of a whole example; in a space per token use PGD "
                "or APGD"
            )


def detached(tree: Tree) -> Tree:
    """Predictions cut off from their graph."""
    return tree.detach() if isinstance(tree, Tensor) else tree


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
    if space.hidden and isinstance(eps, Relative):
        raise ConfigurationError(
            "Relative(c) is a share of the input's own norm, and a hidden perturbation starts at "
            "zero, so the radius would be zero. Use relative=True of the space: a multiple of the "
            "mean row norm."
        )
    z0, ball = space.lift(model, x), space.geometry(norm)
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
