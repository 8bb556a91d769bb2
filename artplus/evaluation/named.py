"""Attacks by a short name, at the settings of their papers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from artplus.attacks import APGD, FAB, FMN, PGD, Attack, Chain, Square, bim, fgm, mim
from artplus.attacks._base import Budget
from artplus.attacks._goal import LossName
from artplus.errors import ConfigurationError
from artplus.registry import Registry
from artplus.spaces import Per


@dataclass(frozen=True)
class Threat:
    """What an attack may do, and what it needs to know about the model.

    Attributes:
        eps: Radius, in the units of the inputs.
        norm: ``numpy.inf``, 2 or 1.
        classes: Number of classes; ``None`` in regression, where attacks climb the model's loss.
        shape: Shape of one input; ``None`` if unknown.
        per: What the radius bounds, a whole ``"example"`` or each ``"token"``.
        hidden: Whether hidden states are perturbed instead of inputs.
    """

    eps: Budget
    norm: float = math.inf
    classes: int | None = None
    shape: tuple[int, ...] | None = None
    per: Per = "example"
    hidden: bool = False

    @property
    def ball(self) -> dict[str, Any]:
        """``eps`` and ``norm`` as arguments of an attack."""
        return {"eps": self.eps, "norm": self.norm}

    @property
    def measures_distance(self) -> bool:
        """Whether :class:`~artplus.attacks.FAB` and FMN, which minimise it, are defined here."""
        return self.classes is not None and self.per == "example"

    @property
    def squares(self) -> bool:
        """Whether :class:`~artplus.attacks.Square` is defined here.

        It needs class logits and inputs, and in L2 and L1 images of at least three pixels a side.
        """
        if self.classes is None or self.hidden:
            return False
        if self.norm != math.inf and self.shape is not None:
            return len(self.shape) == 3 and min(self.shape[1:]) >= 3
        return True


attacks: Registry[Attack] = Registry("attack", "artplus.evaluation.named")
"""Factories ``Threat -> Attack``, for ``evaluate(attacks=[name])``."""

register_attack, list_attacks = attacks.register, attacks.names


def make_attack(name: str, threat: Threat) -> Attack:
    """The attack called ``name``.

    Raises:
        UnknownNameError: if no attack has this name.
        ConfigurationError: if it is not defined for this threat.

    Example:
        >>> make_attack("pgd", Threat(eps=0.1)).steps
        40
    """
    return attacks.make(name, threat)


@register_attack("fgsm")
def _fgsm(threat: Threat) -> Attack:
    """One step."""
    return fgm(threat.eps, norm=threat.norm)


@register_attack("fgm")
def _fgm(threat: Threat) -> Attack:
    """One step: ART's name for fgsm."""
    return _fgsm(threat)


@register_attack("bim")
def _bim(threat: Threat) -> Attack:
    """10 steps from the input itself."""
    return bim(threat.eps, norm=threat.norm)


@register_attack("mim")
def _mim(threat: Threat) -> Attack:
    """10 steps with momentum 1.0."""
    return mim(threat.eps, norm=threat.norm)


@register_attack("pgd")
def _pgd(threat: Threat) -> Attack:
    """40 steps of 2.5 eps / 40 from a random start (Madry et al., 2018)."""
    return PGD(**threat.ball, steps=40)


@register_attack("apgd")
def _apgd(threat: Threat) -> Attack:
    """100 steps on cross-entropy, in regression on the model's loss."""
    return apgd(threat, steps=100)


@register_attack("apgd_dlr")
def _apgd_dlr(threat: Threat) -> Attack:
    """100 steps on the difference of logits ratio; at least three classes."""
    _needs(threat, 3, "apgd_dlr")
    return APGD(**threat.ball, loss="dlr")


@register_attack("apgd_t")
def _apgd_t(threat: Threat) -> Attack:
    """100 steps towards each of the 9 likeliest wrong classes; at least three classes."""
    _needs(threat, 3, "apgd_t")
    return APGD(**threat.ball, loss="targeted_dlr")


@register_attack("fab")
def _fab(threat: Threat) -> Attack:
    """100 steps to the nearest boundary, 5 restarts; a backward pass for each class and step."""
    _needs(threat, 2, "fab")
    _needs_examples(threat, "fab")
    return FAB(**threat.ball, targets=None, restarts=5)


@register_attack("fab_t")
def _fab_t(threat: Threat) -> Attack:
    """100 steps to the boundaries with each of the 9 likeliest wrong classes."""
    _needs(threat, 2, "fab_t")
    _needs_examples(threat, "fab_t")
    return FAB(**threat.ball)


@register_attack("fmn")
def _fmn(threat: Threat) -> Attack:
    """200 steps to the nearest boundary, one pass each (Pintor et al., 2021)."""
    _needs(threat, 2, "fmn")
    _needs_examples(threat, "fmn")
    return FMN(**threat.ball, steps=200)


@register_attack("square")
def _square(threat: Threat) -> Attack:
    """5000 queries, no gradients."""
    _needs(threat, 2, "square")
    _needs_inputs(threat, "square")
    return Square(**threat.ball)


@register_attack("square_chain")
def _square_chain(threat: Threat) -> Attack:
    """200 queries of Square, from there APGD, 10 steps, and from there FAB, 80 steps; twice."""
    _needs(threat, 2, "square_chain")
    _needs_inputs(threat, "square_chain")
    ascent = APGD(**threat.ball, steps=10, loss="margin", until_fooled=True)
    refined = Chain(ascent, FAB(**threat.ball, steps=80, targets=1))
    return Chain(Square(**threat.ball, queries=200), refined, restarts=2)


def apgd(threat: Threat, *, steps: int) -> APGD:
    """Auto-PGD on cross-entropy; in regression on the model's own loss."""
    loss: LossName | None = None if threat.classes is None else "ce"
    return APGD(**threat.ball, steps=steps, loss=loss)


def _needs(threat: Threat, least: int, name: str) -> None:
    if threat.classes is None or threat.classes < least:
        kind = "a regression" if threat.classes is None else f"{threat.classes} classes"
        raise ConfigurationError(f"{name!r} needs at least {least} classes, the model has {kind}")


def _needs_examples(threat: Threat, name: str) -> None:
    if not threat.measures_distance:
        raise ConfigurationError(
            f"{name!r} minimises the perturbation of a whole example, but the radius is per token; "
            "use 'apgd' or 'pgd'"
        )


def _needs_inputs(threat: Threat, name: str) -> None:
    if threat.hidden:
        raise ConfigurationError(
            f"{name!r} draws windows of images or signals, but hidden states are perturbed; use "
            "'apgd' or 'pgd'"
        )
