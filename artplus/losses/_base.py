r"""What an objective is: a fixed term, a term that λ multiplies, and what the attack climbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.registry import Registry

Weight = float | Callable[[float], float]
"""λ: a number, or a schedule from the fraction of training done (0 to 1) to a number."""

Climb = Callable[[Tensor], Tensor]
Inner = Callable[[LossModel, Tensor, Tensor], Climb]


@dataclass(frozen=True)
class Terms:
    r"""The two sides of :math:`L = L_\text{fixed} + \lambda \, L_\text{scaled}`, unreduced.

    Attributes:
        scaled: ``(batch,)``, what λ multiplies.
        fixed: ``(batch,)``, of weight one; ``None`` where an objective has no such term.
        clean: Predictions for ``x``, if they were computed; for live figures only.
        adversarial: Predictions for ``x_adv``, likewise.
    """

    scaled: Tensor
    fixed: Tensor | None = None
    clean: Tensor | None = None
    adversarial: Tensor | None = None

    def __post_init__(self) -> None:
        for term in (self.scaled, self.fixed):
            if term is not None and (term.ndim != 1 or term.shape != self.scaled.shape):
                raise ConfigurationError(
                    f"an objective's terms must be (batch,), one value per example, got "
                    f"{tuple(term.shape)} beside {tuple(self.scaled.shape)}. Was a loss averaged "
                    "over the batch, or left per class or per pixel?"
                )

    def total(self, lam: float) -> Tensor:
        """``fixed + lam * scaled``, ``(batch,)``; at ``lam=0`` the fixed term alone."""
        if lam == 0 and self.fixed is not None:
            return self.fixed  # not 0 * scaled: a gradient that overflows there stays out
        scaled = self.scaled if lam == 1 else lam * self.scaled
        return scaled if self.fixed is None else self.fixed + scaled


class TermsFunction(Protocol):
    """``(model, x, x_adv, y) -> Terms``."""

    def __call__(self, model: LossModel, x: Tensor, x_adv: Tensor, y: Tensor) -> Terms: ...


@dataclass(frozen=True)
class Objective:
    r"""What training minimises and what its attack maximises.

    Attributes:
        name: For messages and reports.
        terms: What the weights descend; see :class:`Terms`.
        lam: λ, a number or a schedule of the fraction of training done.
        inner: What the attack climbs; ``None`` is the model's own loss.
        attacked: False if no adversarial example is needed.
        over_classes: True if predictions must be class logits.
        start_noise: Standard deviation of the noise added to an attack's start at ``x`` itself,
            for inner losses whose gradient is zero there (TRADES' code uses 0.001).
        second_order: True if the terms contain gradients, so that their own are second derivatives.
    """

    name: str
    terms: TermsFunction
    lam: Weight = 1.0
    inner: Inner | None = None
    attacked: bool = True
    over_classes: bool = False
    start_noise: float = 0.0
    second_order: bool = False

    def __post_init__(self) -> None:
        if not callable(self.lam):
            _checks.nonnegative("lam", self.lam)

    def weight(self, progress: float) -> float:
        """λ after the fraction ``progress`` of training."""
        if not callable(self.lam):
            return float(self.lam)
        where = f"the lam schedule at progress {progress:.3f}"
        return _checks.nonnegative(where, self.lam(progress))

    def with_lam(self, lam: Weight | None) -> Objective:
        """The same objective with another λ; ``None`` keeps the present one."""
        return self if lam is None else replace(self, lam=lam)


losses: Registry[Objective] = Registry("loss", "artplus.losses")


def register_loss(name: str) -> Callable[[Callable[..., Objective]], Callable[..., Objective]]:
    """Register a factory ``(*, lam=..., ...) -> Objective`` under ``name``.

    The name then works as ``loss=name`` everywhere and appears in :func:`list_losses`.

    Raises:
        ConfigurationError: if the name is taken.

    Example:
        >>> from artplus.losses import Objective, Terms, register_loss
        >>> @register_loss("doctest_twice")
        ... def twice(*, lam: float = 2.0) -> Objective:
        ...     def terms(model, x, x_adv, y):
        ...         clean, adversarial = model.pair(x, x_adv)
        ...         return Terms(fixed=model.loss(clean, y), scaled=model.loss(adversarial, y))
        ...     return Objective("doctest_twice", terms, lam=lam)
    """
    return losses.register(name)


def list_losses() -> list[str]:
    """Names of every registered loss, entry points of other packages included."""
    return losses.names()


def make_loss(loss: str | Objective, lam: Weight | None = None, **options: object) -> Objective:
    """An objective from a registered name (or an objective, as it is) and λ.

    Args:
        loss: Registered name or objective.
        lam: λ; ``None`` keeps the objective's published default.
        options: Further arguments of the named factory.

    Raises:
        UnknownNameError: if no loss has this name.
        ConfigurationError: for an argument that the factory does not know or refuses.
    """
    if isinstance(loss, Objective):
        if options:
            raise ConfigurationError(
                f"{', '.join(options)}: options go with a loss's name, not with a ready objective"
            )
        return loss.with_lam(lam)
    if not isinstance(loss, str):
        raise ConfigurationError(
            f"loss must be one of {', '.join(list_losses())} or an Objective, got {loss!r}"
        )
    try:
        objective = losses.get(loss)(**options)
    except TypeError as error:
        raise ConfigurationError(f"loss {loss!r}: {error}") from error
    return objective.with_lam(lam)
