"""ART attacks as artplus attacks: translated to torch, or run through ``generate``."""

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
    """Return any attack as an artplus attack.

    An artplus attack is returned unchanged. An ART attack is translated (:func:`translate`) or runs
    through its ``generate`` (:class:`~artplus.bridge.art_attack.ArtAttack`), with a
    :class:`~artplus.errors.SlowPathWarning`.

    Args:
        attack: An attack of artplus or of ART.
        estimator: The attacked ART estimator; with ``None`` the first call checks that it fits.

    Raises:
        ConfigurationError: for anything else, for a class instead of an object, or for an ART
            attack built on another model.
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
    translated = translate(attack)
    if translated is not None:
        return translated
    art_attack = ArtAttack(attack)
    warnings.warn(
        f"ART's {type(attack).__name__}, with these parameters, has no translation to torch and "
        "runs through its own generate, in numpy: every batch leaves the device, and many attacks "
        "run one example at a time. FGM, BIM, MIM, PGD and APGD are fast.",
        SlowPathWarning,
        stacklevel=2,
    )
    return art_attack


def translate(attack: EvasionAttack) -> Attack | None:
    """The same attack in torch, with ART's parameters; ``None`` if there is no translation.

    Translated are ART's FGM, BIM, MIM, PGD (all variants) and APGD, but not subclasses of them. The
    tests compare the results with ART's from the same start. Three things differ on purpose:
    (1) restarts keep, per example, a misclassified result, then the worst (ART's FGM keeps the best
    batch, its PGD the last restart that changed a prediction); (2) APGD returns the best iterate,
    ART's the last; (3) APGD counts a rise over the previous step, as in the paper, where ART counts
    a rise over the best so far.

    There is no translation for norms other than L∞, 2 and 1 (APGD: L∞ and 2), for ``minimal``,
    ``random_eps`` or a summary writer, and without iterations.
    """
    translator = _TRANSLATORS.get(type(attack))
    return None if translator is None else translator(attack)


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


def _dispatcher(attack: Any) -> Attack | None:
    # ``attack.eps = 0.1`` changes only the dispatcher; the attack behind it is what runs.
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


def _norm(attack: Any, supported: tuple[float, ...]) -> float | None:
    norm = float(attack.norm)
    return norm if norm in supported else None


_TRANSLATORS: dict[type, Callable[[Any], Attack | None]] = {
    FastGradientMethod: _fgm,
    ProjectedGradientDescentNumpy: _pgd,
    ProjectedGradientDescentPyTorch: _pgd,
    AutoProjectedGradientDescent: _apgd,
    **dict.fromkeys(_DISPATCHERS, _dispatcher),
}
