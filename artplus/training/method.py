"""An objective with its attack: everything but the loop, for use in your own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artplus import _checks, modes
from artplus.attacks import (
    APGD,
    PGD,
    Attack,
    Combination,
    Microbatched,
    PowerIteration,
    SMARTAttack,
    WorstOf,
    members,
)
from artplus.attacks._problem import Problem, make_problem
from artplus.bounds import Bounds, check_radius, inferred_space, make_space
from artplus.criterion import mean
from artplus.errors import ArtplusWarning, ConfigurationError
from artplus.functional import other_class, smooth_labels, weights_by_class
from artplus.geometry import clip, padded_like
from artplus.losses import Context, Objective, Terms, Weight, make_loss
from artplus.model import LossModel, as_loss_model
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree, device_of, size, take


@dataclass(frozen=True)
class Emphasis:
    """Factors of the terms of each example, ``(batch,)``; ``None`` is one.

    Attributes:
        fixed: Of the fixed term.
        scaled: Of the term that λ multiplies.
    """

    fixed: Tensor | None = None
    scaled: Tensor | None = None

    def take(self, rows: slice) -> Emphasis:
        """The factors of some examples."""
        return Emphasis(*(None if f is None else f[rows] for f in (self.fixed, self.scaled)))


NO_EMPHASIS = Emphasis()
NO_EXTRAS: Mapping[str, Tree] = MappingProxyType({})


def _times(term: Tensor, factors: Tensor | None) -> Tensor:
    return term if factors is None else term * factors.to(term)


@dataclass(frozen=True, kw_only=True)
class Method:
    r"""What to minimise, and how adversarial examples are made.

    .. math:: \sum_i w_i (L_\text{fixed} + \lambda L_\text{scaled})_i \Big/ \sum_i w_i

    Attributes:
        objective: The terms, λ and what the attack maximises.
        attack: Makes ``x_adv``; combine several by :class:`~artplus.attacks.Cycle`,
            :class:`~artplus.attacks.Average` or :class:`~artplus.attacks.WorstOf`. ``None`` for
            an objective that needs none.
        space: What may be perturbed, with bounds and mask; ``None`` is inputs within the usual
            range that the first batch lies in, which a warning names.
        label_smoothing: Share s of the label that is spread over all classes. Only the terms use
            it; the attack uses true labels. 0.1 to 0.2 is the useful range in published ablations.
        class_weight: ``(classes,)`` weights of examples by their class, the same for all terms.
        attack_share: Share of each batch that is attacked, drawn at random, in (0, 1]: at 0.5 the
            attack costs half. For the other examples x' is x. If the objective has a fixed term, λ
            multiplies the mean over the attacked examples alone; if it has none, as ``at``, the
            other examples count with their clean loss, which is ART's ``ratio``.
        slice_size: Most examples that the attack takes at a time; ``None`` is the whole batch.
            Training sets it to its ``micro_batch``.

    Example:
        >>> import torch
        >>> method = make_method("trades", eps=0.1)
        >>> model = torch.nn.Linear(4, 3)
        >>> loss = method.loss(model, torch.rand(8, 4), torch.randint(3, (8,)))
        >>> loss.backward()
    """

    objective: Objective
    attack: Attack | Combination | None = None
    space: Space | None = None
    label_smoothing: float = 0.0
    class_weight: Tensor | None = None
    attack_share: float = 1.0
    slice_size: int | None = None

    def __post_init__(self) -> None:
        _checks.fraction("label_smoothing", self.label_smoothing)
        share = _checks.nonnegative("attack_share", self.attack_share)
        object.__setattr__(self, "attack_share", share)
        if not 0 < share <= 1:
            raise ConfigurationError(
                f"attack_share must lie in (0, 1], got {self.attack_share!r}; to train without "
                "attacks give lam=0"
            )
        if self.attack_share < 1 and not self.objective.attacked:
            raise ConfigurationError(
                f"loss {self.objective.name!r} uses no attack, so attack_share would be ignored"
            )
        if self.objective.attacked and self.attack is None:
            raise ConfigurationError(
                f"loss {self.objective.name!r} needs an attack: give eps= (and norm=) for PGD, or "
                "an attack"
            )
        if self.attack is not None:
            _refuse_foreign(self.attack)
        if self.objective.inner is not None and self.attack is not None:
            _refuse_disagreement(self.objective, self.attack)

    def loss(
        self,
        model: nn.Module | LossModel,
        x: Tree,
        y: Tree,
        *,
        progress: float = 0.0,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The whole objective on one batch, a scalar to call ``backward`` on.

        Args:
            model: A :class:`LossModel`, or any module; its class determines the task,
                classification by default.
            x: Inputs inside ``space``: ``(batch, *input)`` floats, or a tree.
            y: Targets.
            progress: Fraction of training done, for a scheduled λ.
            step: Number of the batch, for attacks that take turns.
            generator: Randomness of the attack.

        Raises:
            ConfigurationError: for a radius as wide as the range of inputs.
        """
        model = as_loss_model(model)
        if self.attack is not None and "_checked" not in self.__dict__:
            if isinstance(self.space, InputSpace):  # bound() checks an inferred one
                check_radii(self.attack, self.space, take(x, slice(0, 1)))
            object.__setattr__(self, "_checked", True)
        rows = self.chosen(x, y, generator)
        x_advs = self.craft(
            model, x, y, rows=rows, step=step, progress=progress, generator=generator
        )
        terms = self.terms(model, x, x_advs, y, self.emphasis(model, y, rows), progress=progress)
        return self.reduce(model, terms, y, progress)

    def bound(self, x: Tree) -> Space:
        """The space; if none was given, inputs within the range of ``x``, inferred once."""
        if self.space is not None:
            return self.space
        inferred: Space | None = self.__dict__.get("_inferred")
        if inferred is None:
            inferred, note = inferred_space(x)
            warnings.warn(note, ArtplusWarning, stacklevel=4)
            if self.attack is not None:
                check_radii(self.attack, inferred, take(x, slice(0, 1)))
            object.__setattr__(self, "_inferred", inferred)
        return inferred

    def problem(self, model: LossModel, x: Tree, y: Tree, attack: Attack) -> Problem:
        """The problem of one of the method's attacks on a batch, for its ball and region."""
        return make_problem(model, x, y, eps=attack.eps, norm=attack.norm, space=self.bound(x))

    def attacks(self, progress: float) -> bool:
        """Whether this step needs adversarial examples: not at λ = 0 if there is a fixed term."""
        objective = self.objective
        if not objective.attacked or self.attack is None:
            return False
        return not objective.has_fixed_term or objective.weight(progress) > 0

    def chosen(self, x: Tree, y: Tree, generator: torch.Generator | None = None) -> Tensor | None:
        """Indices of the examples to attack; ``None``, without a random draw, if all are.

        They are a random ``attack_share`` of those that the scaled term counts. Where it counts
        none, the first example is attacked and not counted, so that every process makes the same
        number of forward passes.
        """
        rows = self._scaled_rows(y)
        n = size(x) if rows is None else len(rows)
        count = max(1, round(self.attack_share * n))
        if count >= n:
            return rows
        chosen = torch.randperm(n, generator=generator, device=device_of(x))[:count]
        return chosen if rows is None else rows[chosen]

    def scales(self, y: Tree) -> bool:
        """Whether the scaled term counts any of these examples."""
        mask = self._scaled(y)
        return mask is None or bool(mask.any())

    def _scaled_rows(self, y: Tree) -> Tensor | None:
        """Indices of the examples that the scaled term counts; ``None`` is all."""
        mask = self._scaled(y)
        if mask is None:
            return None
        rows = mask.nonzero()[:, 0]
        return rows if len(rows) else rows.new_zeros(1)

    def _scaled(self, y: Tree) -> Tensor | None:
        return None if self.objective.counts is None else self.objective.counts(y)[1]

    def emphasis(
        self,
        model: LossModel,
        y: Tree,
        rows: Tensor | None,
        pool: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> Emphasis:
        r"""Factors that turn the batch mean of each term into the mean over its own examples.

        .. math:: f_i = \frac{\sum_j w_j}{\sum_{j \in S} w_j} [i \in S]

        where S is what the term counts, see :attr:`Objective.counts`; of the scaled term only what
        is attacked, if only a share is.

        Args:
            model: What is trained.
            y: Targets of the whole batch.
            rows: Indices of the attacked examples, see :meth:`chosen`.
            pool: Sums over all processes.
        """
        n, counts = size(y), self.objective.counts
        if self.objective.unlabelled and not model.task.over_classes:
            counts = None  # -100 is a number like any other
        if counts is None:
            if rows is None:
                return NO_EMPHASIS
            factors = torch.zeros(n, device=device_of(y))
            return Emphasis(scaled=factors.index_fill_(0, rows, n / len(rows)))
        fixed, scaled = (
            torch.ones(n, device=device_of(y)) if mask is None else mask.float()
            for mask in counts(y)
        )
        if rows is not None:
            scaled = scaled * torch.zeros_like(scaled).index_fill_(0, rows, 1.0)
        weights = self.weights(model, y)
        weights = torch.ones_like(fixed) if weights is None else weights.to(fixed)
        whole, of_fixed, of_scaled = pool(
            torch.stack([weights.sum(), (weights * fixed).sum(), (weights * scaled).sum()])
        )
        # Where a term counts nothing, its factors are zero whatever they are divided by.
        return Emphasis(
            fixed * (whole / of_fixed.where(of_fixed > 0, torch.inf)),
            scaled * (whole / of_scaled.where(of_scaled > 0, torch.inf)),
        )

    def craft(
        self,
        model: LossModel,
        x: Tree,
        y: Tree,
        *,
        rows: Tensor | None = None,
        start: Tree | None = None,
        step: int = 0,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tree, ...]:
        """Adversarial examples for a batch: one tree for each attack whose turn it is.

        Nothing is attacked if λ is zero and only the terms that it multiplies need the attack.

        Args:
            model: What is attacked.
            x: Inputs inside ``space``.
            y: Targets.
            rows: Indices of the examples to attack, see :meth:`chosen`; ``None`` is all.
            start: First iterates, shaped like ``x``, instead of the attack's own.
            step: Number of the batch, for attacks that take turns.
            progress: Fraction of training done, for a scheduled λ.
            generator: Randomness of the attack.
        """
        if not self.attacks(progress) or self.attack is None:
            return (x,)
        space = self.bound(x)
        if rows is not None:
            part = replace(self, space=space.take(rows, x))
            x_advs = part.craft(
                model,
                take(x, rows),
                take(y, rows),
                start=None if start is None else take(start, rows),
                step=step,
                progress=progress,
                generator=generator,
            )
            z0 = space.lift(model, x)
            z_advs = [padded_like(space.extract(x_adv), z0[rows]) for x_adv in x_advs]
            return tuple(space.insert(x, z0.index_copy(0, rows, z_adv)) for z_adv in z_advs)
        return tuple(
            self._microbatched(attack, size(x))(
                model,
                x,
                self._aim(attack, model, x, y, generator),
                space=space,
                inner=self.objective.inner,
                start=self._start(attack, model, x, generator) if start is None else start,
                generator=generator,
            )
            for attack in members(self.attack, step)
        )

    def terms(
        self,
        model: LossModel,
        x: Tree,
        x_advs: Sequence[Tree],
        y: Tree,
        emphasis: Emphasis = NO_EMPHASIS,
        *,
        progress: float = 0.0,
        extras: Mapping[str, Tree] = NO_EXTRAS,
    ) -> Terms:
        """The objective's terms averaged over ``x_advs``, times ``emphasis``.

        ``extras`` go to :attr:`~artplus.losses.Context.extras`.
        """
        terms = self._averaged(model, x, x_advs, y, progress, extras)
        if self.objective.attacked and not self.attacks(progress):
            terms = replace(terms, adversarial=None)  # predictions for clean inputs
        if terms.fixed is None:
            return terms
        return replace(
            terms,
            fixed=_times(terms.fixed, emphasis.fixed),
            scaled=_times(terms.scaled, emphasis.scaled),
        )

    def _averaged(
        self,
        model: LossModel,
        x: Tree,
        x_advs: Sequence[Tree],
        y: Tree,
        progress: float,
        extras: Mapping[str, Tree],
    ) -> Terms:
        if self.label_smoothing:
            y = smooth_labels(y, classes_of(model, x), self.label_smoothing)
        space = InputSpace() if self.space is None else self.space

        def context(x_adv: Tree) -> Context:
            return Context(model, x, x_adv, y, space=space, progress=progress, extras=extras)

        if len(x_advs) == 1:
            return self.objective.terms(context(x_advs[0]))
        stream = modes.RandomState(device_of(x), model.module)
        before = stream.get()
        terms = [self.objective.terms(context(x_advs[0]))]
        # As in one step: all attacks share the dropout masks, and the clean batch updates
        # BatchNorm statistics once.
        with ExitStack() as stack:
            if terms[0].clean is not None:
                stack.enter_context(modes.frozen_batchnorm_stats(model.module))
            for x_adv in x_advs[1:]:
                stream.set(before)
                terms.append(self.objective.terms(context(x_adv)))
        fixed = [t.fixed for t in terms if t.fixed is not None]
        return replace(
            terms[0],
            scaled=torch.stack([t.scaled for t in terms]).mean(0),
            fixed=torch.stack(fixed).mean(0) if fixed else None,
        )

    def reduce(self, model: LossModel, terms: Terms, y: Tree, progress: float) -> Tensor:
        """The weighted batch mean of the terms."""
        return mean(terms.total(self.objective.weight(progress)), self.weights(model, y))

    def total(self, model: LossModel, terms: Terms, y: Tree, progress: float) -> Tensor:
        """The weighted sum of the terms, for a part of a batch; the caller divides."""
        losses, weights = terms.total(self.objective.weight(progress)), self.weights(model, y)
        return losses.sum() if weights is None else (losses * weights.to(losses)).sum()

    def weights(self, model: LossModel, y: Tree) -> Tensor | None:
        """Weight of each example, ``(batch,)``; ``None`` if all are equal."""
        weights = model.task.weights(y)
        if self.class_weight is None:
            return weights
        by_class = weights_by_class(y, self.class_weight)
        return by_class if weights is None else weights.to(by_class) * by_class

    def _microbatched(self, attack: Attack, n: int) -> Attack:
        """The attack in slices, if it supports them and its radius is not per example."""
        if self.slice_size is None or n <= self.slice_size or not isinstance(attack, _MICROBATCHED):
            return attack
        return (
            attack
            if isinstance(attack.eps, (np.ndarray, Tensor))
            else Microbatched(attack, self.slice_size)
        )

    def _start(
        self, attack: Attack, model: LossModel, x: Tree, generator: torch.Generator | None
    ) -> Tree | None:
        """``x`` plus noise, if the attack starts at ``x`` and the inner loss is flat there."""
        parts = getattr(attack, "attacks", (attack,))
        if not self.objective.start_noise or all(getattr(a, "random_start", True) for a in parts):
            return None
        space = self.bound(x)
        with modes.attack_mode(model.module):
            z = space.lift(model, x)
        region = space.region(x, z)
        noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        start = clip(z + region.restrict(self.objective.start_noise * noise), region)
        return space.insert(x, start)

    def _aim(
        self, attack: Attack, model: LossModel, x: Tree, y: Tree, g: torch.Generator | None
    ) -> Tree:
        """Labels for the attack: the true ones, or random wrong ones if it is targeted."""
        if not getattr(attack, "targeted", False):
            return y
        if not model.task.over_classes:
            raise ConfigurationError(
                f"a targeted attack needs a wrong class for each example, but task "
                f"{model.task.name!r} has no single label per example; leave targeted=False"
            )
        return other_class(y, classes_of(model, x), g)


_MICROBATCHED = (PGD, APGD, PowerIteration, SMARTAttack, WorstOf)
"""Attacks that can work in slices: they run on the device and treat examples independently."""


def _refuse_foreign(attack: Any) -> None:
    """Refuse a list, or an attack of another library, and name the remedy."""
    if isinstance(attack, (list, tuple)):
        raise ConfigurationError(
            f"attack must be one attack, got a {type(attack).__name__} of {len(attack)}; say how "
            "they go together: Cycle([...]) in turn, Average([...]) of the losses, or "
            "WorstOf([...]) per example, all of artplus.attacks"
        )
    if not isinstance(attack, (Attack, Combination)):
        raise ConfigurationError(
            f"attack must be an attack of artplus.attacks, got {type(attack).__name__}; translate "
            "an ART attack first: artplus.bridge.attacks.as_attack(attack, estimator)"
        )


def _refuse_norm(objective: Objective, attack: Attack | Combination | None, norm: float) -> None:
    """Refuse a norm that would be ignored; one equal to the attack's is allowed."""
    if norm == torch.inf:  # the default, so probably not chosen by the user
        return
    if not objective.attacked:
        raise ConfigurationError(
            f"loss {objective.name!r} needs no adversarial examples, so norm={norm!r} would be "
            "ignored; leave it out"
        )
    attack_norm = None if attack is None else members(attack, 0)[0].norm
    if attack_norm is not None and norm != attack_norm:
        raise ConfigurationError(
            f"norm={norm!r} contradicts the attack's own norm {attack_norm:g}; leave out norm, "
            "which is for the default attack"
        )


def _refuse_disagreement(objective: Objective, attack: Attack | Combination) -> None:
    """Refuse an attack that cannot maximise the objective's inner loss."""
    for one in getattr(attack, "attacks", (attack,)):
        if getattr(one, "climbs_own", False):
            raise ConfigurationError(
                f"loss {objective.name!r} trains against what maximises its own inner objective, "
                f"but {one!r} climbs a loss of its own. Use PGD, FGM, BIM, MIM or APGD without a "
                "loss, or accept the mismatch: inner='attack' in AdversarialTrainerPlus, "
                "dataclasses.replace(objective, inner=None) elsewhere."
            )
        if getattr(one, "targeted", False):
            raise ConfigurationError(
                f"loss {objective.name!r} trains against what maximises its own inner objective, "
                f"but {one!r} is targeted and would minimise it. Leave out targeted=True, or "
                "maximise the model's own loss: inner='attack' in AdversarialTrainerPlus, "
                "dataclasses.replace(objective, inner=None) elsewhere."
            )


def check_radii(attack: Attack | Combination, space: InputSpace, x: Tree) -> None:
    """Refuse a radius that is as wide as the range of inputs shaped like ``x``.

    Raises:
        ConfigurationError: naming the radius and the range.
    """
    shape = tuple(space.lift(None, x).shape[1:])
    for member in members(attack, 0):
        check_radius(member.eps, member.norm, space, shape)


def classes_of(model: LossModel, x: Tree) -> int:
    """Number of classes: as the model knows it, or the width of its output for one example."""
    if model.classes is not None:
        return model.classes
    with modes.attack_mode(model.module), torch.no_grad():
        return int(model(take(x, slice(0, 1))).shape[1])


def make_method(
    loss: str | Objective = "trades",
    *,
    lam: Weight | None = None,
    eps: Any = None,
    norm: float = torch.inf,
    attack: Attack | Combination | None = None,
    space: Space | None = None,
    bounds: Bounds = "auto",
    normalization: tuple[Any, Any] | None = None,
    label_smoothing: float = 0.0,
    class_weight: Any = None,
    attack_share: float = 1.0,
) -> Method:
    """A :class:`Method` from names and numbers.

    :func:`artplus.fit` takes the same options; they are documented here.

    Args:
        loss: What is minimised: a registered name (:func:`artplus.list_losses`) or an
            :class:`~artplus.losses.Objective`. The model's own loss is its ``criterion``.
        lam: λ, a number >= 0 or a schedule of the fraction of training done; ``None`` is the
            published default of the loss: 6 for ``trades``, 5 for ``mart``, 1 for ``mix``, ...
        eps: Radius of the default attack: PGD, 10 steps of ``eps / 4``, random start. In the units
            of the inputs; with ``normalization`` in the units before it.
        norm: Norm of the default attack: ``numpy.inf``, 2 or 1.
        attack: Replaces the default attack; combine several by :class:`~artplus.attacks.Cycle`,
            ``Average`` or ``WorstOf``.
        space: What is perturbed: :class:`~artplus.spaces.InputSpace`,
            :class:`~artplus.spaces.EmbeddingSpace` or :class:`~artplus.spaces.LatentSpace`;
            ``None`` is inputs with ``bounds`` and ``normalization``.
        bounds: Least and greatest valid input, numbers or one per channel, before normalisation.
            ``"auto"`` takes the usual range that the data lies in ([0, 1], [-1, 1], for images
            [0, 255]) and names it in a note; ``None`` is unbounded.
        normalization: ``(mean, std)``, numbers or one per channel, that the inputs have been
            normalised by. ``eps`` and ``bounds`` are then in the units before it, and the default
            bounds are [0, 1].
        label_smoothing: Share of each label spread over all classes, in [0, 1).
        class_weight: Weight of examples by their class, one number >= 0 per class.
        attack_share: Share of each batch that is attacked, in (0, 1]; see :class:`Method`.

    Raises:
        ConfigurationError: if both ``eps`` and ``attack`` are given, or neither for a loss that
            needs one; for a norm other than the attack's; if ``attack`` is no attack.
    """
    objective = make_loss(loss, lam)
    if attack is not None and eps is not None:
        raise ConfigurationError("give eps= for the default PGD or attack=, not both")
    if attack is None and eps is not None:
        attack = PGD(eps=eps, norm=norm)
    if not objective.attacked and attack is not None:
        raise ConfigurationError(
            f"loss {objective.name!r} needs no adversarial examples, so eps= or attack= would be "
            "ignored; leave them out"
        )
    if class_weight is not None:
        class_weight = _checks.numbers("class_weight", class_weight)
        if class_weight.ndim != 1:
            raise ConfigurationError(
                f"class_weight must be one number >= 0 per class, got {class_weight.tolist()}"
            )
    method = Method(
        objective=objective,
        attack=attack,
        space=make_space(space, bounds, normalization),
        label_smoothing=label_smoothing,
        class_weight=class_weight,
        attack_share=attack_share,
    )
    _refuse_norm(objective, attack, norm)
    return method
