"""Ascent that ends, example by example, once it is misclassified; the rest of the batch goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from artplus.attacks._base import Judge, column, look, own_loss, take
from artplus.attacks._problem import Problem, detached
from artplus.attacks._remaining import Remaining
from artplus.errors import ConfigurationError
from artplus.geometry import Eps
from artplus.tree import Tree

WORTH = 0.125
"""Share of a batch that must be done before the rest goes on without it: what depends on ``x``
alone, as TRADES' clean prediction, is then computed again."""


@dataclass(frozen=True)
class _State:
    """What a run remembers of each example.

    Attributes:
        z: Where it is.
        left: Steps that it still goes on when misclassified.
        done: Whether it stays where it is.
        momentum: Of the direction, where there is some.
    """

    z: Tensor
    left: Tensor
    done: Tensor
    momentum: Tensor | None = None

    def take(self, rows: Tensor) -> _State:
        momentum = None if self.momentum is None else self.momentum[rows]
        return _State(self.z[rows], self.left[rows], self.done[rows], momentum)

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
    """Go up until misclassified ``patience + 1`` times, at most ``steps`` steps.

    Which examples are done is a mask on the device, so what is returned does not depend on when
    the batch is made smaller: on a CPU whenever it pays, elsewhere where the host waits anyway.

    Args:
        problem: What is climbed.
        step_size: Length of a step.
        z: Where to begin.
        direction: ``(slope, momentum) -> (unit step, momentum)``.
        steps: Most steps.
        patience: Steps that a misclassified example still goes on.
    """
    flags = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    state = _State(z, torch.full_like(flags, patience, dtype=torch.long), flags)
    remaining: Remaining[_State] = Remaining(problem)
    judge, retract, length = _judge(problem), problem.retraction(), step_size
    for k in range(1, steps + 1):
        _, fooled, slope = look(judge, state.z)
        done = state.done | (fooled & (state.left == 0))
        step, momentum = direction(remaining.problem.region.restrict(slope), state.momentum)
        moved = retract(state.z + length * step)
        stay = column(done, moved)
        state = _State(
            torch.where(stay, state.z, moved), state.left - (fooled & ~done).long(), done, momentum
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
    """Inner loss and mistakes from one forward pass, whatever the inner loss makes of it."""
    if not problem.over_classes:
        raise ConfigurationError(
            "patience= counts the steps of a misclassified example, but this model's loss is not "
            "over classes; leave it out"
        )
    model = problem.model
    passed: list[tuple[Tree, Any]] = []

    def forward(x: Tree) -> Any:
        outputs = model.outputs(x)
        passed.append((x, outputs))
        return outputs

    climb = (problem.inner or own_loss)(
        replace(model, forward=forward), problem.inputs, problem.targets
    )

    def judge(z: Tensor) -> tuple[Tensor, Tensor]:
        passed.clear()
        x_adv = problem.insert(z)
        values = climb(x_adv)
        outputs = [output for at, output in passed if at is x_adv]
        passed.clear()
        if not outputs:
            raise ConfigurationError(
                "an attack with patience= must see the model's prediction for x_adv, but the inner "
                "loss never asks for it as it stands; leave patience out"
            )
        predictions = model.task.predictions(outputs[0], x_adv, model.module)
        fooled = problem.fooled(detached(predictions))
        return (-values if problem.targeted else values), fooled

    return judge
