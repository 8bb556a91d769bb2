"""FMN: a gradient step and a ball that grows until it holds a mistake, then shrinks (2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks, modes
from artplus.attacks import _l1_ball
from artplus.attacks._base import Budget, Inner, check_budget, column, look, resolve, scaled
from artplus.attacks._nearest import Nearest
from artplus.errors import ConfigurationError
from artplus.functional import margin
from artplus.geometry import clip, geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace

_DUAL = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}


@dataclass(frozen=True, kw_only=True)
class FMN:
    r"""Fast minimum-norm attack: the smallest perturbation that is a mistake [Pintor21]_.

    With :math:`L` the logit of the true class less the largest other one, every step descends it
    and projects on a ball of the radius :math:`\epsilon_k` of that step,

    .. math:: \delta_{k+1} &= \Pi_{\epsilon_k}(\delta_k - \alpha_k \, g / \|g\|_2), \quad
              g = \nabla_\delta L(x + \delta_k) \\
              \epsilon_k &= \begin{cases}
                \min((1 - \gamma_k)\,\epsilon_{k-1}, \|\delta^*\|) & \text{at a mistake} \\
                (1 + \gamma_k)\,\epsilon_{k-1} & \text{if there was one before} \\
                \|\delta_k\|_p + L / \|g\|_q & \text{else: where a linear model would err}
              \end{cases}

    where :math:`\alpha_k` and :math:`\gamma_k` fall along half a cosine. One forward and backward
    pass a step, whatever the number of classes: cheaper than FAB, and as near in L2.

    The attack needs no radius. As an :class:`~artplus.attacks.Attack` it has one: a mistake that is
    farther away is pulled back to the ball. :meth:`minimum` gives the nearest mistake wherever it
    is.

    Differs from the paper: (1) the first step length is ``step_size`` times the range of valid
    inputs, which is the paper's in its box [0, 1]; (2) L0 is left out; (3) the box is that of
    ``space``, or none, and a mask is kept; (4) the first radius of a mistake is taken a share
    :math:`\gamma_k` larger, since on the boundary of a nearly linear model none is met.

    Args:
        eps: Radius, in the units of ``x``: a number, one per example, or :class:`Relative`.
        norm: ``numpy.inf``, 2 or 1: what is made small.
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
        """True: it follows the margin and takes no inner loss."""
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
        """Craft; see :class:`artplus.attacks.Attack`. Nothing is drawn at random."""
        if inner is not None:
            raise ConfigurationError(
                "FMN follows the margin between classes and climbs no other loss; use it to "
                "evaluate, or with an objective that trains on the model's own loss"
            )
        x, ball = x.detach(), geometry(self.norm)
        eps = resolve(self.eps, x, ball)
        if isinstance(eps, Tensor) and eps.numel() > 1 and eps[0].numel() > 1:
            raise ConfigurationError("FMN needs a radius that is the same for every feature")
        found, _ = self.minimum(model, x, y, space=space, start=start, generator=generator)
        return ball.retraction(x, eps, space.on(x))(found)

    def minimum(
        self,
        model: LossModel,
        x: Tensor,
        y: Tensor,
        *,
        space: InputSpace = InputSpace(),
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""The nearest mistake found for each example, however far.

        Returns:
            ``x_adv``, shaped like ``x``, and its distance ``(batch,)`` in ``norm``: zero where
            ``x`` is misclassified already, infinite (and ``x_adv`` no mistake) where none was
            found.
        """
        if not model.criterion.over_classes:
            raise ConfigurationError("FMN needs class logits; this model's loss has no classes")
        x, ball = x.detach(), geometry(self.norm)
        dual = geometry(_DUAL[ball.order])
        unit, space = space.width() or 1.0, space.on(x)
        z = x if start is None else x + space.restrict(clip(start.detach(), space) - x)
        radius = torch.full_like(x.flatten(1)[:, 0], math.inf)
        found = Nearest(z, radius)
        with modes.attack_mode(model.module):
            for k in range(self.steps):
                share = (1 + math.cos(math.pi * k / self.steps)) / 2
                gamma = 0.001 + (self.gamma - 0.001) * share
                alpha = self.step_size * unit * (0.01 + 0.99 * share)
                value, wrong, slope = look(lambda point: _judged(model, point, y), z)
                slope = space.restrict(slope)
                length = ball.length(z - x)
                found = found.better(Nearest(z, length.where(wrong, math.inf)))
                # A little beyond: on the boundary itself rounding may keep the model right.
                reach = (length - value / dual.length(slope).clamp_min(1e-12)) * (1 + gamma)
                grown = torch.where(found.distance.isinf(), reach, radius * (1 + gamma))
                shrunk = torch.minimum(radius * (1 - gamma), found.distance)
                radius = torch.where(wrong, shrunk, grown)
                step = geometry(2).steepest(slope)
                z = self._onto(z + alpha * step, x, radius, space)
            # The point after the last step has not been looked at yet.
            with torch.no_grad():
                wrong = model.wrong(model(z), y)
        found = found.better(Nearest(z, ball.length(z - x).where(wrong, math.inf)))
        return found.x_adv, found.distance

    def _onto(self, z: Tensor, x: Tensor, radius: Tensor, space: InputSpace) -> Tensor:
        """The Euclidean projection on the ball of each example's radius, and the box."""
        eps = column(radius.clamp(0, 1e30), x)
        if geometry(self.norm).order == 1:
            return _l1_ball.projection(x, eps, space)(z)
        return geometry(self.norm).retraction(x, eps, space)(z)

    def with_eps(self, scale: float) -> FMN:
        """The same attack with ``eps`` multiplied by ``scale``."""
        return replace(self, eps=scaled(self.eps, scale))


def _judged(model: LossModel, point: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The margin, positive on mistakes, and which are mistakes."""
    logits = model(point)
    return margin(logits, y), model.wrong(logits, y)
