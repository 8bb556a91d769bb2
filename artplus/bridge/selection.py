"""The attacks of an evaluation: suites, names, ART's attacks and ours, all as artplus attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from art.attacks import EvasionAttack

from artplus.attacks import Attack
from artplus.attacks._base import Budget
from artplus.bridge import by_name
from artplus.bridge.art_attack import ArtAttack
from artplus.bridge.attacks import as_attack
from artplus.bridge.subject import Subject
from artplus.errors import ConfigurationError
from artplus.evaluation import (
    AttackResult,
    MinimumNorm,
    Threat,
    list_attacks,
    list_suites,
    make_attack,
    make_suite,
    wording,
)
from artplus.evaluation.settings import plain


def select(
    attacks: Any, threat: Threat | None, subject: Subject
) -> tuple[dict[str, Attack], list[str]]:
    """The attacks by name, and notes about them for the report."""
    if isinstance(attacks, str) and not by_name.is_attack(attacks):
        return _suite(attacks, threat, subject), []
    if isinstance(attacks, Mapping):
        named = dict(attacks)
    else:
        several = attacks if isinstance(attacks, (list, tuple)) else [attacks]
        named = _names(several, lambda name: _suite(name, threat, subject))
    notes: list[str] = []
    return {key: _one(key, value, threat, subject, notes) for key, value in named.items()}, notes


def _suite(name: str, threat: Threat | None, subject: Subject) -> dict[str, Attack]:
    if name not in list_suites():
        raise by_name.unknown(name)
    if not subject.gradients:
        raise ConfigurationError(
            f"suite {name!r} needs gradients, and this estimator only predicts; use "
            "attacks=['square'] or ART attacks built on it, such as HopSkipJump(estimator)"
        )
    return make_suite(name, _required(threat, f"suite {name!r}"))


def _one(
    key: str, attack: Any, threat: Threat | None, subject: Subject, notes: list[str]
) -> Attack:
    if isinstance(attack, str):
        if not (by_name.is_attack(attack) or attack in list_suites()):
            raise by_name.unknown(attack)
        required = _required(threat, f"attack {attack!r}")
        if attack in list_attacks() or attack not in by_name.ART_NAMES:
            return make_attack(attack, required)
        attack = _of_art(attack, required, subject)
    if isinstance(attack, EvasionAttack):
        if subject.translated is None:
            raise ConfigurationError(
                f"ART's {type(attack).__name__} attacks an ART estimator; evaluate that estimator, "
                "or use attacks of artplus on the torch module"
            )
        attack = subject.translated(attack)
    elif not isinstance(attack, Attack):
        attack = as_attack(attack)
    if not isinstance(attack, Attack):
        raise ConfigurationError(
            f"{type(attack).__name__} is for training; evaluation runs each attack by itself: "
            "attacks=[...]"
        )
    if not isinstance(attack, ArtAttack) or attack.eps != float("inf"):
        if threat is not None and not _same(attack.eps, threat.eps, attack.norm, threat.norm):
            notes.append(f"{key} has a radius of its own, so eps= did not change it.")
        return attack
    required = _required(threat, f"{key}, which has no radius of its own,")
    if attack.minimises is None:
        notes.append(
            f"{key} makes no norm small: only examples that it leaves within eps say anything."
        )
    elif attack.minimises != required.norm:
        notes.append(
            f"{key} makes {wording.norm_name(attack.norm)} small but is judged by "
            f"{wording.norm_name(required.norm)}: weaker than an attack made for it."
        )
    return MinimumNorm(attack, required.eps, required.norm, attack.minimises == required.norm)


def _of_art(name: str, threat: Threat, subject: Subject) -> EvasionAttack:
    if subject.estimator is None:
        raise ConfigurationError(
            f"{name!r} is ART's and attacks an ART estimator; evaluate "
            "artplus.wrap(model, x, y, clip_values=...) instead of the torch module"
        )
    return by_name.make_art_attack(name, subject.estimator, threat)


def _required(threat: Threat | None, what: str) -> Threat:
    if threat is None:
        raise ConfigurationError(
            f"{what} needs eps=, the radius to judge by, in the units of x (and norm=, default L∞)"
        )
    return threat


def _same(eps: Budget, other_eps: Budget, norm: float, other_norm: float) -> bool:
    try:
        # numpy raises TypeError for Relative, which its annotations do not allow
        return norm == other_norm and bool(np.all(np.isclose(eps, other_eps)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _names(attacks: Sequence[Any], suite: Callable[[str], Mapping[str, Attack]]) -> dict[str, Any]:
    """Attacks by name, with suites expanded; repeated names get a number."""
    named: dict[str, Any] = {}
    for entry in attacks:
        base = entry if isinstance(entry, str) else type(entry).__name__
        is_suite = (
            isinstance(entry, str) and entry in list_suites() and not by_name.is_attack(entry)
        )
        for name, attack in (suite(entry) if is_suite else {base: entry}).items():
            key, count = name, 1
            while key in named:
                count += 1
                key = f"{name} ({count})"
            named[key] = attack
    return named


def recorded(result: AttackResult, attack: Attack) -> AttackResult:
    """The result with ART's parameters, if the attack runs in ART."""
    inside = attack.attack if isinstance(attack, MinimumNorm) else attack
    if not isinstance(inside, ArtAttack):
        return result
    art_attack = inside.attack
    settings = {key: plain(getattr(art_attack, key, None)) for key in art_attack.attack_params}
    if "attack" in settings:  # SimBA's "attack": pixels or waves
        settings["variant"] = settings.pop("attack")
    return replace(result, params={"attack": f"art {type(art_attack).__name__}", **settings})
