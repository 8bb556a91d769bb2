"""What the tests of all tasks share: random predictions, and what every divergence must satisfy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from artplus.criterion import mean
from artplus.tasks import Task
from artplus.tree import concat, leaves, map_tensors, take


def logits(*shape: int, seed: int = 0) -> Tensor:
    """Random float64 logits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2


def labels(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Random class numbers."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def batch_mean(task: Task, predictions: Any, targets: Any) -> Tensor:
    """The weighted mean that training takes."""
    return mean(task.loss(predictions, targets), task.weights(targets))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL of two logit vectors in the last axis, by its definition."""
    p, q = p.softmax(-1), q.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def check_divergence(task: Task, reference: Any, predictions: Any, targets: Any, of: str) -> None:
    """Zero at equality, not negative, one value an example, gradients through both arguments."""
    n = len(task.divergence(reference, predictions, targets, of=of))
    zero = task.divergence(reference, reference, targets, of=of)
    torch.testing.assert_close(zero, torch.zeros_like(zero))
    p, q = (
        map_tensors(lambda x: x.clone().requires_grad_(x.is_floating_point()), tree)
        for tree in (reference, predictions)
    )
    values = task.divergence(p, q, targets, of=of)
    assert values.shape == (n,) and bool((values > 0).all())
    values.sum().backward()
    for side in (p, q):
        grads = [leaf.grad for leaf in leaves(side) if leaf.is_floating_point()]
        assert all(bool(grad.abs().sum() > 0) for grad in grads)
    for k in range(n):  # an example's value does not depend on the others
        rows = slice(k, k + 1)
        alone = task.divergence(*(take(tree, rows) for tree in (reference, predictions, targets)),
                                of=of)  # fmt: skip
        torch.testing.assert_close(alone, values[rows].detach())


def check_metrics(task: Task, predictions: Any, targets: Any) -> dict[str, float]:
    """The metrics; statistics of parts, put together, are those of the whole."""
    n = len(task.loss(predictions, targets))
    values = {}
    for name, metric in task.metrics().items():
        whole = metric.statistics(predictions, targets)
        assert whole.shape[0] == n and whole.ndim == 2
        halves = [
            metric.statistics(take(predictions, rows), take(targets, rows))
            for rows in (slice(0, 1), slice(1, n))
        ]
        torch.testing.assert_close(concat(halves), whole)
        values[name] = metric.compute(whole)
        assert metric.compute(whole.flip(0)) == values[name]
    return values
