"""PGD with ``patience``: an example stops once it has been misclassified for some steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from artplus.attacks._base import Judge, column, look, own_loss, take
from artplus.attacks._problem import Problem
from artplus.attacks._remaining import Remaining
from artplus.errors import ConfigurationError
from artplus.geometry import Eps
from artplus.tree import Tree, detach

WORTH = 0.125
"""Share of a batch that must be done before the batch is made smaller. Doing so recomputes what
depends on ``x`` alone, such as TRADES' clean prediction."""


@dataclass(frozen=True)
class _State:
    """The state of a run; every tensor has one row per example.

    Attributes:
        z: Current iterate.
        steps_left: Steps that it still takes while misclassified.
        done: Whether it has stopped.
        momentum: Accumulated gradient; ``None`` without momentum.
    """

    z: Tensor
    steps_left: Tensor
    done: Tensor
    momentum: Tensor | None = None

    def take(self, rows: Tensor) -> _State:
        momentum = None if self.momentum is None else self.momentum[rows]
        return _State(self.z[rows], self.steps_left[rows], self.done[rows], momentum)

    def replaced(self, other: _State, rows: Tensor) -> _State:
        return replace(self, z=self.z.index_copy(0, rows, other.z))


def ascend(
    problem: Problem,
    step_size: Eps,
    z: Tensor,
    *,
    direction: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]],
    steps: int,
    patience: int,
) -> Tensor:
    """Steepest ascent until misclassified ``patience + 1`` times, for at most ``steps`` steps.

    A mask on the device says which examples are done, so the result does not depend on when the
    batch is made smaller: on a CPU whenever it pays, elsewhere at the steps that synchronise.

    Args:
        problem: The value to maximise, and the ball.
        step_size: Length of a step.
        z: First iterate.
        direction: ``(gradient, momentum) -> (unit step, momentum)``.
        steps: Largest number of steps.
        patience: Steps that an example still takes while misclassified.
    """
    done = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    state = _State(z, torch.full_like(done, patience, dtype=torch.long), done)
    remaining: Remaining[_State] = Remaining(problem)
    judge, retract, length = _judge(problem), problem.retraction(), step_size
    for k in range(1, steps + 1):
        _, fooled, slope = look(judge, state.z)
        done = state.done | (fooled & (state.steps_left == 0))
        step, momentum = direction(remaining.problem.region.restrict(slope), state.momentum)
        moved = retract(state.z + length * step)
        stay = column(done, moved)
        state = _State(
            torch.where(stay, state.z, moved),
            state.steps_left - (fooled & ~done).long(),
            done,
            momentum,
        )
        rows = None if k == steps else remaining.leave(k, done, state, worth=WORTH, eager=True)
        if rows is None:
            continue
        state, part = state.take(rows), remaining.problem
        if not len(part):
            break
        judge, retract = _judge(part), part.retraction()
        length = take(step_size, remaining.rows, problem.z0)
    return remaining.rejoined(state).z


def _judge(problem: Problem) -> Judge:
    """``z -> (values, fooled)`` from the one forward pass that the inner loss makes."""
    if not problem.over_classes:
        raise ConfigurationError(
            "patience= counts the steps of a misclassified example, but this model's loss is not "
            "over classes; leave it out"
        )
    model = problem.model
    calls: list[tuple[Tree, Any]] = []

    def forward(x: Tree) -> Any:
        outputs = model.outputs(x)
        calls.append((x, outputs))
        return outputs

    climb = (problem.inner or own_loss)(
        replace(model, forward=forward), problem.inputs, problem.targets
    )

    def judge(z: Tensor) -> tuple[Tensor, Tensor]:
        calls.clear()
        x_adv = problem.insert(z)
        values = climb(x_adv)
        outputs = [output for x, output in calls if x is x_adv]
        calls.clear()
        if not outputs:
            raise ConfigurationError(
                "an attack with patience= must see the model's prediction for x_adv, but the inner "
                "loss never computes it; leave patience out"
            )
        predictions = model.task.predictions(outputs[0], x_adv, model.module)
        fooled = problem.fooled(detach(predictions))
        return (-values if problem.targeted else values), fooled

    return judge
