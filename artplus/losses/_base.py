r"""Objectives: a fixed term, a term that λ multiplies, and the loss that the attack maximises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.registry import Registry
from artplus.spaces import InputSpace, Space
from artplus.tasks import Task
from artplus.tree import Tree

Weight = float | Callable[[float], float]
"""λ: a number, or a schedule that maps the fraction of training done (0 to 1) to a number."""

Climb = Callable[[Any], Tensor]
Inner = Callable[[LossModel, Any, Any], Climb]


@dataclass(frozen=True, eq=False)
class Context:
    """One batch as an objective sees it.

    Attributes:
        model: The trained model, with its task.
        x: Clean inputs.
        x_adv: Adversarial inputs; the clean inputs if the objective needs no attack.
        y: Targets.
        space: What may be perturbed.
        progress: Fraction of training done.
        extras: Further values that some objectives need, by name: a teacher, unlabelled inputs, ...
    """

    model: LossModel
    x: Tree
    x_adv: Tree
    y: Tree
    space: Space = InputSpace()
    progress: float = 0.0
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The meaning of predictions and targets."""
        return self.model.task

    def pair(self) -> tuple[Tree, Tree]:
        """Predictions for ``x`` and ``x_adv``; see :meth:`artplus.model.LossModel.pair`."""
        return self.model.pair(self.x, self.x_adv)

    def loss(self, predictions: Tree) -> Tensor:
        """The model's own loss of each example, ``(batch,)``."""
        return self.model.task.loss(predictions, self.y)


@dataclass(frozen=True)
class Terms:
    r"""The two terms of :math:`L = L_\text{fixed} + \lambda \, L_\text{scaled}`, per example.

    Attributes:
        scaled: ``(batch,)``, the term that λ multiplies.
        fixed: ``(batch,)``, the term of weight one; ``None`` if the objective has none.
        clean: Predictions for ``x``, if they were computed; only for live metrics.
        adversarial: Predictions for ``x_adv``, if they were computed; only for live metrics.
    """

    scaled: Tensor
    fixed: Tensor | None = None
    clean: Tree = None
    adversarial: Tree = None

    def __post_init__(self) -> None:
        for term in (self.scaled, self.fixed):
            if term is not None and (term.ndim != 1 or term.shape != self.scaled.shape):
                raise ConfigurationError(
                    f"an objective's terms must be (batch,), one value per example, got "
                    f"{tuple(term.shape)} beside {tuple(self.scaled.shape)}. Is a loss averaged "
                    "over the batch, or left per class or per pixel?"
                )

    def total(self, lam: float) -> Tensor:
        """``fixed + lam * scaled``, ``(batch,)``; with ``lam=0`` only the fixed term."""
        if lam == 0 and self.fixed is not None:
            return self.fixed  # not + 0 * scaled, whose gradient would be NaN if it overflows
        scaled = self.scaled if lam == 1 else lam * self.scaled
        return scaled if self.fixed is None else self.fixed + scaled


TermsFunction = Callable[[Context], Terms]

Counts = Callable[[Any], tuple[Tensor | None, Tensor | None]]
"""``targets -> (fixed, scaled)``, each ``(batch,)`` booleans: which examples a term counts."""


@dataclass(frozen=True)
class Objective:
    r"""What training minimises and what its attack maximises.

    Attributes:
        name: For messages and reports.
        terms: The loss that training minimises; see :class:`Terms`.
        lam: λ, a number or a schedule of the fraction of training done.
        inner: The loss that the attack maximises; ``None`` is the model's own.
        attacked: False if the objective needs no adversarial examples.
        over_classes: True if predictions must be class logits with one label per example.
        task: Name of the only task that it serves; empty if it serves any.
        divergent: True if the task must have a divergence between predictions.
        has_fixed_term: False if λ multiplies every term, as in ``at``. Then λ = 0 is no training
            at all; otherwise it is plain training.
        clean_pass: Whether the terms contain a forward pass on clean inputs in train mode. If so,
            that pass updates BatchNorm's running statistics; else the adversarial pass does.
        start_noise: Standard deviation of the noise added to attacks that start at ``x`` itself,
            for inner losses whose gradient is zero there (TRADES' code uses 0.001).
        second_order: True if the terms contain gradients, so that training needs second
            derivatives.
        records: True if the terms or the inner loss record hidden states
            (:func:`~artplus.spaces.recording`), which a compiled model does not allow.
        counts: Which examples each term counts, from the targets, where the two differ: the fixed
            term of semi-supervised training only those with a label, the scaled term of a language
            model's only those with an answer to be avoided. Each term is then the mean over its own
            examples, and only those of the scaled term are attacked. ``None`` is all for both.
        unlabelled: True if the objective has a use for examples without a label, which are marked
            by the label -100 in a classification and which ``counts`` leaves out of the fixed term.
            Other objectives are refused such data.
        supervised: False if the terms use no targets, so that data may be inputs alone.
    """

    name: str
    terms: TermsFunction
    lam: Weight = 1.0
    inner: Inner | None = None
    attacked: bool = True
    over_classes: bool = False
    task: str = ""
    divergent: bool = False
    has_fixed_term: bool = True
    clean_pass: bool = True
    start_noise: float = 0.0
    second_order: bool = False
    records: bool = False
    counts: Counts | None = None
    unlabelled: bool = False
    supervised: bool = True

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
        """The same objective with another λ; ``None`` keeps the current λ."""
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
        ...     def terms(ctx):
        ...         clean, adversarial = ctx.pair()
        ...         return Terms(fixed=ctx.loss(clean), scaled=ctx.loss(adversarial))
        ...     return Objective("doctest_twice", terms, lam=lam)
    """
    return losses.register(name)


def list_losses() -> list[str]:
    """Names of all registered losses, including entry points of other packages."""
    return losses.names()


def make_loss(loss: str | Objective, lam: Weight | None = None, **options: object) -> Objective:
    """An objective from a registered name or an objective, and λ.

    Args:
        loss: Registered name or objective.
        lam: λ; ``None`` keeps the objective's default.
        options: Further arguments of the factory of that name.

    Raises:
        UnknownNameError: if no loss has this name.
        ConfigurationError: for an argument that the factory does not know or refuses.
    """
    if isinstance(loss, Objective):
        if options:
            raise ConfigurationError(
                f"{', '.join(options)}: options go with a loss's name, not with an Objective"
            )
        return loss.with_lam(lam)
    if not isinstance(loss, str):
        raise ConfigurationError(
            f"loss must be one of {', '.join(list_losses())} or an Objective, got {loss!r}"
        )
    return losses.make(loss, **options).with_lam(lam)
