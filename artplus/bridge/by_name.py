"""ART's evasion attacks by short names, with settings fixed here; ART is imported lazily."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from artplus.errors import ConfigurationError, UnknownNameError
from artplus.evaluation.named import Threat, attacks
from artplus.evaluation.suites import suites
from artplus.evaluation.wording import norm_name
from artplus.functional import probabilities
from artplus.registry import did_you_mean

if TYPE_CHECKING:
    from art.attacks import EvasionAttack

Settings = Callable[[Threat], dict[str, Any]]


@dataclass(frozen=True)
class ArtName:
    """An ART attack with its settings.

    Attributes:
        about: One line for display: the attack, and where its settings differ from ART's.
        kinds: Class of ``art.attacks.evasion`` for each norm that it supports.
        settings: Constructor arguments for a threat; ART's defaults apply to the others.
        bounded: Whether ``eps`` is among them; attacks without it have no radius.
        images: Whether it accepts only images, channels first.
        probabilities: Whether it needs probabilities; outputs of the model are then converted.
    """

    about: str
    kinds: Mapping[float, str]
    settings: Settings
    bounded: bool = False
    images: bool = False
    probabilities: bool = False


def _in(class_name: str, *norms: float) -> dict[float, str]:
    return dict.fromkeys(norms, class_name)


def _carlini_l2(threat: Threat) -> dict[str, Any]:
    return {}


def _carlini_linf(threat: Threat) -> dict[str, Any]:
    # ART's 10 steps of 0.01 from a constant of 1e-5 fool almost no example.
    return {"max_iter": 50, "learning_rate": 0.1, "initial_const": 0.01}


def _radius(threat: Threat) -> dict[str, Any]:
    """A first step of ``2 * eps`` as in the Auto-PGD paper; ART's is 0.1 for any radius."""
    eps = _number(threat)
    return {"norm": threat.norm, "eps": eps, "eps_step": 2 * eps}


def _zoo(threat: Threat) -> dict[str, Any]:
    # ART's 10 steps of 0.01 from a constant of 0.001 fool no example, and its resizing is for
    # large images.
    features = math.prod(threat.shape or (128,))
    return {
        "learning_rate": 0.1,
        "max_iter": 100,
        "binary_search_steps": 3,
        "initial_const": 1.0,
        "use_resize": False,
        "use_importance": False,
        "nb_parallel": min(128, features),
    }


ART_NAMES: dict[str, ArtName] = {
    "acg": ArtName(
        "Auto Conjugate Gradient, 100 steps, 5 restarts; first step 2 eps.",
        _in("AutoConjugateGradient", 1, 2, math.inf),
        _radius,
        bounded=True,
    ),
    "art_autoattack": ArtName(
        "AutoAttack of APGD on two losses, DeepFool and Square; untargeted, so weaker than "
        "'standard'; first step 2 eps.",
        _in("AutoAttack", 2, math.inf),
        _radius,
        bounded=True,
        images=True,
    ),
    "art_square": ArtName(
        "Square, 5000 queries (ART: 100).",
        _in("SquareAttack", 2, math.inf),
        lambda t: {"norm": t.norm, "eps": _number(t), "max_iter": 5000},
        bounded=True,
        images=True,
    ),
    "boundary": ArtName(
        "Boundary attack on decisions, 1000 steps (ART: 5000, and targeted).",
        _in("BoundaryAttack", 2),
        lambda t: {"targeted": False, "max_iter": 1000},
    ),
    "brendel_bethge": ArtName(
        "Brendel-Bethge along the boundary, 1000 steps; needs numba.",
        _in("BrendelBethgeAttack", 1, 2, math.inf),
        lambda t: {"norm": t.norm},
    ),
    "carlini": ArtName(
        "carlini_l2 or carlini_linf, by the norm.",
        {2.0: "CarliniL2Method", math.inf: "CarliniLInfMethod"},
        lambda t: _carlini_l2(t) if t.norm == 2 else _carlini_linf(t),
    ),
    "carlini_l2": ArtName(
        "Carlini and Wagner in L2, 10 constants, 10 steps each with a line search.",
        _in("CarliniL2Method", 2),
        _carlini_l2,
    ),
    "carlini_linf": ArtName(
        "Carlini and Wagner in L∞, 50 steps of 0.1, constants from 0.01 (ART: 10, 0.01, 1e-5).",
        _in("CarliniLInfMethod", math.inf),
        _carlini_linf,
    ),
    "deepfool": ArtName(
        "DeepFool, 100 steps, overshoot 0.02 as published (ART: 1e-6).",
        _in("DeepFool", 2),
        lambda t: {"epsilon": 0.02},
    ),
    "elastic_net": ArtName(
        "Elastic net, 9 constants, 100 steps each; the shortest in L1 (ART: in L1 and L2 mixed).",
        _in("ElasticNet", 1),
        lambda t: {"decision_rule": "L1"},
    ),
    "geoda": ArtName(
        "GeoDA on decisions, 4000 queries.",
        _in("GeoDA", 1, 2, math.inf),
        lambda t: {"norm": t.norm},
        images=True,
    ),
    "hopskipjump": ArtName(
        "HopSkipJump on decisions, 50 steps, some 25,000 queries.",
        _in("HopSkipJump", 2, math.inf),
        lambda t: {"norm": t.norm},
    ),
    "racg": ArtName(
        "Rescaling Auto Conjugate Gradient, 100 steps, 5 restarts; first step 2 eps.",
        _in("RescalingAutoConjugateGradient", 1, 2, math.inf),
        _radius,
        bounded=True,
    ),
    "sign_opt": ArtName(
        "Sign-OPT on decisions, at most 20,000 queries; untargeted (ART: targeted).",
        _in("SignOPTAttack", 2),
        lambda t: {"targeted": False},
    ),
    "simba": ArtName(
        "SimBA on probabilities, 3000 waves of eps / 10 (ART: 0.1).",
        _in("SimBA", 2),
        lambda t: {"epsilon": _number(t) / 10, "freq_dim": min(4, (t.shape or (0, 0, 4))[2])},
        images=True,
        probabilities=True,
    ),
    "universal_perturbation": ArtName(
        "One perturbation for a whole batch, gathered with DeepFool, 20 rounds.",
        _in("UniversalPerturbation", 2, math.inf),
        lambda t: {"norm": t.norm, "eps": _number(t)},
        bounded=True,
    ),
    "zoo": ArtName(
        "ZOO, gradients from queries: 3 constants, 100 steps of 0.1 on 128 features (ART: 1, 10).",
        _in("ZooAttack", 2),
        _zoo,
    ),
}
"""Names of ``evaluate(attacks=[...])`` beside those of artplus, which take precedence."""


