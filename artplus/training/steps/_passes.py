"""What steps share that ascend a perturbation of their own, by the gradient of their weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from artplus import modes
from artplus.attacks import PGD
from artplus.attacks._problem import Problem
from artplus.errors import ConfigurationError
from artplus.geometry import column
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Crafted, StepOutput, descend

Ascend = Callable[[Tensor, Tensor], Tensor]
"""``(z, gradient) -> z``: the next point, from a gradient that is finite and zero where masked."""


def ball(state: State, batch: Batch, step: str) -> Problem:
    """The problem of the method's attack on a batch, for its ball and region.

    Args:
        state: State of the run.
        batch: The batch.
        step: Name of the step, for messages.

    Raises:
        ConfigurationError: for an attack other than PGD, or an option that has no meaning where the
            step carries its own perturbation.
    """
    attack = state.method.attack
    if not isinstance(attack, PGD):
        raise ConfigurationError(
            f"{step} needs a radius and no attack of its own: give eps= and norm=, got {attack!r}"
        )
    for name, is_used in (
        ("WarmStart", state.starts is not None),
        ("attack_share", state.method.attack_share < 1),
    ):
        if is_used:
            raise ConfigurationError(
                f"{step} carries its own perturbation and climbs it on every example, so {name} "
                "has no meaning here; leave it out, or use the ordinary step"
            )
    with state.engine.attacking(), modes.attack_mode(state.model.module):
        problem = state.method.problem(state.engine.attacked, batch.x, batch.y, attack)
    return replace(problem, generator=state.generator)


def gradient_of(z: Tensor, state: State, step: str) -> Tensor:
    """The gradient that a backward pass left at ``z``; zero for examples whose own is not finite.

    Raises:
        ConfigurationError: if the objective does not depend on ``z``.
    """
    if z.grad is None:
        raise ConfigurationError(
            f"loss {state.method.objective.name!r} does not depend on adversarial examples, so "
            f"there is nothing for {step} to climb; use the ordinary step"
        )
    finite = z.grad.flatten(1).isfinite().all(1)
    return torch.where(column(finite, z), z.grad, 0.0)


def averaged(
    state: State, batch: Batch, problem: Problem, z: Tensor, passes: int, ascend: Ascend, step: str
) -> StepOutput:
    r"""Fill ``.grad`` with :math:`\frac{1}{K} \sum_k \nabla_w L(z_k)`, along an ascent of z.

    Each backward pass gives the gradient of the weights and that of ``z``. All passes draw the same
    dropout masks; BatchNorm's running statistics follow the first; processes exchange gradients in
    the last.

    Args:
        state: State of the run.
        batch: The batch.
        problem: Turns ``z`` into inputs.
        z: The first point.
        passes: K.
        ascend: Gives the next point.
        step: Name of the step, for messages.

    Raises:
        ConfigurationError: inside a step that clears gradients between passes.
    """
    if state.descend is not None:
        raise ConfigurationError(
            f"{step} accumulates the gradient of several passes, which the step around it (AWP) "
            f"would clear; use {step} by itself, or AWP with the ordinary step"
        )
    state.optimizer.zero_grad(set_to_none=True)
    masks, losses = state.streams.get(), []
    with ExitStack() as stack:
        for k in range(passes):
            last = k == passes - 1
            state.streams.set(masks)
            z = z.detach().requires_grad_(not last)
            crafted = Crafted((problem.insert(z),), share=1 / passes, last=last)
            output = descend(state, batch, crafted)
            losses.append(output.loss)
            if k == 0:
                stack.enter_context(modes.frozen_batchnorm_stats(state.model.module))
            if not last:
                with torch.no_grad():
                    z = ascend(z.detach(), problem.region.restrict(gradient_of(z, state, step)))
    return replace(
        output, loss=torch.stack(losses).mean(0), attacked=passes * crafted.count(len(batch))
    )
