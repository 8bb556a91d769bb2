"""The call that all attacks of artplus share; each writes only how it solves its problem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
def posed(
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
    """The problem of a call, while the model is in evaluation mode and its hooks are set."""
    model = as_loss_model(model)
    with ExitStack() as stack:
        stack.enter_context(modes.attack_mode(model.module))
        if space.hidden:
            stack.enter_context(attached(model.module, space))
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
    """Base class of attacks: it owns the call, a subclass writes :meth:`run`.

    A subclass is a frozen dataclass with ``eps`` and ``norm``, and with ``with_eps``.
    """

    @property
    def targeted(self) -> bool:
        """Whether ``y`` holds targets; a field of those that can be."""
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
        """Craft; see :class:`artplus.attacks.Attack`."""
        with posed(
            self, model, x, y, space=space, inner=inner, start=start, generator=generator
        ) as problem:
            return space.insert(x, self.run(problem))

    def run(self, problem: Problem) -> Tensor:
        """The best ``z`` found, detached, inside the problem's ball and region.

        Args:
            problem: What to maximise, and where.
        """
        raise NotImplementedError


def solved(attack: Attack, problem: Problem, start: Tensor | None) -> Tensor:
    """What another attack makes of a problem, by its call: it may be anybody's.

    Args:
        attack: Has a radius and settings of its own.
        problem: Model, inputs, targets and space.
        start: First iterate, instead of the attack's own.
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
