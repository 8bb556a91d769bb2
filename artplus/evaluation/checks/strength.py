"""Are the attacks as strong as they must be compared with each other? Carlini's list."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from artplus.attacks import APGD, Attack, Chain, Square
from artplus.evaluation.checks._base import Check, Level
from artplus.evaluation.checks._compare import outdone, surprising
from artplus.evaluation.checks._probe import STEPS, Probe
from artplus.evaluation.checks.stability import span
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
    broken, attacks = len(probe.report.broken), len(probe.report.attacks)
    name, text = "attacks worked", f"{broken} of {plural(attacks, 'attack')} broken."
    if not broken:
        return Check(name, "ok", 0.0, "Every attack kept the rules and moved its inputs.")
    level: Level = "suspicious" if broken < attacks else "broken"
    return Check(name, level, float(broken), text, "See each attack's own reason.")


def right_without_attack(probe: Probe) -> Check | None:
    """Number of examples that are right without an attack: of none, robustness says nothing."""
    correct = probe.report.correct_clean
    if correct is None:
        return None
    right, name = int(correct.sum()), "right without an attack"
    text = f"{right} of {plural(probe.report.n, 'example')} are right without an attack."
    if right:
        return Check(name, "ok", float(right), text)
    return Check(
        name,
        "broken",
        0.0,
        f"{text} So there was nothing to attack.",
        "Compare labels and predictions: the order of the classes, the preprocessing of the "
        "inputs, the weights.",
    )


def square_beats_white_box(probe: Probe) -> Check | None:
    """By how much Square lowers the accuracy under all other attacks; over all examples.

    Attacks that begin with Square (:class:`~artplus.attacks.Chain`) count as Square. AutoAttack
    warns above 0.2 points. Here the gap must also be more than chance, in a sign test of the
    examples that only one side fools.
    """
    report = probe.report
    square = [name for name in report.correct if _begins_with_square(probe.attacks[name])]
    if not square or len(square) == len(report.correct):
        return None
    only_square, only_others = _fooled_by_one_side(report, square)
    gap, name = (only_square - only_others) / report.n, "Square against white box"
    if gap <= GAP or not surprising(only_square, only_others):
        return Check(name, "ok", gap, "Square finds no more than the gradient attacks do.")
    return Check(
        name,
        "suspicious",
        gap,
        f"Square, which uses no gradients, or an attack that starts from its result fools "
        f"{plural(only_square, 'example')} that every attack along gradients leaves right.",
        _MASKED,
    )


def _begins_with_square(attack: Attack) -> bool:
    while isinstance(attack, Chain):
        attack = attack.first
    return isinstance(attack, Square)


def _fooled_by_one_side(report: Report, square: Collection[str]) -> tuple[int, int]:
    """Examples that only the attacks ``square`` fool, and those that only the others fool.

    Where only survivors are attacked, the attacks ``square`` were not run on what others fooled
    before, so the second number is zero.
    """
    if report.only_survivors and report.correct_clean is not None:
        robust, new = report.correct_clean, 0
        for result in report.attacks:
            if result.correct is None:  # broken, but the mistakes that it found count
                robust = robust if result.fooled is None else robust & ~result.fooled
                continue
            new += int((robust & ~result.correct).sum()) if result.name in square else 0
            robust = result.correct
        return new, 0
    by_others, by_square = (
        ~np.logical_and.reduce(
            [correct for name, correct in report.correct.items() if (name in square) == side]
        )
        for side in (False, True)
    )
    return int((by_square & ~by_others).sum()), int((by_others & ~by_square).sum())


def white_box_strongest(probe: Probe) -> Check | None:
    """The white box is at least as strong as Square and as noise; each by a sign test."""
    if probe.gradients is None or not probe.right_or_wrong:
        return None
    rivals = {"random noise": probe.noise, "Square without gradients": probe.black_box}
    better: dict[str, int] = {}
    for rival, fooled in rivals.items():
        if fooled is not None:
            count, unlikely = outdone(probe.white_box, fooled)
            better |= {rival: count} if unlikely else {}
    name = "white box against black box and noise"
    if not better:
        return Check(name, "ok", 0.0, "Following the gradient works better than not following it.")
    comparisons = "; ".join(
        f"{rival} fools {count} that a gradient attack does not" for rival, count in better.items()
    )
    return Check(
        name,
        "suspicious",
        max(better.values()) / len(probe),
        f"Of {len(probe)} examples {comparisons}.",
        _MASKED,
    )


def unconstrained_attack(probe: Probe) -> Check | None:
    """Share of examples that are robust when the radius is the whole range: it must be zero.

    Indicator 6 of attack failure [Pintor22]_. No example can be robust where it may be changed into
    one with another prediction. So the check has no meaning where a mask holds features, nor for a
    model with the same prediction for all examples.
    """
    space, width = probe.data.space, span(probe)
    if probe.gradients is None or not probe.classifies or width is None:
        return None
    if not isinstance(space, InputSpace) or space.mask is not None:
        return None
    predictions = probe.report.predictions_clean
    if predictions is None or (predictions == predictions[0]).all():
        return None
    attack = APGD(eps=width, norm=torch.inf, steps=STEPS, loss="margin", random_start=False)
    share = 1 - float(probe.fooled_by(attack, "unconstrained").double().mean())
    name = "unconstrained attack"
    text = f"{percent(share)} stay right under a gradient attack without a bound."
    if share <= LEFT:
        return Check(name, "ok", share, text)
    level: Level = "broken" if share >= MUCH else "suspicious"
    return Check(name, level, share, f"{text} No model is that robust: the attack fails.", _MASKED)


def monotone_curve(probe: Probe) -> Check | None:
    """Most examples that a smaller radius fools and a larger one does not, against chance."""
    if probe.gradients is None or not probe.right_or_wrong:
        return None
    fooled = [
        probe.white_box
        if scale == 1
        else probe.fooled_by(probe.stronger(scale=scale, steps=20), f"{scale:g} eps")
        for scale in RADII
    ]
    losses = [outdone(wide, narrow) for narrow, wide in zip(fooled, fooled[1:], strict=False)]
    most = max(count for count, _ in losses)
    curve = ", ".join(
        f"{percent(1 - float(flags.double().mean()))} at {scale:g} eps"
        for scale, flags in zip(RADII, fooled, strict=True)
    )
    name, share = "accuracy against radius", most / len(probe)
    if not any(unlikely for _, unlikely in losses):
        return Check(name, "ok", share, f"Accuracy falls with the radius: {curve}.")
    return Check(
        name,
        "suspicious",
        share,
        f"Accuracy rises with the radius: {curve}. The larger ball contains the smaller one, so "
        "the attack fails to find what is there.",
        _MASKED,
    )
