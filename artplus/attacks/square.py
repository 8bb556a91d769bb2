"""Square attack: random search by predictions alone, no gradient (Andriushchenko et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks, modes
from artplus.attacks._base import Budget, Inner, check_budget, column, resolve, scaled, take
from artplus.attacks._patterns import Canvas
from artplus.errors import ConfigurationError
from artplus.functional import margin
from artplus.geometry import Eps, Geometry, geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10 000, after which the share of changed pixels halves (the authors' schedule)."""


@dataclass(frozen=True, kw_only=True)
class Square:
    r"""Random search with square-shaped changes; raises the margin [Andriushchenko20]_.

    L∞: starts from stripes of :math:`\pm\epsilon`, then sets a random square of each image to
    :math:`\pm\epsilon` per channel and keeps it where the margin
    :math:`\max_{k \ne y} z_k - z_y` rose. L2: starts from a grid of pyramids, then moves the
    length of one window into another. The share of pixels starts at ``p_init`` and halves after
    10, 50, 200, ... of 10 000 queries, scaled to ``queries``. Examples already fooled are asked
    no more, so each query is a forward pass on the rest only. It sees through masked gradients.

    Inputs: images ``(batch, channels, height, width)``; with L∞ also signals ``(batch, channels,
    length)`` and rows of features ``(batch, features)``, where a square is a run of neighbours.

    Differs from the authors' PyTorch code: (1) every example draws its own place, and in L∞ its
    own signs, as in their NumPy code; (2) squares reach the last row and column; (3) the first
    query is at ``x``, and ``x`` is returned where nothing found is worse.

    Args:
        eps: Radius, in the units of ``x``.
        norm: ``numpy.inf`` or 2.
        queries: Forward passes per example, 5000 in the paper.
        p_init: Share of pixels changed at first, 0.8 in AutoAttack.

    Raises:
        ConfigurationError: at construction for values that cannot work; at the call for a model
            without class logits, for a shape that L2 cannot tile, or for an inner loss (this
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
    """

    eps: Budget
    norm: float = torch.inf
    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        _checks.count("queries", self.queries, least=2)
        if not 0 < _checks.nonnegative("p_init", self.p_init) <= 1:
            raise ConfigurationError(f"p_init must lie in (0, 1], got {self.p_init!r}")
        if geometry(self.norm).order == 1:
            raise ConfigurationError(
                "Square is defined for norm numpy.inf and 2. (ART's SquareAttack accepts norm 1 "
                "and returns its input.) For L1 use APGD or PGD."
            )

    @property
    def climbs_own(self) -> bool:
        """True: it climbs the margin and takes no inner loss."""
        return True

    def __call__(
        self,
        model: LossModel,
        x: Tensor,
        y: Tensor,
        *,
        space: InputSpace = InputSpace(),
        inner: Inner | None = None,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Craft; see :class:`artplus.attacks.Attack`."""
        if inner is not None:
            raise ConfigurationError(
                "Square climbs the margin of the predicted classes and no other loss; use it to "
                "evaluate, or with an objective that trains on the model's own loss"
            )
        if not model.criterion.over_classes:
            raise ConfigurationError("Square needs class logits; this model's loss has no classes")
        ball = geometry(self.norm)
        canvas = Canvas.of(x, tiled=ball.order == 2)
        with modes.crafting(model.module), torch.no_grad():
            x = x.detach()
            eps = resolve(self.eps, x, ball)
            clean = margin(model(x), y)
            first = start if start is not None else self._first(x, eps, ball, canvas, generator)
            first = self._inside(first.detach(), x, eps, ball, space)
            best, height = first, margin(model(first), y)
            for query in range(self.queries - 2):
                rows = ((height <= 0) & (clean <= 0)).nonzero().squeeze(1)
                if not len(rows):
                    break
                here, radius = x[rows], take(eps, rows, x)
                part = replace(space, mask=take(space.mask, rows, x))
                share = self._share(query)
                z = self._proposal(best[rows], here, radius, share, ball, canvas, generator)
                z = self._inside(z, here, radius, ball, part)
                value = margin(model(z), y[rows])
                rose = value > height[rows]
                best = best.index_copy(0, rows, torch.where(column(rose, z), z, best[rows]))
                height = height.index_copy(0, rows, torch.maximum(value, height[rows]))
            return torch.where(column(height > clean, x), best, x)

    def _share(self, query: int) -> float:
        """Share of pixels to change at a query."""
        of_10000 = query * 10_000 // self.queries
        halvings = sum(of_10000 > bound for bound in _HALVINGS)
        return self.p_init / float(2**halvings)

    def _first(
        self,
        x: Tensor,
        eps: Eps,
        ball: Geometry,
        canvas: Canvas,
        generator: torch.Generator | None,
    ) -> Tensor:
        if ball.order == 2:
            return x + eps * ball.steepest(canvas.tiles(x, generator))
        return x + eps * canvas.stripes(x, generator)

    def _proposal(
        self,
        best: Tensor,
        x: Tensor,
        eps: Eps,
        share: float,
        ball: Geometry,
        canvas: Canvas,
        generator: torch.Generator | None,
    ) -> Tensor:
        if ball.order == 2:
            return x + eps * ball.steepest(canvas.moved(best - x, eps, share, generator))
        side = canvas.side(share)
        here = canvas.window(canvas.corners(len(x), side, x, generator), side, x)
        # +-2 eps on what lies within +-eps, clipped to it, is +-eps.
        return torch.where(here, x + eps * canvas.signs(x, generator), best)

    def _inside(self, z: Tensor, x: Tensor, eps: Eps, ball: Geometry, space: InputSpace) -> Tensor:
        return ball.retraction(x, eps, space)(x + space.restrict(z - x))

    def with_eps(self, scale: float) -> Square:
        """The same attack with ``eps`` multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))