def is_attack(name: str) -> bool:
    """Whether an attack of artplus or of ART has this name."""
    return name in attacks.names() or name in ART_NAMES


def make_art_attack(name: str, estimator: Any, threat: Threat) -> EvasionAttack:
    """The ART attack called ``name`` on an estimator.

    Args:
        name: A key of :data:`ART_NAMES`.
        estimator: An ART classifier.
        threat: Radius, norm, classes and shape.

    Raises:
        ConfigurationError: if the attack does not support this threat, or needs a missing package.
    """
    spec = ART_NAMES[name]
    if threat.classes is None:
        raise ConfigurationError(f"{name!r} attacks classifiers, and this is a regression")
    class_name = spec.kinds.get(threat.norm)
    if class_name is None:
        norms = " and ".join(norm_name(norm) for norm in spec.kinds)
        first_norm, class_name = next(iter(spec.kinds.items()))
        raise ConfigurationError(
            f"{name!r} is ART's {class_name}, which knows {norms}, not {norm_name(threat.norm)}; "
            f"ask with norm={'numpy.inf' if math.isinf(first_norm) else f'{first_norm:g}'}, or "
            "leave it out"
        )
    if spec.images and threat.shape is not None and len(threat.shape) != 3:
        raise ConfigurationError(
            f"{name!r} takes images (channels, height, width), the inputs are {threat.shape}"
        )
    evasion = import_module("art.attacks.evasion")
    if not hasattr(evasion, class_name):
        raise ConfigurationError(
            f"{name!r} needs numba, without which ART has no {class_name}: pip install numba"
        )
    if spec.probabilities:
        estimator = _with_probabilities(estimator)
    attack: EvasionAttack = getattr(evasion, class_name)(estimator, **spec.settings(threat))
    if "verbose" in attack.attack_params:
        attack.set_params(verbose=False)
    return attack


def unknown(name: str) -> UnknownNameError:
    """The error for an unknown attack or suite, with the nearest and all known names."""
    attack_names, suite_names = attacks.names(), suites.names()
    hint = did_you_mean(name.lower(), [*attack_names, *ART_NAMES, *suite_names])
    return UnknownNameError(
        f"unknown attack or suite {name!r}.{hint} Attacks: {', '.join(attack_names)}; of ART: "
        f"{', '.join(ART_NAMES)}. Suites: {', '.join(suite_names)}. Register your own with "
        "@register_attack or @register_suite."
    )


def _number(threat: Threat) -> float:
    """The radius as one number, which ART's attacks need."""
    if isinstance(threat.eps, bool) or not isinstance(threat.eps, (int, float)):
        raise ConfigurationError(
            f"ART's attacks by name take eps as one number, got {type(threat.eps).__name__}"
        )
    return float(threat.eps)


def _with_probabilities(estimator: Any) -> Any:
    """The same estimator with a ``predict`` that returns probabilities.

    An estimator without a torch module is returned unchanged; most predict probabilities already.
    """
    if not isinstance(getattr(estimator, "model", None), nn.Module):
        return estimator

    def predict(x: Any, **options: Any) -> Any:
        outputs = np.asarray(estimator.predict(x, **options), dtype=np.float64)
        return probabilities(torch.from_numpy(outputs)).numpy()

    with_probabilities = object.__new__(
        type(estimator)
    )  # copy.copy would pickle, for which ART writes the weights to disk
    vars(with_probabilities).update(vars(estimator), predict=predict)
    return with_probabilities
