"""Sets of attacks that complement each other, by name."""

from __future__ import annotations

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
    """For a look while working: a fifth of the time of ``"standard"`` or less.

    Each attack on what the ones before left standing: APGD on cross-entropy, 20 steps; APGD towards
    the 3 likeliest wrong classes, 20 steps each; FAB towards the 2 likeliest, 60 steps each; and
    twice, from where 200 queries of Square end APGD on the margin, 10 steps, and from there FAB
    towards the likeliest, 80 steps. Square needs thousands of queries to fool by itself, but where
    gradients are masked around the input a few hundred lead out of there, and gradients on from
    there. Where Square is not defined, the last is left out.
    """
    if threat.classes is None:
        return _regression(threat, steps=20)
    return {
        "apgd_ce": _ascent(threat, "ce", steps=20),
        **_targeted(threat, steps=20, targets=3),
        "fab_t": FAB(eps=threat.eps, norm=threat.norm, steps=60, targets=2),
        **({"square_chain": make_attack("square_chain", threat)} if threat.squares else {}),
    }


@register_suite("standard")
def standard(threat: Threat) -> Suite:
    """For numbers to be published: the attacks of AutoAttack in its order and at its settings.

    APGD on cross-entropy, 100 steps; APGD towards the 9 likeliest wrong classes, 100 steps each;
    FAB towards the same 9, 100 steps each; Square, 5000 queries (Croce and Hein, 2020). In L1 APGD
    is the sparse one, with 5 restarts and towards 5 classes (Croce and Hein, 2021).

    It is AutoAttack's "standard" written anew, not the authors' code: their docstrings say where
    each attack differs. Missing is, in L2 and L1, Square on other than images. With two classes
    APGD on the margin takes the place of APGD-T; in regression see ``"quick"``. For models that
    are random in evaluation mode take ``"rand"``.
    """
    if threat.classes is None:
        return _regression(threat, steps=100)
    sparse = threat.norm == 1
    return {
        "apgd_ce": _ascent(threat, "ce", restarts=5 if sparse else 1),
        **_targeted(threat, targets=5 if sparse else 9),
        "fab_t": FAB(eps=threat.eps, norm=threat.norm),
        **_square(threat, 5000, rescale=False),
    }


@register_suite("plus")
def plus(threat: Threat) -> Suite:
    """AutoAttack's "plus": untargeted attacks with 5 restarts, then the targeted ones.

    APGD on cross-entropy and on the difference of logits ratio, 100 steps and 5 restarts each; FAB
    to the nearest boundary, 100 steps and 5 restarts; Square, 5000 queries; APGD and FAB towards
    the 9 likeliest wrong classes, 100 steps each. FAB makes a backward pass for each class: in the
    time it takes, "standard" is done many times over, and is seldom higher by a tenth of a point.

    With two classes the margin takes the place of the ratio, and there is nothing left to aim at.
    """
    if threat.classes is None:
        return _regression(threat, steps=100)
    untargeted: Suite = {
        "apgd_ce": _ascent(threat, "ce", restarts=5),
        **_ratio(threat, restarts=5),
        "fab": FAB(eps=threat.eps, norm=threat.norm, targets=None, restarts=5),
        **_square(threat, 5000, rescale=False),
    }
    if threat.classes < 3:
        return untargeted
    return {
        **untargeted,
        **_targeted(threat, targets=9),
        "fab_t": FAB(eps=threat.eps, norm=threat.norm),
    }


@register_suite("rand")
def rand(threat: Threat) -> Suite:
    """AutoAttack's "rand", for models that are random in evaluation mode.

    APGD on cross-entropy and on the difference of logits ratio, 100 steps each of the mean gradient
    of 20 passes (expectation over transformation). What is random must be so in evaluation mode:
    noise or random resizing in the model's ``forward``, not a plain dropout layer.
    """
    if threat.classes is None:
        return {"apgd": APGD(eps=threat.eps, norm=threat.norm, draws=20)}
    return {"apgd_ce": _ascent(threat, "ce", draws=20), **_ratio(threat, draws=20)}


@register_suite("demo")
def demo(threat: Threat) -> Suite:
    """From weak to strong, to be read one under the other.

    FGSM; PGD, 20 steps; APGD, 50 steps; Square as a black box, 500 queries.
    """
    suite: Suite = {
        "fgsm": fgm(threat.eps, norm=threat.norm),
        "pgd": PGD(eps=threat.eps, norm=threat.norm, steps=20),
        "apgd": apgd(threat, steps=50),
    }
    return suite | _square(threat, 500)


def _ascent(
    threat: Threat,
    loss: LossName,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    draws: int = 1,
) -> APGD:
    """Auto-PGD of an ensemble, which only asks who is fooled."""
    return APGD(
        eps=threat.eps,
        norm=threat.norm,
        loss=loss,
        steps=steps,
        restarts=restarts,
        targets=targets,
        draws=draws,
        until_fooled=True,
    )


def _targeted(threat: Threat, *, targets: int, steps: int = 100) -> Suite:
    """APGD-T. With two classes there is one wrong class: the margin to it is climbed instead."""
    if threat.classes is not None and threat.classes < 3:
        return {"apgd_margin": _ascent(threat, "margin", steps=steps)}
    return {"apgd_t": _ascent(threat, "targeted_dlr", steps=steps, targets=targets)}


def _ratio(threat: Threat, *, restarts: int = 1, draws: int = 1) -> Suite:
    """APGD on the difference of logits ratio, which needs three classes; else on the margin."""
    loss: LossName = "margin" if threat.classes is not None and threat.classes < 3 else "dlr"
    return {f"apgd_{loss}": _ascent(threat, loss, restarts=restarts, draws=draws)}


def _square(threat: Threat, queries: int, *, rescale: bool = True) -> Suite:
    """Square where it is defined; in L2 and L1, on other than images, there is none to put in."""
    if not threat.squares:
        return {}
    return {"square": Square(eps=threat.eps, norm=threat.norm, queries=queries, rescale=rescale)}


def _regression(threat: Threat, *, steps: int) -> Suite:
    """Without classes there is no margin: PGD with five restarts takes the others' place."""
    return {
        "apgd": apgd(threat, steps=steps),
        "pgd": PGD(eps=threat.eps, norm=threat.norm, steps=steps, restarts=5),
    }
