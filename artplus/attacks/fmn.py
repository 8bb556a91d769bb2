"""FMN: gradient steps in a ball that grows until a mistake is found, then shrinks (2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import _l1_ball
from artplus.attacks._base import Budget, check_budget, column, scaled
from artplus.attacks._call import BaseAttack, as_problem
from artplus.attacks._goal import LogitLoss
from artplus.attacks._nearest import DUAL, Nearest
from artplus.attacks._problem import Problem
from artplus.errors import ConfigurationError
from artplus.geometry import clip, geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace, Region, Space
from artplus.tree import Tree


@dataclass(frozen=True, kw_only=True)
class FMN(BaseAttack):
    r"""Fast minimum-norm attack: the smallest perturbation that is a mistake [Pintor21]_.

    Let :math:`L` be the logit of the true class less the largest other logit. Every step descends
    :math:`L` and projects on a ball of radius :math:`\epsilon_k`,

    .. math:: \delta_{k+1} &= \Pi_{\epsilon_k}(\delta_k - \alpha_k \, g / \|g\|_2), \quad
              g = \nabla_\delta L(x + \delta_k) \\
              \epsilon_k &= \begin{cases}
                \min((1 - \gamma_k)\,\epsilon_{k-1}, \|\delta^*\|) & \text{at a mistake} \\
                (1 + \gamma_k)\,\epsilon_{k-1} & \text{if there was one before} \\
                \|\delta_k\|_p + L / \|g\|_q & \text{else: where a linear model would err}
              \end{cases}

    where :math:`\alpha_k` and :math:`\gamma_k` fall along half a cosine. A step takes one forward
    and one backward pass for any number of classes: cheaper than FAB, and as near in L2.

    The minimum-norm attack needs no radius. As an :class:`~artplus.attacks.Attack` it has one:
    mistakes that are farther away are projected into the ball. :meth:`minimum` returns the nearest
    mistake at any distance.

    Differs from the paper: (1) the first step length is ``step_size`` times the range of valid
    inputs, which is the paper's in its box [0, 1]; (2) L0 is left out; (3) the box is that of
    ``space``, or none, and a mask is kept; (4) the radius where a linear model
    would err is increased by the share :math:`\gamma_k`, since a point exactly on the boundary of a
    nearly linear model may not be a mistake.

    Args:
        eps: Radius, in the units of ``x``: a number, one per example, or :class:`Relative`.
        norm: ``numpy.inf``, 2 or 1: the norm to minimise.
        steps: Number of gradient steps, 100 to 1000 in the paper.
        step_size: First step length :math:`\alpha_0`, in L2, as a share of the range of valid
            inputs (of 1 without one), 1 in the paper; it falls to a hundredth.
        gamma: First relative change of the radius, 0.05 in the paper; it falls to 0.001.

    Raises:
        ConfigurationError: at construction for values that cannot work; at the call for a model
            without class logits, for an inner loss (this attack climbs none), or a radius per
            feature.

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> linear = torch.nn.Linear(4, 2)
        >>> x = torch.rand(3, 4)
        >>> y = linear(x).argmax(1)
        >>> x_adv, distance = FMN(eps=0.1, norm=2).minimum(LossModel(linear), x, y)
        >>> w, gap = linear.weight[1] - linear.weight[0], linear(x).diff(dim=1).squeeze(1)
        >>> bool(torch.allclose(distance, gap.abs() / w.norm(), rtol=2e-2, atol=1e-3))
        True

    References:
        .. [Pintor21] Pintor, Roli, Brendel and Biggio, "Fast minimum-norm adversarial attacks
           through adaptive norm constraints", NeurIPS 2021, https://arxiv.org/abs/2102.12827
    """

    eps: Budget
    norm: float = torch.inf
    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        _checks.count("steps", self.steps)
        _checks.positive("step_size", self.step_size)
        if _checks.fraction("gamma", self.gamma) < 0.001:
            raise ConfigurationError(f"gamma must lie in [0.001, 1), got {self.gamma!r}")

    @property
    def climbs_own(self) -> bool:
        """True: it follows the margin and accepts no inner loss."""
        return True

    def run(self, problem: Problem) -> Tensor:
        """The nearest mistakes, projected into the ball; deterministic."""
        if problem.inner is not None:
            raise ConfigurationError(
                "FMN follows the margin between classes and climbs no other loss; use it to "
                "evaluate, or with an objective that trains on the model's own loss"
            )
        eps = problem.eps
        if isinstance(eps, Tensor) and eps.numel() > 1 and eps[0].numel() > 1:
            raise ConfigurationError("FMN needs a radius that is the same for every feature")
        return problem.retraction()(self._nearest(problem).z)

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
        r"""The nearest mistake of each example, at any distance.

        Returns:
            ``x_adv``, shaped like ``x``, and its distance ``(batch,)`` in ``norm``: zero where
            ``x`` is misclassified already, infinite (and ``x_adv`` no mistake) where none was
            found.
        """
        with as_problem(
            self, model, x, y, space=space, start=start, generator=generator
        ) as problem:
            best = self._nearest(problem)
        return space.insert(x, best.z), best.distance

    def _nearest(self, problem: Problem) -> Nearest:
        problem.require_classes("FMN")
        problem.require_whole_examples("FMN")
        problem = problem.climbing(LogitLoss("margin"))
        z0, ball, region = problem.z0, problem.ball, problem.region
        dual, unit = geometry(DUAL[ball.order]), region.width() or 1.0
        z = z0
        if problem.start is not None:
            z = z0 + region.restrict(clip(problem.start, region) - z0)
        radius = torch.full_like(z0.flatten(1)[:, 0], math.inf)
        best = Nearest(z, radius)
        for k in range(self.steps):
            share = (1 + math.cos(math.pi * k / self.steps)) / 2
            gamma = 0.001 + (self.gamma - 0.001) * share
            alpha = self.step_size * unit * (0.01 + 0.99 * share)
            value, wrong, slope = problem.look(z)
            slope = region.restrict(slope)
            length = ball.length(z - z0)
            best = best.better(Nearest(z, length.where(wrong, math.inf)))
            # Slightly larger: exactly on the boundary, rounding may keep the prediction right.
            linear_radius = (length - value / dual.length(slope).clamp_min(1e-12)) * (1 + gamma)
            grown = torch.where(best.distance.isinf(), linear_radius, radius * (1 + gamma))
            shrunk = torch.minimum(radius * (1 - gamma), best.distance)
            radius = torch.where(wrong, shrunk, grown)
            step = geometry(2).steepest(slope)
            z = self._project(z + alpha * step, z0, radius, region)
        # The point after the last step has not been evaluated yet.
        with torch.no_grad():
            wrong = problem.fooled(problem.predict(z))
        return best.better(Nearest(z, ball.length(z - z0).where(wrong, math.inf)))

    def _project(self, z: Tensor, z0: Tensor, radius: Tensor, region: Region) -> Tensor:
        """The Euclidean projection on the ball of each example's radius, and the box."""
        eps = column(radius.clamp(0, 1e30), z0)
        if geometry(self.norm).order == 1:
            return _l1_ball.projection(z0, eps, region)(z)
        return geometry(self.norm).retraction(z0, eps, region)(z)

    def with_eps(self, scale: float) -> FMN:
        """The same attack with ``eps`` multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))
