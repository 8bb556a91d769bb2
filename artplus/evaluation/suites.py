"""Sets of attacks that complement each other, by name."""

from __future__ import annotations

from collections.abc import Callable

from artplus.attacks import APGD, FAB, PGD, Attack, Square, fgm
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
        ['apgd_ce', 'apgd_t', 'fab_t', 'square']
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
    """For numbers to be published: the attacks of AutoAttack in its order and at its settings.

    APGD on cross-entropy, 100 steps; APGD towards the 9 likeliest wrong classes, 100 steps each;
    FAB towards the same 9, 100 steps each; Square, 5000 queries (Croce and Hein, 2020). In L1 APGD
    is the sparse one, with 5 restarts and towards 5 classes (Croce and Hein, 2021).

    It is AutoAttack's "standard" written anew, not the authors' code: their docstrings say where
    each attack differs. Missing are Square in L1 and, in L2, Square on other than images. With two
    classes APGD on the margin takes the place of APGD-T; in regression see ``"quick"``.
    """
    sparse = threat.norm == 1
    return _ensemble(
        threat, steps=100, targets=5 if sparse else 9, queries=5000, restarts=5 if sparse else 1,
        boundary=True,
    )  # fmt: skip


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


def _ensemble(
    threat: Threat,
    *,
    steps: int,
    targets: int,
    queries: int,
    restarts: int = 1,
    boundary: bool = False,
) -> Suite:
    """One attack that maximises the loss, one that minimises the margin, one without gradients.

    Before the last one that seeks the nearest mistake, if ``boundary``. With two classes there is
    one wrong class, so the second climbs the margin. In regression there is no margin: PGD with
    five restarts takes its place.
    """
    eps, norm = threat.eps, threat.norm
    if threat.classes is None:
        return {
            "apgd": apgd(threat, steps=steps, restarts=restarts),
            "pgd": PGD(eps=eps, norm=norm, steps=steps, restarts=5),
        }
    suite: Suite = {"apgd_ce": apgd(threat, steps=steps, restarts=restarts)}
    if threat.classes < 3:
        suite["apgd_margin"] = APGD(eps=eps, norm=norm, steps=steps, loss="margin")
    else:
        suite["apgd_t"] = APGD(
            eps=eps, norm=norm, steps=steps, loss="targeted_dlr", targets=targets
        )
    if boundary:
        suite["fab_t"] = FAB(eps=eps, norm=norm, steps=steps)
    return suite | _square(threat, queries)


def _square(threat: Threat, queries: int) -> Suite:
    """Square where it is defined; in L1, or L2 on other than images, there is none to put in."""
    if not threat.squares:
        return {}
    return {"square": Square(eps=threat.eps, norm=threat.norm, queries=queries)}
