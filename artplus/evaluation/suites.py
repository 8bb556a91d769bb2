"""Sets of attacks that complement each other, by name."""

from __future__ import annotations

from collections.abc import Callable

from artplus.attacks import APGD, PGD, Attack, Square, fgm
from artplus.evaluation.named import Threat, apgd
from artplus.registry import Registry

Suite = dict[str, Attack]
Factory = Callable[[Threat], Suite]

suites: Registry[Factory] = Registry("suite", "artplus.evaluation.suites")


def register_suite(name: str) -> Callable[[Factory], Factory]:
    """Register a factory ``Threat -> {name: attack}``, for ``evaluate(attacks=name)``.

    Raises:
        ConfigurationError: if the name is taken.
    """
    return suites.register(name)


def list_suites() -> list[str]:
    """Names of every registered suite, entry points of other packages included."""
    return suites.names()


def make_suite(name: str, threat: Threat) -> Suite:
    """The attacks of the suite called ``name``, to be run in this order.

    Raises:
        UnknownNameError: if no suite has this name.

    Example:
        >>> list(make_suite("standard", Threat(eps=8 / 255, classes=10, shape=(3, 32, 32))))
        ['apgd_ce', 'apgd_t', 'square']
    """
    return suites.get(name)(threat)


@register_suite("quick")
def quick(threat: Threat) -> Suite:
    """For a look while working: minutes instead of hours, and some points too high.

    APGD on cross-entropy, 20 steps; APGD towards the 3 likeliest wrong classes, 20 steps each;
    Square, 300 queries.
    """
    return _ensemble(threat, steps=20, targets=3, queries=300)


@register_suite("standard")
def standard(threat: Threat) -> Suite:
    """For numbers to be published, as far as it goes.

    APGD on cross-entropy, 100 steps; APGD towards the 9 likeliest wrong classes, 100 steps each;
    Square, 5000 queries. These are three of the four attacks of AutoAttack at its settings (Croce
    and Hein, 2020). It is *not* AutoAttack: FAB-T is missing, so do not enter its numbers where
    AutoAttack's are asked for.
    """
    return _ensemble(threat, steps=100, targets=9, queries=5000)


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


def _ensemble(threat: Threat, *, steps: int, targets: int, queries: int) -> Suite:
    """One attack that maximises the loss, one that minimises the margin, one without gradients.

    With two classes there is one wrong class, so the second climbs the margin. In regression
    there is no margin: PGD with five restarts takes its place.
    """
    eps, norm = threat.eps, threat.norm
    if threat.classes is None:
        return {
            "apgd": apgd(threat, steps=steps),
            "pgd": PGD(eps=eps, norm=norm, steps=steps, restarts=5),
        }
    suite: Suite = {"apgd_ce": apgd(threat, steps=steps)}
    if threat.classes < 3:
        suite["apgd_margin"] = APGD(eps=eps, norm=norm, steps=steps, loss="margin")
    else:
        suite["apgd_t"] = APGD(
            eps=eps, norm=norm, steps=steps, loss="targeted_dlr", targets=targets
        )
    return suite | _square(threat, queries)


def _square(threat: Threat, queries: int) -> Suite:
    """Square where it is defined; in L1, or L2 on other than images, there is none to put in."""
    if not threat.squares:
        return {}
    return {"square": Square(eps=threat.eps, norm=threat.norm, queries=queries)}
