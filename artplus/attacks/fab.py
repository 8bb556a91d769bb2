"""FAB: steps along the decision boundary towards its point nearest to the input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import _boundary
from artplus.attacks._base import Budget, check_budget, column, scaled, take
from artplus.attacks._boundary import Plane
from artplus.attacks._call import BaseAttack, as_problem
from artplus.attacks._goal import likeliest_wrong
from artplus.attacks._hyperplane import crossing
from artplus.attacks._nearest import DUAL, Nearest, line_search
from artplus.attacks._problem import Problem
from artplus.attacks._remaining import Remaining
from artplus.errors import ConfigurationError
from artplus.functional import margin
from artplus.geometry import Eps, clip, geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace, Region, Space
from artplus.tree import Tree

_Run = tuple[Tensor | None, Tensor | None]
"""Target classes and start of a run; ``None`` means all classes and a random point."""


@dataclass(frozen=True)
class _Ruler:
    """Measures perturbations, in units per feature if the radius is per feature."""

    order: float
    unit: float | Tensor
    radius: Tensor

    @classmethod
    def of(cls, eps: Eps, z: Tensor, order: float) -> _Ruler:
        radius = torch.as_tensor(eps, dtype=z.dtype, device=z.device)
        radii = radius.expand_as(z).flatten(1)
        if radius.numel() > 1 and (radius.ndim < z.ndim or radius[0].numel() > 1):
            return cls(order, radius, torch.ones_like(radii[:, 0]))
        return cls(order, 1.0, radii[:, 0])

    def length(self, delta: Tensor) -> Tensor:
        if isinstance(self.unit, Tensor):  # 0 / 0 where a feature has no room
            delta = torch.nan_to_num(delta / self.unit, nan=0.0)
        return geometry(self.order).length(delta)

    def dual(self, normal: Tensor) -> Tensor:
        return geometry(DUAL[self.order]).length(normal * self.unit)

    def take(self, rows: Tensor, z: Tensor) -> _Ruler:
        return replace(self, unit=take(self.unit, rows, z), radius=self.radius[rows])


@dataclass(frozen=True, kw_only=True)
class FAB(BaseAttack):
    r"""Fast adaptive boundary attack: the smallest perturbation that is a mistake [Croce20fab]_.

    Each step approximates the boundary by the hyperplane
    :math:`\{\langle w, z - x_k \rangle = -f\}` of the logits linearised at :math:`x_k`. Let
    :math:`d_k` and :math:`d_0` be the exact shortest steps onto it, inside the box, from
    :math:`x_k` and from :math:`x`. The next point is

    .. math:: x_{k+1} = (1 - \alpha)(x_k + \eta d_k) + \alpha (x + \eta d_0), \quad
              \alpha = \min\bigl(\alpha_{\max}, \|d_k\| / (\|d_k\| + \|d_0\|)\bigr)

    A mistake is kept if it is the nearest so far, and after it the next step starts at
    :math:`x + \beta (x_{k+1} - x)`. With ``targets`` the boundary is that to one class, for each
    of the likeliest wrong classes in turn (FAB-T, as in AutoAttack). With ``targets=None`` it is
    the nearest of all boundaries (FAB), at the cost of a backward pass per class and step.

    The minimum-norm attack needs no radius. As an :class:`~artplus.attacks.Attack` it has one:
    mistakes farther away than ``eps`` are projected into the ball, runs are only on examples that
    are still robust (the others leave within 8 steps), and random starts are at distance
    ``eps / 2``. :meth:`minimum` returns the nearest mistake at any distance. The attack does not
    depend on the scale of the logits, so a temperature does not mask gradients from it.

    Differs from the authors' code: (1) the box is that of ``space``, or none, and a mask is kept;
    (2) with fewer wrong classes than ``targets`` all of them are tried; (3) ``search`` (theirs
    has none); (4) a mistake outside the ball is projected into it, and may still be a mistake
    there, where theirs is dropped; (5) with eps per feature (L∞), distances are multiples of it.
    (3) and (4) make the attack stronger; the benchmark of the suites compares it without them.

    Args:
        eps: Radius, in the units of ``x``: a number, an array per feature (L∞), or
            :class:`Relative`.
        norm: ``numpy.inf``, 2 or 1: the norm to minimise.
        steps: Steps of each run, 100 in AutoAttack.
        restarts: Runs per target, the first from ``x``, later ones from random points. 1 with
            targets and 5 without in AutoAttack.
        targets: Number of wrong classes to try, the likeliest first, 9 in AutoAttack; ``None``
            considers all at once.
        alpha_max: Largest weight of the step from ``x`` itself, 0.1 in the paper.
        eta: Overshoot: steps are multiplied by it, 1.05 in the paper.
        beta: Share of the perturbation kept after a mistake, 0.9 in the paper.
        search: Steps of a final line search between ``x`` and the result of a run, one forward pass
            each.

    Raises:
        ConfigurationError: at construction for values that cannot work; at the call for a model
            without class logits, or for an inner loss (this attack climbs none).

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> linear = torch.nn.Linear(4, 2)
        >>> x = torch.rand(3, 4)
        >>> y = linear(x).argmax(1)
        >>> x_adv, distance = FAB(eps=0.1, norm=2).minimum(LossModel(linear), x, y)
        >>> w, gap = linear.weight[1] - linear.weight[0], linear(x).diff(dim=1).squeeze(1)
        >>> bool(torch.allclose(distance, gap.abs() / w.norm(), rtol=1e-2))
        True

    References:
        .. [Croce20fab] Croce and Hein, "Minimally distorted adversarial examples with a fast
           adaptive boundary attack", ICML 2020, https://arxiv.org/abs/1907.02044
    """

    eps: Budget
    norm: float = torch.inf
    steps: int = 100
    restarts: int = 1
    targets: int | None = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    search: int = 3

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        _checks.count("steps", self.steps)
        _checks.count("restarts", self.restarts)
        _checks.count("search", self.search, least=0)
        if self.targets is not None:
            _checks.count("targets", self.targets)
        if _checks.nonnegative("alpha_max", self.alpha_max) > 1:
            raise ConfigurationError(f"alpha_max must lie in [0, 1], got {self.alpha_max!r}")
        if _checks.nonnegative("eta", self.eta) < 1:
            raise ConfigurationError(
                f"eta must be >= 1, or no step reaches the boundary, got {self.eta!r}"
            )
        _checks.fraction("beta", self.beta)

    @property
    def climbs_own(self) -> bool:
        """True: it follows the boundary and accepts no inner loss."""
        return True

    def run(self, problem: Problem) -> Tensor:
        """The nearest mistakes, projected where they are outside the ball."""
        if problem.inner is not None:
            raise ConfigurationError(
                "FAB follows the boundary between classes and climbs no loss; use it to evaluate, "
                "or with an objective that trains on the model's own loss"
            )
        ruler = _Ruler.of(problem.eps, problem.z0, problem.ball.order)
        best = self._nearest(problem, ruler, within=True)
        inside = column(best.distance <= ruler.radius, best.z)
        return torch.where(inside, best.z, problem.retraction()(best.z))

    def minimum(
        self,
        model: LossModel,
        x: Tree,
        y: Tree,
        *,
        space: Space = InputSpace(),
        start: Tree | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tree, Tensor]:
        r"""The nearest mistake of each example at any distance; ``eps`` scales random starts.

        Returns:
            ``x_adv``, shaped like ``x``, and its distance ``(batch,)`` in ``norm``: zero where
            ``x`` is misclassified already, infinite (and ``x_adv`` no mistake) where none was
            found. The median of the distances is the median :math:`\epsilon^*`. If ``eps`` is an
            array per feature, distances are multiples of it.
        """
        with as_problem(
            self, model, x, y, space=space, start=start, generator=generator
        ) as problem:
            ruler = _Ruler.of(problem.eps, problem.z0, problem.ball.order)
            best = self._nearest(problem, ruler, within=False)
        return space.insert(x, best.z), best.distance

    def _nearest(self, problem: Problem, ruler: _Ruler, *, within: bool) -> Nearest:
        """All runs, each on the examples without a mistake (``within`` their radius) so far."""
        problem.require_classes("FAB")
        problem.require_whole_examples("FAB")
        z = problem.z0
        with torch.no_grad():
            logits = problem.predict(z)
        wrong = problem.fooled(logits)
        best = Nearest(z, torch.zeros_like(z.flatten(1)[:, 0]).masked_fill(~wrong, math.inf))
        for target, first in self._runs(logits, problem):
            robust = best.distance > (ruler.radius if within else 0)
            rows = robust.nonzero().squeeze(1)
            if not len(rows):
                break
            part, part_ruler = problem.take(rows), ruler.take(rows, z)
            start = self._random(part, part_ruler) if first is None else first[rows]
            part_target = None if target is None else target[rows]
            run = self._run(part, part_ruler, part_target, start, logits.shape[1], within=within)
            best = best.merged(run, rows)
        return best

    def _runs(self, logits: Tensor, problem: Problem) -> Iterator[_Run]:
        """Target and start of every run; a user's start is for the first run only."""
        target_classes: list[Tensor | None] = [None]
        if self.targets is not None:
            target_classes = list(likeliest_wrong(logits, problem.targets, self.targets))
        first = problem.z0 if problem.start is None else problem.start
        for target in target_classes:
            for restart in range(self.restarts):
                yield target, None if restart else first
            first = problem.z0

    def _random(self, problem: Problem, ruler: _Ruler) -> Tensor:
        """A random point at half the radius, clipped to the box."""
        z0, region = problem.z0, problem.region
        draw = torch.randn if ruler.order < math.inf else torch.rand
        noise = draw(z0.shape, generator=problem.generator, device=z0.device, dtype=z0.dtype)
        noise = region.restrict(noise if ruler.order < math.inf else 2 * noise - 1) * ruler.unit
        scale = ruler.radius / 2 / ruler.length(noise).clamp_min(torch.finfo(z0.dtype).tiny)
        return clip(z0 + column(scale, z0) * noise, region)

    def _run(
        self,
        problem: Problem,
        ruler: _Ruler,
        target: Tensor | None,
        z: Tensor,
        classes: int,
        *,
        within: bool,
    ) -> Nearest:
        """One run. Every decision is a mask on the device, so a step never synchronises.

        If ``within``, examples with a mistake within the radius leave within 8 steps.
        """
        best = Nearest(z, torch.full_like(ruler.radius, math.inf))
        remaining: Remaining[Nearest] = Remaining(problem)
        plane = _plane(problem, ruler, target, classes)
        for step in range(1, self.steps + 1):
            value, normal = plane(z)
            with torch.no_grad():
                x, region = problem.z0, problem.region
                z = self._step(z, x, value, region.restrict(normal), region, ruler)
                wrong = problem.fooled(problem.predict(z))
                best = best.better(Nearest(z, ruler.length(z - x).where(wrong, math.inf)))
                z = torch.where(column(wrong, z), clip(x + self.beta * (z - x), region), z)
                near = best.distance <= ruler.radius
                rows = remaining.leave(step, near, best) if within else None
                if rows is not None:
                    best, z, ruler = best.take(rows), z[rows], ruler.take(rows, x)
                    target = None if target is None else target[rows]
                    problem = remaining.problem
                    if not len(problem):
                        break
                    plane = _plane(problem, ruler, target, classes)
        with torch.no_grad():
            if len(problem):
                best = self._line_search(problem, ruler, best)
        return remaining.rejoined(best)

    def _line_search(self, problem: Problem, ruler: _Ruler, best: Nearest) -> Nearest:
        """The final line search between the input and the nearest mistake."""

        def wrong_margin(point: Tensor) -> Tensor:
            return margin(problem.predict(point), problem.targets)

        return line_search(
            best, problem.z0, wrong_margin, ruler.length, problem.region, self.search
        )

    def _step(
        self,
        z: Tensor,
        x: Tensor,
        value: Tensor,
        normal: Tensor,
        region: Region,
        ruler: _Ruler,
    ) -> Tensor:
        """A step from ``z`` onto the hyperplane, biased towards the projection of ``x``."""
        offset = (normal * (z - x)).flatten(1).sum(1)
        # Both steps in one call: the hyperplane is the same, the points differ.
        steps = crossing(
            torch.cat([z, x]),
            torch.cat([normal, normal]),
            torch.cat([-value, offset - value]),
            region,
            ruler.order,
            _repeated(ruler.unit, x),
        )
        step_from_z, step_from_x = steps.chunk(2)
        lengths = torch.stack([ruler.length(step_from_z), ruler.length(step_from_x)]).clamp_min(
            1e-8
        )
        alpha = column((lengths[0] / lengths.sum(0)).clamp_max(self.alpha_max), z)
        # Differences are taken first, so that a feature that did not move stays exactly the same.
        towards_x = (x - z) + self.eta * (step_from_x - step_from_z)
        return clip(z + self.eta * step_from_z + alpha * towards_x, region)

    def with_eps(self, scale: float) -> FAB:
        """The same attack with ``eps`` multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))


def _plane(problem: Problem, ruler: _Ruler, target: Tensor | None, classes: int) -> Plane:
    """The boundary to the target class; without one, the nearest of all boundaries."""
    if target is None:
        return _boundary.nearest(problem, classes, ruler.dual)
    return _boundary.towards(problem, target)


def _repeated(unit: float | Tensor, z: Tensor) -> float | Tensor:
    """``unit`` for a batch that is concatenated with itself."""
    if isinstance(unit, Tensor) and unit.ndim == z.ndim and len(unit) == len(z):
        return torch.cat([unit, unit])
    return unit
