"""ART attack to artplus attack: translated to torch where the maths is ours, else adapted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from art.attacks import EvasionAttack
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    ProjectedGradientDescentNumpy,
    ProjectedGradientDescentPyTorch,
)

from artplus.attacks import APGD, PGD, Attack, Combination
from artplus.bridge.art_attack import ArtAttack, check_bound
from artplus.errors import ConfigurationError, SlowPathWarning

_LOSSES = {None: None, "cross_entropy": "ce", "difference_logits_ratio": "dlr"}
_DISPATCHERS = (ProjectedGradientDescent, BasicIterativeMethod, MomentumIterativeMethod)


def as_attack(attack: Any, estimator: Any = None) -> Attack | Combination:
    """Return any attack as artplus runs it.

    An attack of artplus passes through. An ART attack is translated (:func:`translate`) or, with
    a :class:`~artplus.errors.SlowPathWarning`, run through its own ``generate``
    (:class:`~artplus.bridge.art_attack.ArtAttack`).

    Args:
        attack: An attack of artplus or of ART.
        estimator: The ART estimator to be attacked; ``None`` leaves the check to the first call.

    Raises:
        ConfigurationError: for anything else, for a class instead of an object, or for an ART
            attack bound to another model.
        UnsupportedEstimatorError: for an ART attack on an estimator without a torch module.
    """
    if isinstance(attack, type):
        raise ConfigurationError(
            f"attacks are objects, got the class {attack.__name__}; call it: "
            f"{attack.__name__}({'classifier' if issubclass(attack, EvasionAttack) else 'eps=...'})"
        )
    if isinstance(attack, (Attack, Combination)):
        if isinstance(attack, ArtAttack) and estimator is not None:
            check_bound(attack.attack, estimator.model)
        return attack
    if not isinstance(attack, EvasionAttack):
        raise ConfigurationError(
            f"an attack must come from artplus.attacks or art.attacks.evasion, got "
            f"{type(attack).__name__}"
        )
    if estimator is not None:
        check_bound(attack, getattr(estimator, "model", None))
    native = translate(attack)
    if native is not None:
        return native
    adapted = ArtAttack(attack)
    warnings.warn(
        f"ART's {type(attack).__name__}, with these parameters, has no translation to torch and "
        "runs through its own generate, in numpy: every batch leaves the device, and many attacks "
        "go one example at a time. FGM, BIM, MIM, PGD and APGD are fast.",
        SlowPathWarning,
        stacklevel=2,
    )
    return adapted


def translate(attack: EvasionAttack) -> Attack | None:
    """The same attack in torch, with ART's own parameters, or ``None`` where there is none.

    Exactly ART's FGM, BIM, MIM, PGD (all flavours) and APGD: a subclass may do anything. Held
    against ART on the same start in the tests. Three things differ on purpose: restarts keep per
    example the misclassified, then the worst (ART's FGM keeps the luckiest batch, its PGD the last
    restart that changed a prediction); ART's APGD returns its last iterate, this the best; and
    APGD counts as a rise what exceeds the step before, as the paper, not the best so far.

    ``None`` for: other norms than L∞, 2 and 1 (APGD: L∞ and 2), ``minimal``, ``random_eps``, a
    summary writer, no iterations.
    """
    rule = _RULES.get(type(attack))
    return None if rule is None else rule(attack)


def _fgm(attack: Any) -> Attack | None:
    norm = _norm(attack, (np.inf, 2.0, 1.0))
    if norm is None or attack.minimal or attack.summary_writer is not None:
        return None
    return PGD(
        eps=attack.eps,
        norm=norm,
        step_size=attack.eps,
        steps=1,
        random_start=attack.num_random_init > 0,
        restarts=max(1, attack.num_random_init),
        targeted=attack.targeted,
    )


def _pgd(attack: Any) -> Attack | None:
    norm = _norm(attack, (np.inf, 2.0, 1.0))
    if norm is None or attack.random_eps or attack.summary_writer is not None:
        return None
    if attack.max_iter < 1:
        return None
    return PGD(
        eps=attack.eps,
        norm=norm,
        step_size=attack.eps_step,
        steps=attack.max_iter,
        random_start=attack.num_random_init > 0,
        restarts=max(1, attack.num_random_init),
        decay=attack.decay,
        targeted=attack.targeted,
    )


def _dispatched(attack: Any) -> Attack | None:
    # ``attack.eps = 0.1`` changes the dispatcher only; what runs is the attack behind it.
    return translate(attack._attack)


def _apgd(attack: Any) -> Attack | None:
    norm = _norm(attack, (np.inf, 2.0))
    if norm is None or attack.loss_type not in _LOSSES:
        return None
    return APGD(
        eps=attack.eps,
        norm=norm,
        step_size=attack.eps_step,
        steps=attack.max_iter,
        restarts=max(1, attack.nb_random_init),
        loss=cast(Any, _LOSSES[attack.loss_type]),
        targeted=attack.targeted,
    )


def _norm(attack: Any, known: tuple[float, ...]) -> float | None:
    norm = float(attack.norm)
    return norm if norm in known else None


_RULES: dict[type, Callable[[Any], Attack | None]] = {
    FastGradientMethod: _fgm,
    ProjectedGradientDescentNumpy: _pgd,
    ProjectedGradientDescentPyTorch: _pgd,
    AutoProjectedGradientDescent: _apgd,
    **dict.fromkeys(_DISPATCHERS, _dispatched),
}
