"""Attack with few steps first and all of them later: early weights need no strong attack."""

from __future__ import annotations

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.training.callbacks._attack_schedule import AttackSchedule
from artplus.training.state import State


class StepsRamp(AttackSchedule):
    r"""Raise the number of attack steps from ``first`` to the attack's own, evenly [Cai18]_.

    .. math:: K_t = \min\bigl(K, \; k + \lfloor (K - k + 1) \, t / T \rfloor\bigr)

    so that every number of steps is used for an equal part of the ramp. An attack without a
    ``step_size`` takes longer steps while they are fewer, so it reaches equally far. A ramp from
    one step over the whole training halves the attack's cost.

    Differs from the paper, which raises K when accuracy under the present number is high: here
    only time counts, as in later recipes.

    Args:
        first: k, steps to begin with.
        epochs: Length T of the ramp, in epochs (a fraction is fine).
        fraction: Length as a fraction of the planned training instead; all of it by default.

    Raises:
        ConfigurationError: in training, for an attack without ``steps``, or with fewer than
            ``first``.

    Example:
        >>> import torch, artplus
        >>> from artplus.training.callbacks import StepsRamp
        >>> model = torch.nn.Linear(4, 3)
        >>> data = torch.rand(16, 4), torch.randint(3, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = artplus.fit(model, data, optimizer, eps=0.04, epochs=3, progress=False,
        ...                       callbacks=[StepsRamp(2, epochs=1.5)])
        >>> [row["attack_steps"] for row in history]
        [2, 8, 10]

    References:
        .. [Cai18] Cai, Liu and Song, "Curriculum adversarial training", IJCAI 2018,
           https://arxiv.org/abs/1805.04807
    """

    setting = "steps"

    def __init__(
        self, first: int = 1, *, epochs: float | None = None, fraction: float | None = None
    ) -> None:
        super().__init__()
        self.first = _checks.count("first", first)
        if epochs is not None and fraction is not None:
            raise ConfigurationError("give StepsRamp either epochs= or fraction=")
        self.epochs = None if epochs is None else _checks.positive("epochs", epochs)
        share = 1.0 if fraction is None and epochs is None else fraction
        self.fraction = None if share is None else _checks.positive("fraction", share)

    def value(self, initial: int, state: State) -> int:
        """The number of steps at this step of training."""
        length = self.fraction if self.epochs is None else self.epochs / state.epochs
        done = min(1.0, state.progress / (length or 1.0))
        return min(initial, self.first + int((initial - self.first + 1) * done))

    def check(self, initial: int) -> None:
        """Refuse an attack with fewer than ``first`` steps."""
        if initial < self.first:
            raise ConfigurationError(
                f"StepsRamp begins with {self.first} steps, but the attack takes {initial} only"
            )
