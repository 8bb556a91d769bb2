"""Are the attacks as strong as they must be against each other? Carlini's list as checks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from artplus.attacks import APGD, Square
from artplus.evaluation.finding import Finding, Level
from artplus.evaluation.indicators._compare import outdone, surprising
from artplus.evaluation.indicators.stability import span
from artplus.evaluation.probe import STEPS, Probe
from artplus.evaluation.wording import percent, plural

GAP = 0.002
LEFT, MUCH = 0.05, 0.5
RADII = (0.5, 1.0, 2.0, 4.0)

_MASKED = (
    "The gradients are masked: follow the unavailable-gradients advice, use apgd_t and fab_t, more "
    "queries of Square, and an attack adapted to the defence."
)


def attacks_worked(probe: Probe) -> Finding:
    """Number of attacks of the evaluation that do not count."""
    broken, everything = len(probe.report.broken), len(probe.report.attacks)
    name, text = "attacks worked", f"{broken} of {plural(everything, 'attack')} broken."
    if not broken:
        return Finding(name, "ok", 0.0, "Every attack kept the rules and moved its inputs.")
    level: Level = "suspicious" if broken < everything else "broken"
    return Finding(name, level, float(broken), text, "See each attack's own reason.")


def square_beats_white_box(probe: Probe) -> Finding | None:
    """By how much Square alone lowers the accuracy that all other attacks left; over all examples.

    AutoAttack warns above 0.2 points. Here the gap must also be more than the chance of the draw,
    in a sign test of the examples that fell to one side alone.
    """
    report = probe.report
    squares = [r for r in report.working if isinstance(probe.attacks[r.name], Square)]
    others = [r.correct for r in report.working if r not in squares and r.correct is not None]
    if not squares or not others or squares[0].correct is None:
        return None
    stood = np.logical_and.reduce(others)
    square = squares[0].correct
    new, lost = int((stood & ~square).sum()), int((square & ~stood).sum())
    if report.only_survivors:  # Square was not shown what fell before: nothing to set against it
        lost = 0
    gap, name = (new - lost) / report.n, "Square against white box"
    if gap <= GAP or not surprising(new, lost):
        return Finding(name, "ok", gap, "Square finds no more than the gradient attacks do.")
    return Finding(
        name,
        "suspicious",
        gap,
        f"Square, which sees no gradients, felled {plural(new, 'example')} that withstood every "
        "attack with gradients.",
        _MASKED,
    )


def white_box_strongest(probe: Probe) -> Finding | None:
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
        return Finding(name, "ok", 0.0, "Following the gradient works better than not to.")
    seen = "; ".join(
        f"{weak} felled {count} that {strong} did not" for weak, count, strong in beaten
    )
    return Finding(
        name, "suspicious", most / len(probe), f"Of {len(probe)} examples {seen}.", _MASKED
    )


def unconstrained_attack(probe: Probe) -> Finding | None:
    """Share of examples that stand when the radius is the whole range: it must be nothing.

    Indicator 6 of attack failure [Pintor22]_. Nothing can withstand it where an example may be
    turned into one that gets another answer. So it has no meaning where features are held by a
    mask, nor for a model with one answer to all the examples, which may have no other.
    """
    if probe.gradients is None or not probe.classifies or probe.bench.space.mask is not None:
        return None
    answers = probe.report.predictions_clean
    if answers is None or (answers == answers[0]).all():
        return None
    attack = APGD(eps=span(probe), norm=torch.inf, steps=STEPS, loss="margin", random_start=False)
    share = 1 - float(probe.wrong_after(attack, "unconstrained").double().mean())
    name = "unconstrained attack"
    text = f"{percent(share)} withstand a gradient attack that may change the input at will."
    if share <= LEFT:
        return Finding(name, "ok", share, text)
    level: Level = "broken" if share >= MUCH else "suspicious"
    return Finding(name, level, share, f"{text} Nothing withstands that: it is blind.", _MASKED)


def monotone_curve(probe: Probe) -> Finding | None:
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
        return Finding(name, "ok", share, f"Accuracy falls with the radius: {curve}.")
    return Finding(
        name,
        "suspicious",
        share,
        f"A larger radius leaves more standing: {curve}. It contains the smaller one, so the "
        "attack is losing its way.",
        _MASKED,
    )
