"""Are the attacks as strong as they must be against each other? Carlini's list as checks."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from artplus.attacks import APGD, Attack, Chain, Square
from artplus.evaluation.check import Check, Level
from artplus.evaluation.indicators._compare import outdone, surprising
from artplus.evaluation.indicators.stability import span
from artplus.evaluation.probe import STEPS, Probe
from artplus.evaluation.report import Report
from artplus.evaluation.wording import percent, plural
from artplus.spaces import InputSpace

GAP = 0.002
LEFT, MUCH = 0.05, 0.5
RADII = (0.5, 1.0, 2.0, 4.0)

_MASKED = (
    "The gradients are masked: follow the unavailable-gradients advice, use apgd_t and fab_t, more "
    "queries of Square, and an attack adapted to the defence."
)


def attacks_worked(probe: Probe) -> Check:
    """Number of attacks of the evaluation that do not count."""
    broken, everything = len(probe.report.broken), len(probe.report.attacks)
    name, text = "attacks worked", f"{broken} of {plural(everything, 'attack')} broken."
    if not broken:
        return Check(name, "ok", 0.0, "Every attack kept the rules and moved its inputs.")
    level: Level = "suspicious" if broken < everything else "broken"
    return Check(name, level, float(broken), text, "See each attack's own reason.")


def square_beats_white_box(probe: Probe) -> Check | None:
    """By how much Square lowers the accuracy that all other attacks left; over all examples.

    Whether it is on its own or leads another attack off (:class:`~artplus.attacks.Chain`).
    AutoAttack warns above 0.2 points. Here the gap must also be more than the chance of the draw,
    in a sign test of the examples that fell to one side alone.
    """
    report = probe.report
    blind = [name for name in report.correct if _blind(probe.attacks[name])]
    if not blind or len(blind) == len(report.correct):
        return None
    new, lost = _fallen(report, blind)
    gap, name = (new - lost) / report.n, "Square against white box"
    if gap <= GAP or not surprising(new, lost):
        return Check(name, "ok", gap, "Square finds no more than the gradient attacks do.")
    return Check(
        name,
        "suspicious",
        gap,
        f"{plural(new, 'example')} fell to Square, which sees no gradients, or from where it "
        "ended, and withstood every attack that follows gradients from the input.",
        _MASKED,
    )


def _blind(attack: Attack) -> bool:
    """Whether it begins without gradients."""
    while isinstance(attack, Chain):
        attack = attack.first
    return isinstance(attack, Square)


def _fallen(report: Report, blind: Collection[str]) -> tuple[int, int]:
    """Examples that fell to the attacks named alone, and to the others alone.

    Where only survivors are attacked, what fell before was not shown to the attacks named: then
    nothing is set against what they felled.
    """
    correct = report.correct
    if report.only_survivors and report.correct_clean is not None:
        stood, new = report.correct_clean, 0
        for result in report.attacks:
            if result.correct is None:  # broken, but the mistakes that it found count
                stood = stood if result.fooled is None else stood & ~result.fooled
                continue
            new += int((stood & ~result.correct).sum()) if result.name in blind else 0
            stood = result.correct
        return new, 0
    sighted, unsighted = (
        np.logical_and.reduce([own for name, own in correct.items() if (name in blind) == side])
        for side in (False, True)
    )
    return int((sighted & ~unsighted).sum()), int((unsighted & ~sighted).sum())


def white_box_strongest(probe: Probe) -> Check | None:
    """White box at least as strong as black box, that as noise; each by a sign test."""
    if probe.gradients is None or not probe.classifies:
        return None
    rivals: list[tuple[str, Tensor, str, Tensor]] = [
        ("random noise", probe.noise, "a gradient attack", probe.white_box)
    ]
    black = probe.black_box
    if black is not None:
        rivals.append(("Square without gradients", black, "a gradient attack", probe.white_box))
    beaten = [
        (weak, count, strong)
        for weak, fell, strong, by in rivals
        for count, unlikely in [outdone(by, fell)]
        if unlikely
    ]
    most = max((count for _, count, _ in beaten), default=0)
    name = "white box against black box and noise"
    if not beaten:
        return Check(name, "ok", 0.0, "Following the gradient works better than not to.")
    seen = "; ".join(
        f"{weak} felled {count} that {strong} did not" for weak, count, strong in beaten
    )
    return Check(
        name, "suspicious", most / len(probe), f"Of {len(probe)} examples {seen}.", _MASKED
    )


def unconstrained_attack(probe: Probe) -> Check | None:
    """Share of examples that stand when the radius is the whole range: it must be nothing.

    Indicator 6 of attack failure [Pintor22]_. Nothing can withstand it where an example may be
    turned into one that gets another answer. So it has no meaning where features are held by a
    mask, nor for a model with one answer to all the examples, which may have no other.
    """
    space, width = probe.data.space, span(probe)
    if probe.gradients is None or not probe.classifies or width is None:
        return None
    if not isinstance(space, InputSpace) or space.mask is not None:
        return None
    answers = probe.report.predictions_clean
    if answers is None or (answers == answers[0]).all():
        return None
    attack = APGD(eps=width, norm=torch.inf, steps=STEPS, loss="margin", random_start=False)
    share = 1 - float(probe.wrong_after(attack, "unconstrained").double().mean())
    name = "unconstrained attack"
    text = f"{percent(share)} withstand a gradient attack that may change the input at will."
    if share <= LEFT:
        return Check(name, "ok", share, text)
    level: Level = "broken" if share >= MUCH else "suspicious"
    return Check(name, level, share, f"{text} Nothing withstands that: it is blind.", _MASKED)


def monotone_curve(probe: Probe) -> Check | None:
    """Most examples that a larger radius loses and a smaller one fells, against chance."""
    if probe.gradients is None or not probe.classifies:
        return None
    fallen = [
        probe.white_box
        if scale == 1
        else probe.wrong_after(probe.stronger(scale=scale, steps=20), f"{scale:g} eps")
        for scale in RADII
    ]
    losses = [outdone(wide, narrow) for narrow, wide in zip(fallen, fallen[1:], strict=False)]
    most = max(count for count, _ in losses)
    curve = ", ".join(
        f"{percent(1 - float(fell.double().mean()))} at {scale:g} eps"
        for scale, fell in zip(RADII, fallen, strict=True)
    )
    name, share = "accuracy against radius", most / len(probe)
    if not any(unlikely for _, unlikely in losses):
        return Check(name, "ok", share, f"Accuracy falls with the radius: {curve}.")
    return Check(
        name,
        "suspicious",
        share,
        f"A larger radius leaves more standing: {curve}. It contains the smaller one, so the "
        "attack is losing its way.",
        _MASKED,
    )
