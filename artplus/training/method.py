"""An objective with its attack: everything but the loop, for those who keep their own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artplus import _checks, modes
from artplus.attacks import APGD, PGD, Attack, Combination, Microbatched, WorstOf, members
from artplus.attacks._base import take
from artplus.criterion import mean
from artplus.errors import ConfigurationError
from artplus.functional import other_class, smooth_labels
from artplus.geometry import clip
from artplus.losses import Objective, Terms, Weight, make_loss
from artplus.model import LossModel, as_loss_model
from artplus.spaces import InputSpace


@dataclass(frozen=True, kw_only=True)
class Method:
    r"""What to minimise, and where to look.

    .. math:: \sum_i w_i (L_\text{fixed} + \lambda L_\text{scaled})_i \Big/ \sum_i w_i

    Attributes:
        objective: The terms, λ and what the attack climbs.
        attack: Finds ``x_adv``; several as :class:`~artplus.attacks.Cycle`,
            :class:`~artplus.attacks.Average` or :class:`~artplus.attacks.WorstOf`. ``None`` for
            an objective that needs none.
        space: Bounds of valid inputs, and what may be changed.
        label_smoothing: Share s of the label spread over all classes, in the terms alone: the
            attack sees true labels. 0.1 to 0.2 is the useful range in published ablations.
        class_weight: ``(classes,)``, weighs whole examples by their class, all terms alike.
        attack_share: Share of each batch that is attacked, drawn at random, in (0, 1]: at 0.5 the
            attack costs half. For the rest x' is x. Where the objective has a fixed term, λ
            multiplies the mean over the attacked examples alone; where it has none, as ``at``, the
            rest counts with its clean loss, which is ART's ``ratio``.
        slice_size: Most examples that the attack takes at a time; ``None`` is the whole batch. Set
            by training to its ``micro_batch``.

    Example:
        >>> import torch
        >>> method = make_method("trades", eps=0.1)
        >>> model = torch.nn.Linear(4, 3)
        >>> loss = method.loss(model, torch.rand(8, 4), torch.randint(3, (8,)))
        >>> loss.backward()
    """

    objective: Objective
    attack: Attack | Combination | None = None
    space: InputSpace = InputSpace()
    label_smoothing: float = 0.0
    class_weight: Tensor | None = None
    attack_share: float = 1.0
    slice_size: int | None = None

    def __post_init__(self) -> None:
        _checks.fraction("label_smoothing", self.label_smoothing)
        if not 0 < _checks.nonnegative("attack_share", self.attack_share) <= 1:
            raise ConfigurationError(
                f"attack_share must lie in (0, 1], got {self.attack_share!r}; to train without "
                "attacks give lam=0"
            )
        if self.attack_share < 1 and not self.objective.attacked:
            raise ConfigurationError(
                f"loss {self.objective.name!r} attacks nothing, so attack_share would be ignored"
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
        x: Tensor,
        y: Tensor,
        *,
        progress: float = 0.0,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The whole objective on one batch, a scalar to call ``backward`` on.

        Args:
            model: Any module (cross-entropy is assumed) or a :class:`LossModel`.
            x: ``(batch, *input)`` inputs, inside ``space``.
            y: Labels.
            progress: Fraction of training done, for a scheduled λ.
            step: Counts batches, for attacks that take turns.
            generator: Randomness of the attack.
        """
        model = as_loss_model(model)
        rows = self.chosen(x, generator)
        x_advs = self.craft(model, x, y, rows=rows, step=step, generator=generator)
        terms = self.terms(model, x, x_advs, y, self.emphasis(x, rows))
        return self.reduce(model, terms, y, progress)

    def chosen(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Numbers of the examples to attack; ``None`` is all of them, and draws nothing."""
        n = len(x)
        count = max(1, round(self.attack_share * n))
        if count >= n:
            return None
        return torch.randperm(n, generator=generator, device=x.device)[:count]

    def emphasis(self, x: Tensor, rows: Tensor | None) -> Tensor | None:
        """What multiplies the scaled terms so that their mean is that over ``rows``."""
        if rows is None:
            return None
        return x.new_zeros(len(x)).index_fill_(0, rows, len(x) / len(rows))

    def craft(
        self,
        model: LossModel,
        x: Tensor,
        y: Tensor,
        *,
        rows: Tensor | None = None,
        start: Tensor | None = None,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """Adversarial examples for a batch: one tensor for each attack whose turn it is.

        Args:
            model: What is attacked.
            x: ``(batch, *input)`` inputs, inside ``space``.
            y: Labels.
            rows: Numbers of the examples to attack, see :meth:`chosen`; ``None`` is all.
            start: First iterates, like ``x``, instead of the attack's own.
            step: Counts batches, for attacks that take turns.
            generator: Randomness of the attack.
        """
        if not self.objective.attacked or self.attack is None:
            return (x,)
        if rows is not None:
            some = replace(self, space=self.space.masked(take(self.space.mask, rows, x)))
            found = some.craft(
                model,
                x[rows],
                y[rows],
                start=None if start is None else start[rows],
                step=step,
                generator=generator,
            )
            return tuple(x.index_copy(0, rows, x_adv) for x_adv in found)
        return tuple(
            self._microbatched(attack, len(x))(
                model,
                x,
                self._aim(attack, model, x, y, generator),
                space=self.space,
                inner=self.objective.inner,
                start=self._start(attack, x, generator) if start is None else start,
                generator=generator,
            )
            for attack in members(self.attack, step)
        )

    def terms(
        self,
        model: LossModel,
        x: Tensor,
        x_advs: Sequence[Tensor],
        y: Tensor,
        emphasis: Tensor | None = None,
    ) -> Terms:
        """The objective's terms, averaged over ``x_advs``, the scaled ones times ``emphasis``."""
        terms = self._averaged(model, x, x_advs, y)
        if emphasis is None or terms.fixed is None:
            return terms
        return replace(terms, scaled=terms.scaled * emphasis.to(terms.scaled))

    def _averaged(self, model: LossModel, x: Tensor, x_advs: Sequence[Tensor], y: Tensor) -> Terms:
        if self.label_smoothing:
            y = smooth_labels(y, classes_of(model, x), self.label_smoothing)
        stream = modes.RandomState(x.device)
        before = stream.get() if len(x_advs) > 1 else ()
        found = [self.objective.terms(model, x, x_advs[0], y)]
        if len(x_advs) == 1:
            return found[0]
        # As one step: the same dropout for all, and the clean batch moves statistics once.
        with ExitStack() as stack:
            if found[0].clean is not None:
                stack.enter_context(modes.frozen_batchnorm_stats(model.module))
            for x_adv in x_advs[1:]:
                stream.set(before)
                found.append(self.objective.terms(model, x, x_adv, y))
        fixed = [t.fixed for t in found if t.fixed is not None]
        return replace(
            found[0],
            scaled=torch.stack([t.scaled for t in found]).mean(0),
            fixed=torch.stack(fixed).mean(0) if fixed else None,
        )

    def reduce(self, model: LossModel, terms: Terms, y: Tensor, progress: float) -> Tensor:
        """The weighted batch mean of the terms."""
        return mean(terms.total(self.objective.weight(progress)), self.weights(model, y))

    def total(self, model: LossModel, terms: Terms, y: Tensor, progress: float) -> Tensor:
        """The weighted sum of the terms: of a part of a batch, whose mean is taken elsewhere."""
        losses, weights = terms.total(self.objective.weight(progress)), self.weights(model, y)
        return losses.sum() if weights is None else (losses * weights.to(losses)).sum()

    def weights(self, model: LossModel, y: Tensor) -> Tensor | None:
        """What each example weighs, ``(batch,)``; ``None`` if all weigh alike."""
        weights = model.criterion.weights(y)
        if self.class_weight is None:
            return weights
        per_class = self.class_weight.to(y.device)
        own = y.to(per_class) @ per_class if y.ndim == 2 else per_class[y]
        return own if weights is None else weights.to(own) * own

    def _microbatched(self, attack: Attack, n: int) -> Attack:
        """The attack in slices, if it works on the device and its radius is not per example."""
        if self.slice_size is None or n <= self.slice_size or not isinstance(attack, _MICROBATCHED):
            return attack
        return (
            attack
            if isinstance(attack.eps, (np.ndarray, Tensor))
            else Microbatched(attack, self.slice_size)
        )

    def _start(self, attack: Attack, x: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """A start off ``x`` where the inner loss is flat at ``x`` and the attack begins there."""
        parts = getattr(attack, "attacks", (attack,))
        if not self.objective.start_noise or all(getattr(a, "random_start", True) for a in parts):
            return None
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return clip(x + self.space.restrict(self.objective.start_noise * noise), self.space)

    def _aim(
        self, attack: Attack, model: LossModel, x: Tensor, y: Tensor, g: torch.Generator | None
    ) -> Tensor:
        """Labels for the attack: the true ones, or random wrong ones if it wants targets."""
        if not getattr(attack, "targeted", False):
            return y
        return other_class(y, classes_of(model, x), g)


_MICROBATCHED = (PGD, APGD, WorstOf)
"""Attacks that can work in slices: they run on the device and treat each example by itself."""


def _refuse_foreign(attack: Any) -> None:
    """A list, or an attack of another library: say what to make of it."""
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
    """A norm that nothing would use: equal to the attack's own or refused, never ignored."""
    if norm == torch.inf:  # the default, so perhaps not asked for
        return
    if not objective.attacked:
        raise ConfigurationError(
            f"loss {objective.name!r} needs no adversarial examples, so norm={norm!r} would be "
            "ignored; leave it out"
        )
    own = None if attack is None else members(attack, 0)[0].norm
    if own is not None and norm != own:
        raise ConfigurationError(
            f"norm={norm!r} contradicts the attack's own norm {own:g}; leave out norm, which is "
            "for the default attack"
        )


def _refuse_disagreement(objective: Objective, attack: Attack | Combination) -> None:
    """An attack that cannot climb the objective's own inner loss: say so, drop nothing."""
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
                "climb the model's own loss: inner='attack' in AdversarialTrainerPlus, "
                "dataclasses.replace(objective, inner=None) elsewhere."
            )


def classes_of(model: LossModel, x: Tensor) -> int:
    """Number of classes, known to the model or counted on its output for one example."""
    if model.classes is not None:
        return model.classes
    with modes.attack_mode(model.module), torch.no_grad():
        return int(model(x[:1]).shape[1])


def make_method(
    loss: str | Objective = "mix",
    *,
    lam: Weight | None = None,
    eps: Any = None,
    norm: float = torch.inf,
    attack: Attack | Combination | None = None,
    space: InputSpace = InputSpace(),
    label_smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    attack_share: float = 1.0,
) -> Method:
    """A :class:`Method` from names and numbers.

    Args:
        loss: Registered name or objective.
        lam: λ, a number or a schedule of the fraction of training done; ``None`` is the
            objective's published default.
        eps: Radius of the default attack: PGD, 10 steps of ``eps / 4``, random start.
        norm: Its norm.
        attack: Instead of the default attack; several as a combination.
        space: Bounds and mask.
        label_smoothing: See :class:`Method`.
        class_weight: See :class:`Method`.
        attack_share: See :class:`Method`.

    Raises:
        ConfigurationError: if both or neither of ``eps`` and ``attack`` are given where one is
            needed, for a norm that is not the attack's, or something else than an attack.
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
    method = Method(
        objective=objective,
        attack=attack,
        space=space,
        label_smoothing=label_smoothing,
        class_weight=class_weight,
        attack_share=attack_share,
    )
    _refuse_norm(objective, attack, norm)
    return method
