"""Square attack: random search without gradients (Andriushchenko et al., 2020)."""

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
"""Queries out of 10 000 after which the share of changed pixels halves (the authors' schedule)."""


@dataclass(frozen=True, kw_only=True)
class Square(BaseAttack):
    r"""Random search with square-shaped changes that raise the margin [Andriushchenko20]_.

    In L∞ it starts from stripes of :math:`\pm\epsilon`, sets a random square of each image to
    :math:`\pm\epsilon` per channel, and keeps it where the margin
    :math:`\max_{k \ne y} z_k - z_y` rose. In L2 and L1 [Croce21]_ it starts from a grid of pyramids
    and moves the length of one window into another; in L1 the result is projected exactly on ball
    and box. The share of pixels starts at ``p_init`` and halves after 10, 50, 200, ... queries.
    Fooled examples leave the batch within 8 queries, so a query is a forward pass on the rest; on
    a CPU it also skips examples whose square would change nothing. Masked gradients do not stop it.

    Inputs are images ``(batch, channels, height, width)``; in L∞ also signals ``(batch, channels,
    length)`` and rows of features ``(batch, features)``, where a square is a run of neighbours.

    Differs from the authors' PyTorch code: (1) places, and in L∞ signs, are drawn per example, as
    in their NumPy code; (2) squares reach the last row and column; (3) the first query is at ``x``,
    and ``x`` is returned where no point is worse.

    Args:
        eps: Radius, in the units of ``x``.
        norm: ``numpy.inf``, 2 or 1.
        queries: Forward passes per example, 5000 in the paper.
        p_init: Share of pixels changed by the first query, 0.8 in AutoAttack.
        rescale: Scale the schedule, made for 10 000 queries, to ``queries``, as in the paper;
            AutoAttack does not.

    Raises:
        ConfigurationError: at construction for values that cannot work; at the call for a model
            without class logits, for a shape that L2 or L1 cannot tile, or for an inner loss (this
            attack maximises the margin).

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
        _checks.flag("rescale", self.rescale)
        if not 0 < _checks.nonnegative("p_init", self.p_init) <= 1:
            raise ConfigurationError(f"p_init must lie in (0, 1], got {self.p_init!r}")

    @property
    def climbs_own(self) -> bool:
        """True: it maximises the margin and accepts no inner loss."""
        return True

    def run(self, problem: Problem) -> Tensor:
        """The worst point; the input itself where none is worse."""
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
        search_space = search(x, problem.eps, problem.region, problem.ball.order)
        with torch.no_grad():
            clean = _margins(problem, x)
            first = (
                search_space.first(generator)
                if problem.start is None
                else search_space.inside(problem.start)
            )
            best = Best(first, _margins(problem, first), clean > 0)
            best = self._run(problem, search_space, best)
        return torch.where(column(best.value > clean, x), best.z, x)

    def _run(self, problem: Problem, search_space: Search, best: Best) -> Best:
        """All queries; ``fooled`` includes examples misclassified without an attack."""
        remaining: Remaining[Best] = Remaining(problem)
        for query in range(self.queries - 2):
            fooled = best.fooled | (best.value > 0)
            rows = remaining.leave(max(query, 1), fooled, best)
            if rows is not None:
                best, search_space, problem = (
                    best.take(rows),
                    search_space.take(rows),
                    remaining.problem,
                )
                if not len(rows):
                    break
            candidates = search_space.tried(best.z, self._share(query), problem.generator)
            value = _candidate_margins(problem, candidates, best.value)
            z = candidates.undo(value > best.value)
            best = Best(z, torch.maximum(value, best.value), best.fooled)
        return remaining.rejoined(best)

    def _share(self, query: int) -> float:
        """Share of pixels that a query changes."""
        query_of_10000 = query * 10_000 // self.queries if self.rescale else query
        halvings = sum(query_of_10000 > bound for bound in _HALVINGS)
        return self.p_init / float(2**halvings)

    def with_eps(self, scale: float) -> Square:
        """The same attack with ``eps`` multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))


def _margins(problem: Problem, z: Tensor) -> Tensor:
    """Margins, positive where the model errs, ``(batch,)``; one query."""
    return margin(problem.predict(z), problem.targets)


def _candidate_margins(problem: Problem, candidates: Candidates, best_margins: Tensor) -> Tensor:
    """Margins of the candidates; on a CPU without a forward pass for unchanged candidates.

    Selecting these would synchronise with any other device, so there all candidates are queried.
    """
    z, changed = candidates.z, candidates.changed
    if changed is not None and z.device.type == "cpu":
        rows = changed.nonzero().squeeze(1)
        if len(rows) < 0.9 * len(z):
            if not len(rows):
                return best_margins
            margins = margin(problem.predict(z[rows], rows), problem.targets[rows])
            return best_margins.index_copy(0, rows, margins)
    return _margins(problem, z)
