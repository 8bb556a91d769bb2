"""Square attack: random search by predictions alone, no gradient (Andriushchenko et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Budget, check_budget, column, scaled
from artplus.attacks._best import Best
from artplus.attacks._call import BaseAttack
from artplus.attacks._problem import Problem
from artplus.attacks._remaining import Remaining
from artplus.attacks._search import Candidates, Search, search
from artplus.errors import ConfigurationError
from artplus.functional import margin

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10 000, after which the share of changed pixels halves (the authors' schedule)."""


@dataclass(frozen=True, kw_only=True)
class Square(BaseAttack):
    r"""Random search with square-shaped changes; raises the margin [Andriushchenko20]_.

    L∞: starts from stripes of :math:`\pm\epsilon`, then sets a random square of each image to
    :math:`\pm\epsilon` per channel and keeps it where the margin
    :math:`\max_{k \ne y} z_k - z_y` rose. L2 and L1 [Croce21]_: starts from a grid of pyramids,
    then moves the length of one window into another; in L1 the way back is the exact projection on
    ball and box. The share of pixels starts at ``p_init`` and halves after 10, 50, 200, ...
    queries. Fooled examples leave the batch within 8 queries, so each is a forward pass on the
    rest only; on a CPU also without those whose square would change nothing. It sees through
    masked gradients.

    Inputs: images ``(batch, channels, height, width)``; with L∞ also signals ``(batch, channels,
    length)`` and rows of features ``(batch, features)``, where a square is a run of neighbours.

    Differs from the authors' PyTorch code: (1) every example draws its own place, and in L∞ its
    own signs, as in their NumPy code; (2) squares reach the last row and column; (3) the first
    query is at ``x``, and ``x`` is returned where nothing found is worse.

    Args:
        eps: Radius, in the units of ``x``.
        norm: ``numpy.inf``, 2 or 1.
        queries: Forward passes per example, 5000 in the paper.
        p_init: Share of pixels changed at first, 0.8 in AutoAttack.
        rescale: Scale the schedule, made for 10 000 queries, to ``queries``, as in the paper;
            AutoAttack does not.

    Raises:
        ConfigurationError: at construction for values that cannot work; at the call for a model
            without class logits, for a shape that L2 or L1 cannot tile, or for an inner loss (this
            attack climbs the margin).

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> model = LossModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))
        >>> x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
        >>> x_adv = Square(eps=0.1, queries=20)(model, x, y)
        >>> bool((x_adv - x).abs().max() <= 0.1 + 1e-6)
        True

    References:
        .. [Andriushchenko20] Andriushchenko et al., "Square attack: a query-efficient black-box
           adversarial attack via random search", ECCV 2020, https://arxiv.org/abs/1912.00049
        .. [Croce21] Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
           classifiers", ICML 2021, https://arxiv.org/abs/2103.01208
    """

    eps: Budget
    norm: float = torch.inf
    queries: int = 5000
    p_init: float = 0.8
    rescale: bool = True

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        _checks.count("queries", self.queries, least=2)
        if not 0 < _checks.nonnegative("p_init", self.p_init) <= 1:
            raise ConfigurationError(f"p_init must lie in (0, 1], got {self.p_init!r}")

    @property
    def climbs_own(self) -> bool:
        """True: it climbs the margin and takes no inner loss."""
        return True

    def run(self, problem: Problem) -> Tensor:
        """The worst point met; the input itself where none is worse."""
        if problem.inner is not None:
            raise ConfigurationError(
                "Square climbs the margin of the predicted classes and no other loss; use it to "
                "evaluate, or with an objective that trains on the model's own loss"
            )
        problem.require_classes("Square")
        if problem.space.hidden:
            raise ConfigurationError(
                "Square draws windows of images or signals; in a hidden space use PGD or APGD"
            )
        x, generator = problem.z0, problem.generator
        where = search(x, problem.eps, problem.region, problem.ball.order)
        with torch.no_grad():
            clean = _margins(problem, x)
            first = where.first(generator) if problem.start is None else where.inside(problem.start)
            best = Best(first, _margins(problem, first), clean > 0)
            best = self._run(problem, where, best)
        return torch.where(column(best.value > clean, x), best.z, x)

    def _run(self, problem: Problem, where: Search, best: Best) -> Best:
        """All queries; ``fooled`` are also those that were wrong without an attack."""
        remaining: Remaining[Best] = Remaining(problem)
        for query in range(self.queries - 2):
            fooled = best.fooled | (best.value > 0)
            rows = remaining.leave(max(query, 1), fooled, best)
            if rows is not None:
                best, where, problem = best.take(rows), where.take(rows), remaining.problem
                if not len(rows):
                    break
            candidates = where.tried(best.z, self._share(query), problem.generator)
            value = _asked(problem, candidates, best.value)
            z = candidates.undo(value > best.value)
            best = Best(z, torch.maximum(value, best.value), best.fooled)
        return remaining.rejoined(best)

    def _share(self, query: int) -> float:
        """Share of pixels to change at a query."""
        of_10000 = query * 10_000 // self.queries if self.rescale else query
        halvings = sum(of_10000 > bound for bound in _HALVINGS)
        return self.p_init / float(2**halvings)

    def with_eps(self, scale: float) -> Square:
        """The same attack with ``eps`` multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))


def _margins(problem: Problem, z: Tensor) -> Tensor:
    """Positive where the model errs, ``(batch,)``; one query."""
    return margin(problem.predict(z), problem.targets)


def _asked(problem: Problem, candidates: Candidates, height: Tensor) -> Tensor:
    """Margins of what is tried; what changes nothing has the margin that it had.

    Which those are the host must know, so on a device that it would have to wait for all are asked.
    """
    z, changed = candidates.z, candidates.changed
    if changed is not None and z.device.type == "cpu":
        rows = changed.nonzero().squeeze(1)
        if len(rows) < 0.9 * len(z):
            if not len(rows):
                return height
            margins = margin(problem.predict(z[rows], rows), problem.targets[rows])
            return height.index_copy(0, rows, margins)
    return _margins(problem, z)
