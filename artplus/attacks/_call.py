"""The call that all attacks share; a subclass implements only :meth:`BaseAttack.run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from artplus import modes
from artplus.attacks._base import Attack, Inner
from artplus.attacks._problem import Problem, make_problem
from artplus.geometry import padded_like
from artplus.model import LossModel, as_loss_model
from artplus.spaces import InputSpace, Space, attached
from artplus.tree import Tree


@contextmanager
def as_problem(
    attack: Any,
    model: LossModel | nn.Module,
    x: Tree,
    y: Tree,
    *,
    space: Space = InputSpace(),
    inner: Inner | None = None,
    start: Tree | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Problem]:
    """The problem of a call; inside, the model is in evaluation mode and has its hooks."""
    model = as_loss_model(model)
    hooks = attached(model.module, space) if space.hidden else nullcontext()
    with modes.attack_mode(model.module), hooks:
        yield make_problem(
            model,
            x,
            y,
            eps=attack.eps,
            norm=attack.norm,
            space=space,
            targeted=attack.targeted,
            inner=inner,
            start=start,
            generator=generator,
        )


class BaseAttack:
    """Base class of attacks: it implements the call, a subclass implements :meth:`run`.

    A subclass is a frozen dataclass with ``eps`` and ``norm``, and with ``with_eps``.
    """

    @property
    def targeted(self) -> bool:
        """Whether ``y`` holds targets; attacks that can be targeted override it with a field."""
        return False

    def __call__(
        self,
        model: LossModel | nn.Module,
        x: Tree,
        y: Tree,
        *,
        space: Space = InputSpace(),
        inner: Inner | None = None,
        start: Tree | None = None,
        generator: torch.Generator | None = None,
    ) -> Tree:
        """Return adversarial examples; see :class:`artplus.attacks.Attack`."""
        with as_problem(
            self, model, x, y, space=space, inner=inner, start=start, generator=generator
        ) as problem:
            return space.insert(x, self.run(problem))

    def run(self, problem: Problem) -> Tensor:
        """The best ``z`` found, detached, inside the problem's ball and region.

        Args:
            problem: The value to maximise, and the ball.
        """
        raise NotImplementedError


def run_attack(attack: Attack, problem: Problem, start: Tensor | None) -> Tensor:
    """Run any attack, through its call, on a problem's model, inputs, targets and space.

    Args:
        attack: Its own radius and settings apply.
        problem: Model, inputs, targets and space.
        start: First iterate; ``None`` lets the attack choose.

    Returns:
        ``z`` of the adversarial examples, shaped like ``problem.z0``.
    """
    x_adv = attack(
        problem.model,
        problem.inputs,
        problem.targets,
        space=problem.space,
        inner=problem.inner,
        start=None if start is None else problem.insert(start),
        generator=problem.generator,
    )
    return padded_like(problem.space.extract(x_adv), problem.z0)
