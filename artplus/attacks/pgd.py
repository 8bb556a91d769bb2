"""Projected gradient ascent (Madry et al., 2018); FGM, BIM and MIM are special cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import _patience
from artplus.attacks._base import Budget, check_budget, column, scaled
from artplus.attacks._best import evaluated
from artplus.attacks._call import BaseAttack
from artplus.attacks._problem import Problem
from artplus.errors import ConfigurationError
from artplus.geometry import Eps, Geometry, moved


@dataclass(frozen=True, kw_only=True)
class PGD(BaseAttack):
    r"""Steepest ascent on the inner loss inside a norm ball [Madry18]_.

    .. math:: x' \leftarrow \Pi_{B_p(x, \epsilon) \cap [l, h]}
              \bigl( x' + \alpha \, \arg\max_{\|d\|_p \le 1} \langle d, \nabla_{x'} L \rangle \bigr)

    With ``decay`` the gradient is replaced by the momentum
    :math:`m \leftarrow \mu m + g / \|g\|_1` [Dong18]_. The iteration is ART's, and the
    tests compare the two: first the box, then the ball; in L1 one feature per step and rescaling
    into the ball. It differs from ART in what restarts keep (see ``restarts``) and in computing no
    parameter gradients.

    Args:
        eps: Radius, in the units of ``x``: a number, an array per feature (L∞), or
            :class:`Relative`.
        norm: ``numpy.inf``, 2 or 1.
        step_size: Length of a step in the same norm; default ``2.5 * eps / steps`` [Madry18]_.
        steps: Number of gradient steps.
        random_start: Start at a uniformly random point of the ball instead of at ``x``.
        restarts: Independent runs with ``random_start``. The best is kept per example:
            misclassified points first, then by inner loss. (ART keeps the last restart that changed
            the prediction.)
        decay: Momentum factor :math:`\mu` of MIM, 1.0 in the paper; ``None`` means no momentum.
        patience: Number of steps that an example still takes while misclassified, before it leaves
            the batch, which saves its remaining passes: the :math:`\tau` of friendly adversarial
            training [Zhang20]_. 0 suffices to count mistakes. ``None`` takes all steps. A step
            counts if the example is misclassified before it, as in the authors' code.
            Classification only.
        targeted: ``y`` holds targets, and the loss towards them is minimised.

    Raises:
        ConfigurationError: at construction, for values that cannot work.

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> model = LossModel(torch.nn.Linear(4, 3))
        >>> x, y = torch.rand(2, 4), torch.tensor([0, 2])
        >>> x_adv = PGD(eps=0.1, steps=5)(model, x, y)
        >>> bool((x_adv - x).abs().max() <= 0.1 + 1e-6)
        True

    References:
        .. [Madry18] Madry et al., "Towards deep learning models resistant to adversarial
           attacks", ICLR 2018, https://arxiv.org/abs/1706.06083
        .. [Dong18] Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018,
           https://arxiv.org/abs/1710.06081
        .. [Zhang20] Zhang et al., "Attacks which do not kill training make adversarial learning
           stronger", ICML 2020, https://arxiv.org/abs/2002.11242
    """

    eps: Budget
    norm: float = torch.inf
    step_size: Budget | None = None
    steps: int = 10
    random_start: bool = True
    restarts: int = 1
    decay: float | None = None
    patience: int | None = None
    targeted: bool = False

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        if self.patience is not None:
            _checks.count("patience", self.patience, least=0)
        _checks.count("steps", self.steps)
        _checks.count("restarts", self.restarts)
        _checks.flag("random_start", self.random_start)
        _checks.flag("targeted", self.targeted)
        if self.step_size is not None:
            check_budget(self.step_size, self.norm)
        if self.decay is not None:
            _checks.nonnegative("decay", self.decay)
        if self.restarts > 1 and not self.random_start:
            raise ConfigurationError(
                f"restarts={self.restarts} without random_start would repeat the same run"
            )

    def run(self, problem: Problem) -> Tensor:
        """The last iterate; with restarts the best of the last iterates."""
        step_size = (
            problem.resolve(self.step_size)
            if self.step_size is not None
            else (2.5 * problem.eps / self.steps)
        )
        ascend = partial(self._ascend, problem, step_size)
        if self.patience is not None:
            ascend = partial(
                _patience.ascend,
                problem,
                step_size,
                direction=partial(self._direction, problem.ball),
                steps=self.steps,
                patience=self.patience,
            )
        z = ascend(self._first(problem) if problem.start is None else problem.start)
        if self.restarts == 1:
            return z
        best = evaluated(problem, z)
        for _ in range(self.restarts - 1):
            best = best.better(evaluated(problem, ascend(self._first(problem))))
        return best.z

    def _first(self, problem: Problem) -> Tensor:
        return problem.random_point() if self.random_start else problem.z0

    def _ascend(self, problem: Problem, step_size: Eps, z: Tensor) -> Tensor:
        retract, momentum = problem.retraction(), None
        with torch.no_grad():
            for _ in range(self.steps):
                _, slope = problem.value_and_grad(z)
                step, momentum = self._direction(
                    problem.ball, problem.region.restrict(slope), momentum
                )
                z = retract(moved(z, step, step_size))
        return z

    def _direction(
        self, ball: Geometry, slope: Tensor, momentum: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Unit step along the gradient, or along the updated momentum."""
        if self.decay is None:
            return ball.steepest(slope), None
        size = slope.flatten(1).abs().sum(1).clamp_min(torch.finfo(slope.dtype).tiny)
        slope = slope / column(size, slope)
        momentum = slope if momentum is None else self.decay * momentum + slope
        return ball.steepest(momentum), momentum

    def with_eps(self, scale: float) -> PGD:
        """The same attack with ``eps`` and ``step_size`` multiplied by ``scale``."""
        step_size = None if self.step_size is None else scaled(self.step_size, scale)
        return replace(self, eps=scaled(self.eps, scale), step_size=step_size)
