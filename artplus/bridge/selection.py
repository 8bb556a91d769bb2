"""Which attacks an evaluation runs: suites, names, ART's attacks and ours, each as one of ours."""

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
    """The attacks by name, and what to say about them."""
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
    return make_suite(name, _needed(threat, f"suite {name!r}"))


def _one(
    key: str, attack: Any, threat: Threat | None, subject: Subject, notes: list[str]
) -> Attack:
    if isinstance(attack, str):
        if not (by_name.is_attack(attack) or attack in list_suites()):
            raise by_name.unknown(attack)
        needed = _needed(threat, f"attack {attack!r}")
        if attack in list_attacks() or attack not in by_name.ART_NAMES:
            return make_attack(attack, needed)
        attack = _of_art(attack, needed, subject)
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
    needed = _needed(threat, f"{key}, which has no radius of its own,")
    if attack.minimises is None:
        notes.append(
            f"{key} makes no norm small: only examples that it leaves within eps say anything."
        )
    elif attack.minimises != needed.norm:
        notes.append(
            f"{key} makes {wording.norm_name(attack.norm)} small but is judged by "
            f"{wording.norm_name(needed.norm)}: weaker than an attack made for it."
        )
    return MinimumNorm(attack, needed.eps, needed.norm, attack.minimises == needed.norm)


def _of_art(name: str, threat: Threat, subject: Subject) -> EvasionAttack:
    if subject.estimator is None:
        raise ConfigurationError(
            f"{name!r} is ART's and attacks an ART estimator; evaluate "
            "artplus.wrap(model, x, y, clip_values=...) instead of the torch module"
        )
    return by_name.make_art_attack(name, subject.estimator, threat)


def _needed(threat: Threat | None, what: str) -> Threat:
    if threat is None:
        raise ConfigurationError(
            f"{what} needs eps=, the radius to judge by, in the units of x (and norm=, default L∞)"
        )
    return threat


def _same(own: Budget, given: Budget, own_norm: float, given_norm: float) -> bool:
    try:
        # numpy's types know no Relative; it raises TypeError for one, which is caught below
        return own_norm == given_norm and bool(np.all(np.isclose(own, given)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _names(attacks: Sequence[Any], suite: Callable[[str], Mapping[str, Attack]]) -> dict[str, Any]:
    """Attacks by name, those of suites among them; a second one of a name is numbered."""
    named: dict[str, Any] = {}
    for entry in attacks:
        base = entry if isinstance(entry, str) else type(entry).__name__
        among = isinstance(entry, str) and entry in list_suites() and not by_name.is_attack(entry)
        for name, attack in (suite(entry) if among else {base: entry}).items():
            key, count = name, 1
            while key in named:
                count += 1
                key = f"{name} ({count})"
            named[key] = attack
    return named


def recorded(result: AttackResult, attack: Attack) -> AttackResult:
    """An attack that runs in ART is on record with its own parameters."""
    inside = attack.attack if isinstance(attack, MinimumNorm) else attack
    if not isinstance(inside, ArtAttack):
        return result
    own = inside.attack
    settings = {key: plain(getattr(own, key, None)) for key in own.attack_params}
    if "attack" in settings:  # SimBA's: in pixels or waves
        settings["variant"] = settings.pop("attack")
    return replace(result, params={"attack": f"art {type(own).__name__}", **settings})
