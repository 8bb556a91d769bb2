"""Sets of attacks that complement each other, by name."""

from __future__ import annotations

from typing import Any

from artplus.attacks import APGD, FAB, PGD, Attack, Square, fgm
from artplus.attacks._goal import LossName
from artplus.evaluation.named import Threat, apgd, make_attack
from artplus.registry import Registry

Suite = dict[str, Attack]

suites: Registry[Suite] = Registry("suite", "artplus.evaluation.suites")
"""Factories ``Threat -> {name: attack}``, for ``evaluate(attacks=name)``."""

register_suite, list_suites = suites.register, suites.names


def make_suite(name: str, threat: Threat) -> Suite:
    """The attacks of the suite called ``name``, to be run in this order.

    Raises:
        UnknownNameError: if no suite has this name.

    Example:
        >>> list(make_suite("standard", Threat(eps=8 / 255, classes=10, shape=(3, 32, 32))))
        ['apgd_ce', 'apgd_t', 'fab_t', 'square']
    """
    return suites.make(name, threat)


@register_suite("quick")
def quick(threat: Threat) -> Suite:
    """For a first impression while working: a fifth of the time of ``"standard"`` or less.

    APGD on cross-entropy, 20 steps; APGD towards the 3 likeliest wrong classes, 20 steps each; FAB
    towards the 2 likeliest, 60 steps each; and twice a chain of 200 queries of Square, APGD on the
    margin, 10 steps, and FAB towards the likeliest class, 80 steps. Square needs thousands of
    queries to fool by itself, but a few hundred lead out of a region around the input where
    gradients are masked. The chain is left out where Square is not defined.
    """
    if threat.classes is None:
        return _regression(threat, steps=20)
    return {
        "apgd_ce": _ascent(threat, "ce", steps=20),
        **_targeted(threat, steps=20, targets=3),
        **_nearest(threat, "fab_t", steps=60, targets=2),
        **({"square_chain": make_attack("square_chain", threat)} if threat.squares else {}),
    }


@register_suite("standard")
def standard(threat: Threat) -> Suite:
    """For numbers to be published: the attacks of AutoAttack in its order and at its settings.

    APGD on cross-entropy, 100 steps; APGD towards the 9 likeliest wrong classes, 100 steps each;
    FAB towards the same 9, 100 steps each; Square, 5000 queries (Croce and Hein, 2020). In L1 APGD
    is the sparse one, with 5 restarts and towards 5 classes (Croce and Hein, 2021).

    It is AutoAttack's "standard" written anew, not the authors' code: the attacks' docstrings say
    where each differs. In L2 and L1, Square runs on images only, and in a hidden space not at all;
    with a radius per token FAB is left out. With two classes APGD on the margin takes the place of
    APGD-T. In regression there are APGD and PGD with five restarts. For models that are random in
    evaluation mode use ``"rand"``.
    """
    if threat.classes is None:
        return _regression(threat, steps=100)
    sparse = threat.norm == 1
    return {
        "apgd_ce": _ascent(threat, "ce", restarts=5 if sparse else 1),
        **_targeted(threat, targets=5 if sparse else 9),
        **_nearest(threat, "fab_t"),
        **_square(threat, 5000, rescale=False),
    }


@register_suite("plus")
def plus(threat: Threat) -> Suite:
    """AutoAttack's "plus": untargeted attacks with 5 restarts, then the targeted ones.

    APGD on cross-entropy and on the difference of logits ratio, 100 steps and 5 restarts each; FAB
    to the nearest boundary, 100 steps and 5 restarts; Square, 5000 queries; APGD and FAB towards
    the 9 likeliest wrong classes, 100 steps each. FAB makes a backward pass for each class, so this
    takes many times as long as "standard", whose accuracy is seldom higher by a tenth of a point.

    With two classes the margin takes the place of the ratio, and there are no targeted attacks.
    """
    if threat.classes is None:
        return _regression(threat, steps=100)
    untargeted: Suite = {
        "apgd_ce": _ascent(threat, "ce", restarts=5),
        **_ratio(threat, restarts=5),
        **_nearest(threat, "fab", targets=None, restarts=5),
        **_square(threat, 5000, rescale=False),
    }
    if threat.classes < 3:
        return untargeted
    return {
        **untargeted,
        **_targeted(threat, targets=9),
        **_nearest(threat, "fab_t"),
    }


@register_suite("rand")
def rand(threat: Threat) -> Suite:
    """AutoAttack's "rand", for models that are random in evaluation mode.

    APGD on cross-entropy and on the difference of logits ratio, 100 steps each of the mean gradient
    of 20 passes (expectation over transformation). What is random must be so in evaluation mode:
    noise or random resizing in the model's ``forward``, not a plain dropout layer.
    """
    if threat.classes is None:
        return {"apgd": APGD(**threat.ball, draws=20)}
    return {"apgd_ce": _ascent(threat, "ce", draws=20), **_ratio(threat, draws=20)}


@register_suite("demo")
def demo(threat: Threat) -> Suite:
    """From weak to strong, for a table to be read from top to bottom.

    FGSM; PGD, 20 steps; APGD, 50 steps; Square as a black box, 500 queries.
    """
    suite: Suite = {
        "fgsm": fgm(threat.eps, norm=threat.norm),
        "pgd": PGD(**threat.ball, steps=20),
        "apgd": apgd(threat, steps=50),
    }
    return suite | _square(threat, 500)


def _ascent(threat: Threat, loss: LossName, **options: Any) -> APGD:
    """Auto-PGD as part of an ensemble: an example is left alone as soon as it is fooled."""
    return APGD(**threat.ball, loss=loss, until_fooled=True, **options)


def _targeted(threat: Threat, *, targets: int, **options: Any) -> Suite:
    """APGD-T; with two classes APGD on the margin, since there is one wrong class."""
    if threat.classes is not None and threat.classes < 3:
        return {"apgd_margin": _ascent(threat, "margin", **options)}
    return {"apgd_t": _ascent(threat, "targeted_dlr", targets=targets, **options)}


def _ratio(threat: Threat, **options: Any) -> Suite:
    """APGD on the difference of logits ratio; with two classes on the margin."""
    loss: LossName = "margin" if threat.classes is not None and threat.classes < 3 else "dlr"
    return {f"apgd_{loss}": _ascent(threat, loss, **options)}


def _nearest(threat: Threat, name: str, **options: Any) -> Suite:
    """FAB; with a radius per token nothing, since it measures whole examples."""
    return {name: FAB(**threat.ball, **options)} if threat.measures_distance else {}


def _square(threat: Threat, queries: int, *, rescale: bool = True) -> Suite:
    """Square where it is defined, else nothing."""
    if not threat.squares:
        return {}
    return {"square": Square(**threat.ball, queries=queries, rescale=rescale)}


def _regression(threat: Threat, *, steps: int) -> Suite:
    """Without classes there is no margin: APGD on the model's loss, and PGD with five restarts."""
    return {
        "apgd": apgd(threat, steps=steps),
        "pgd": PGD(**threat.ball, steps=steps, restarts=5),
    }
