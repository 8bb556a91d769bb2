"""What the objectives of language models share: one attack, and both answers under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from artplus.losses._base import Context, Objective, Terms
from artplus.spaces.hidden import carry
from artplus.tasks.preference import Preference, counted_rows
from artplus.tree import Tree, take


@dataclass(frozen=True)
class Answers:
    """Both answers to the same perturbed prompts.

    Attributes:
        rows: Indices of the rows with a rejected answer; the first row if there is none.
        own: Predictions for each row's own sequence, perturbed where it is attacked.
        rejected: Inputs of ``rows`` with the rejected answer.
        chosen: Inputs of ``rows`` with the answer wanted, under the same perturbation.
        wanted: Predictions for ``chosen``.
        targets: Targets of ``rejected``.
        wanted_targets: Targets of ``chosen``.
    """

    rows: Tensor
    own: Tree
    rejected: Tree
    chosen: Tree
    wanted: Tree
    targets: Any
    wanted_targets: Any


def answers(ctx: Context) -> Answers:
    """Both answers' predictions in two passes: the whole batch, and the rows to be avoided.

    The prompt's tokens stand at the same positions before both answers, so the perturbation of one
    sequence is that of the other. Rows that are not attacked carry no perturbation, so the first
    pass is their clean one too. As in ``pair``, random streams move with it alone.
    """
    task = task_of(ctx)
    rows = task.rejected_rows(ctx.y)
    targets, rejected = take(ctx.y, rows), take(ctx.x_adv, rows)
    inputs, wanted_targets = task.chosen(targets)
    chosen = carry(rejected, inputs)
    # Without such rows the first row stands in for them, attacked: it counts as a clean one.
    attacked = bool(counted_rows(targets)[1].any())
    own, wanted = ctx.model.pair(ctx.x_adv if attacked else ctx.x, chosen)
    return Answers(rows, own, rejected, chosen, wanted, targets, wanted_targets)


def task_of(ctx: Context) -> Preference:
    """The context's task, which the objective needs to be this one."""
    task: Preference = ctx.task  # type: ignore[assignment]  # `task=` of the objective
    return task


def spread(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """``values`` of some rows among ``n``, zero elsewhere."""
    return values.new_zeros(n).index_copy(0, rows, values)


def objective(name: str, terms: Callable[[Context], Terms], **options: Any) -> Objective:
    """An objective whose fixed term counts utility rows, and whose scaled term the others."""
    return Objective(name, terms, task="preference", counts=counted_rows, **options)


def leaky(losses: Tensor, cutoff: float, slope: float) -> Tensor:
    """Losses as they are down to ``cutoff``; below, ``cutoff`` plus ``slope`` times the loss."""
    return torch.where(losses < cutoff, cutoff + slope * losses, losses)
