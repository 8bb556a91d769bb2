"""Linearised decision boundaries: the hyperplanes where the logits of two classes are equal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from artplus.attacks._base import column, gradient
from artplus.attacks._nearest import Length
from artplus.attacks._problem import Problem
from artplus.functional import class_index

Plane = Callable[[Tensor], tuple[Tensor, Tensor]]
r"""``z -> (values, normals)``: :math:`f(z)`, ``(batch,)``, and :math:`\nabla f(z)` of a difference
of logits that is zero on the boundary and positive beyond it."""


def towards(problem: Problem, target: Tensor) -> Plane:
    """The boundary between the true class and ``target``, ``(batch,)``; one backward pass."""
    true = class_index(problem.targets)[:, None]

    def difference(z: Tensor) -> Tensor:
        logits = problem.predict(z)
        values: Tensor = logits.gather(1, target[:, None]) - logits.gather(1, true)
        return values.squeeze(1)

    return lambda z: gradient(difference, z)


def nearest(problem: Problem, classes: int, dual: Length) -> Plane:
    r"""The boundary of least :math:`|f_k| / \|\nabla f_k\|_q`; one backward pass per wrong class.

    Args:
        problem: Supplies the logits and the true labels.
        classes: Number of classes.
        dual: The norm of normals, dual to that of the perturbation.
    """
    # The k-th wrong class of each example, so that no pass is spent on the true class.
    true = class_index(problem.targets)
    others = [torch.where(true > k, k, k + 1) for k in range(classes - 1)]
    planes = [towards(problem, other) for other in others]

    def plane(z: Tensor) -> tuple[Tensor, Tensor]:
        value, normal = planes[0](z)
        least = _distance(value, normal, dual)
        for other in planes[1:]:
            f, w = other(z)
            distance = _distance(f, w, dual)
            nearer = distance < least
            least = torch.where(nearer, distance, least)
            value, normal = torch.where(nearer, f, value), torch.where(column(nearer, w), w, normal)
        return value, normal

    return plane


def _distance(value: Tensor, normal: Tensor, dual: Length) -> Tensor:
    return value.abs() / (dual(normal) + 1e-12)
