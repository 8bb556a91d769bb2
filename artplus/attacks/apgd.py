"""Auto-PGD: momentum ascent that adapts its step length (Croce and Hein, 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import _sparse
from artplus.attacks._ascent import RunSettings, ascend
from artplus.attacks._base import Budget, check_budget, scaled, take
from artplus.attacks._best import Best
from artplus.attacks._call import BaseAttack
from artplus.attacks._goal import LossName, check_loss, likeliest_targets, with_loss
from artplus.attacks._problem import Problem
from artplus.errors import ConfigurationError
from artplus.geometry import geometry


@dataclass(frozen=True, kw_only=True)
class APGD(BaseAttack):
    r"""PGD with momentum whose step halves where the loss stopped rising [Croce20]_.

    .. math:: z &= \Pi(x_k + \eta \, \arg\max_{\|d\| \le 1} \langle d, \nabla L \rangle) \\
              x_{k+1} &= \Pi(x_k + \alpha (z - x_k) + (1 - \alpha)(x_k - x_{k-1}))

    At the checkpoints (22, 41, 57, ... percent of the steps) an example's step length is halved and
    it returns to its best point if (1) at most ``rho`` of the steps since the last checkpoint
    raised its loss or (2) neither its step length nor its best loss changed since. The result is,
    per example, the misclassified point of largest loss if there was one, else the point of largest
    loss.

    Differs from the authors' code: (1) the start is uniform in the ball, as in ART, not on its
    surface (in L1 see below); (2) the box is applied before the ball, as in ART, which in L2 wastes
    less of the radius; (3) the checkpoints are the paper's, rounded up; (4) with ``draws`` the loss
    is averaged too and an example is fooled if most draws are misclassified, where theirs takes
    both from the last draw. Later restarts and targets run only on examples that are still robust.

    In L1 it is the sparse variant with decreasing radii [Croce21]_. A run starts from Gaussian
    noise at ``x``, as wide as the range of valid values (where there is none, as ``eps``),
    projected on the ball of ``3 * eps`` and the box. It spends 30 % of the steps in that ball, 30 %
    in that of ``2 * eps`` and the rest in the ball itself, each from the best point of the one
    before. A step is split equally among the features of largest gradient: a fifth of all features
    at first, then two thirds of the number that the best point changes. It is followed by the exact
    projection on ball and box. Every 4 % of a ball's steps, an example whose best point became
    sparser by 5 % returns to that point with the first step length; elsewhere the step is divided
    by 1.5, to no less than a tenth of the first. There is no momentum. Differs from the authors'
    code: (1) the first steps change a fifth of all features, as in the paper, where theirs change
    two thirds of the number that the start changes; (2) the number of features is rounded down.

    Args:
        eps: Radius, in the units of ``x``: a number, an array per feature (L∞), or
            :class:`Relative`.
        norm: ``numpy.inf``, 2 or 1.
        steps: Number of gradient steps, 100 in the paper.
        restarts: Independent runs from random starts (per target with ``"targeted_dlr"``).
        loss: The loss to maximise: ``"ce"``, ``"dlr"`` (at least 3 classes), ``"margin"``,
            ``"targeted_dlr"`` (APGD-T; with 3 classes cross-entropy to the target, since the
            ratio needs 4), or ``None``: the inner loss if one is given, else the model's own.
        targets: Number of wrong classes to try with ``"targeted_dlr"``, the likeliest first; at
            most the number of classes less one.
        step_size: First step length; default ``2 * eps``, in L1 ``eps``, as in the papers.
        rho: Share of steps that must raise the loss, 0.75 in the paper; unused in L1.
        momentum: :math:`\alpha`, the weight of the new step, 0.75 in the paper; unused in L1.
        draws: Passes that each gradient is averaged over, for models that are random in evaluation
            mode (expectation over transformation [Athalye18]_); 20 in AutoAttack's ``rand``.
        until_fooled: Examples leave the batch within 8 steps of being fooled. The same examples are
            fooled (up to the rounding of smaller batches) in less time, but the result is the first
            mistake, not the one of largest loss. It is for ensembles, which only count mistakes.
            With an inner loss no example counts as fooled, so none leaves.
        random_start: Start at a random point instead of at ``x``.
        targeted: ``y`` holds targets, and the loss towards them is minimised.

    Raises:
        ConfigurationError: at construction for values that cannot work; at the call for a loss
            that does not suit the model (too few classes, no loss per example) or if an inner
            loss is given beside ``loss``.

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> model = LossModel(torch.nn.Linear(4, 5))
        >>> x, y = torch.rand(3, 4), torch.tensor([0, 2, 4])
        >>> x_adv = APGD(eps=0.1, steps=10, loss="targeted_dlr")(model, x, y)
        >>> bool((x_adv - x).abs().max() <= 0.1 + 1e-6)
        True

    References:
        .. [Athalye18] Athalye et al., "Synthesizing robust adversarial examples", ICML 2018,
           https://arxiv.org/abs/1707.07397
        .. [Croce20] Croce and Hein, "Reliable evaluation of adversarial robustness with an
           ensemble of diverse parameter-free attacks", ICML 2020,
           https://arxiv.org/abs/2003.01690
        .. [Croce21] Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
           classifiers", ICML 2021, https://arxiv.org/abs/2103.01208
    """

    eps: Budget
    norm: float = torch.inf
    steps: int = 100
    restarts: int = 1
    loss: LossName | None = None
    targets: int = 9
    step_size: Budget | None = None
    rho: float = 0.75
    momentum: float = 0.75
    draws: int = 1
    until_fooled: bool = False
    random_start: bool = True
    targeted: bool = False

    def __post_init__(self) -> None:
        check_budget(self.eps, self.norm)
        _checks.count("steps", self.steps)
        _checks.count("restarts", self.restarts)
        _checks.count("targets", self.targets)
        _checks.count("draws", self.draws)
        _checks.flag("random_start", self.random_start)
        _checks.flag("until_fooled", self.until_fooled)
        _checks.fraction("rho", self.rho)
        if not 0 < _checks.nonnegative("momentum", self.momentum) <= 1:
            raise ConfigurationError(f"momentum must lie in (0, 1], got {self.momentum!r}")
        if geometry(self.norm).order == 1 and (self.rho, self.momentum) != (0.75, 0.75):
            raise ConfigurationError(
                "rho and momentum have no meaning in L1 (steps follow sparsity); leave them out"
            )
        _checks.flag("targeted", self.targeted)
        check_loss(self.loss, targeted=self.targeted)
        if self.step_size is not None:
            check_budget(self.step_size, self.norm)
        if self.restarts > 1 and not self.random_start:
            raise ConfigurationError(
                f"restarts={self.restarts} without random_start would repeat the same run"
            )

    @property
    def climbs_own(self) -> bool:
        """Whether ``loss`` is set, so that the attack accepts no inner loss."""
        return self.loss is not None

    def run(self, problem: Problem) -> Tensor:
        """The best of all runs; later runs are on the examples that are still robust."""
        order = problem.ball.order
        default_step = problem.eps if order == 1 else 2 * problem.eps
        step = default_step if self.step_size is None else problem.resolve(self.step_size)
        settings = RunSettings(self.steps, self.rho, self.momentum, self.draws, self.until_fooled)
        run = _sparse.ascend if order == 1 else ascend
        best: Best | None = None
        for target, first in self._runs(problem):
            part = with_loss(problem, self.loss, target)
            if best is None:
                best = run(part, step, self._first(part, first), settings)
                continue
            rows = best.robust()
            if len(rows):
                part = part.take(rows)
                length = take(step, rows, problem.z0)
                best = best.merged(run(part, length, self._first(part, first), settings), rows)
        assert best is not None  # there is at least one run
        return best.z

    def _first(self, problem: Problem, start: Tensor | None) -> Tensor:
        if start is not None:
            return start
        if not self.random_start:
            return problem.z0
        return _sparse.random_start(problem) if problem.ball.order == 1 else problem.random_point()

    def _runs(self, problem: Problem) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """Target classes ``(batch,)`` and start of every run; a user's start is for the first."""
        target_classes: list[Tensor | None] = [None]
        if self.loss == "targeted_dlr":
            target_classes = list(likeliest_targets(problem, self.targets))
        first = problem.start
        for target in target_classes:
            for _ in range(self.restarts):
                yield target, first
                first = None

    def with_eps(self, scale: float) -> APGD:
        """The same attack with ``eps`` and ``step_size`` multiplied by ``scale``."""
        step_size = None if self.step_size is None else scaled(self.step_size, scale)
        return replace(self, eps=scaled(self.eps, scale), step_size=step_size)
