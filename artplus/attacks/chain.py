"""Two attacks in a row: the second starts where the first ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks._base import Attack, Budget, Relative, check_part
from artplus.attacks._call import BaseAttack, run_attack
from artplus.attacks._problem import Problem
from artplus.errors import ConfigurationError


@dataclass(frozen=True)
class Chain(BaseAttack):
    r"""Run ``first``, then ``then`` from where it ended, on the examples that it did not fool.

    .. math:: x' = A_2(x; \text{start} = A_1(x))

    If a model masks its gradients around ``x``, a gradient attack from ``x`` or from a random point
    near it makes no progress. A few hundred queries of :class:`~artplus.attacks.Square`, which
    needs no gradient, leave that region. They rarely fool the model by themselves, but a gradient
    attack from where they end makes progress.

    Args:
        first: Finds the start. Examples that it fools are left as they are.
        then: Starts there, with the same ball.
        restarts: Runs of both; later ones are on examples not fooled yet. Restarts have an effect
            only if ``first`` is random.

    Raises:
        ConfigurationError: at construction, if the two have different balls or only one is
            targeted; at the call for restarts without classes.

    Example:
        >>> import torch
        >>> from artplus.attacks import APGD, Square
        >>> from artplus.model import LossModel
        >>> model = LossModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))
        >>> x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
        >>> attack = Chain(Square(eps=0.1, queries=20), APGD(eps=0.1, steps=5, loss="margin"))
        >>> bool((attack(model, x, y) - x).abs().max() <= 0.1 + 1e-6)
        True
    """

    first: Attack
    then: Attack
    restarts: int = 1

    def __post_init__(self) -> None:
        _checks.count("restarts", self.restarts)
        for attack in (self.first, self.then):
            check_part(self, attack)
        if self.first.norm != self.then.norm or not _equal(self.first.eps, self.then.eps):
            raise ConfigurationError(
                "both attacks of a Chain need the same eps and norm, or the second would start "
                f"outside its ball; got eps={self.first.eps!r} in norm {self.first.norm} and "
                f"eps={self.then.eps!r} in norm {self.then.norm}"
            )
        if self.targeted != bool(getattr(self.first, "targeted", False)):
            raise ConfigurationError(
                "one attack of this Chain is targeted and the other is not: y cannot be both "
                "targets and true labels"
            )

    @property
    def eps(self) -> Budget:
        """Radius of both attacks."""
        return self.then.eps

    @property
    def norm(self) -> float:
        """Norm of both attacks."""
        return self.then.norm

    @property
    def targeted(self) -> bool:
        """Whether both take targets for ``y``."""
        return bool(getattr(self.then, "targeted", False))

    @property
    def climbs_own(self) -> bool:
        """Whether either has a loss of its own, so that the chain accepts no inner loss."""
        return any(bool(getattr(a, "climbs_own", False)) for a in (self.first, self.then))

    @property
    def random_start(self) -> bool:
        """Whether the first attack starts at a random point, so that no start noise is needed."""
        return bool(getattr(self.first, "random_start", True))

    def run(self, problem: Problem) -> Tensor:
        """Both attacks; restarts are on the examples not fooled yet."""
        if self.restarts > 1 and not problem.over_classes:
            raise ConfigurationError(
                f"restarts={self.restarts} run again on examples not fooled yet, but this model's "
                "loss has no classes and so no mistakes; use restarts=1"
            )
        every = torch.arange(len(problem), device=problem.z0.device)
        # An array of radii fits the whole batch only, so the attacks get the whole batch.
        eps_per_example = isinstance(self.eps, (np.ndarray, Tensor))

        def run(attack: Attack, z: Tensor, rows: Tensor, start_z: Tensor | None) -> Tensor:
            part = problem if eps_per_example or len(rows) == len(z) else problem.take(rows)
            start = None if start_z is None else start_z if part is problem else start_z[rows]
            best = run_attack(attack, part, start)
            return z.index_copy(0, rows, best[rows] if eps_per_example else best)

        def robust(z: Tensor) -> Tensor:
            if not problem.over_classes:
                return every
            with torch.no_grad():
                return (~problem.fooled(problem.predict(z))).nonzero().squeeze(1)

        z, rows = problem.z0, every
        for repeat in range(self.restarts):
            if repeat:
                rows = robust(z)
            if len(rows):
                z = run(self.first, z, rows, None if repeat else problem.start)
                rows = robust(z)
            if not len(rows):
                break
            z = run(self.then, z, rows, z)
        return z

    def with_eps(self, scale: float) -> Chain:
        """The same chain with radius and step length of both attacks multiplied by ``scale``."""
        return Chain(self.first.with_eps(scale), self.then.with_eps(scale), self.restarts)


def _equal(eps: Budget, other: Budget) -> bool:
    if isinstance(eps, Relative) or isinstance(other, Relative):
        return bool(eps == other)
    return np.array_equal(torch.as_tensor(eps).cpu().numpy(), torch.as_tensor(other).cpu().numpy())
