"""Did the attacks finish, and return their best point? Indicators 3 and 4 of attack failure."""

from __future__ import annotations

import torch
from torch import Tensor

from artplus.evaluation.checks._base import Check
from artplus.evaluation.checks._probe import STEPS, Probe
from artplus.evaluation.wording import percent, plural

LAST = 10
RISING = 0.05
HALF = 0.5
MORE = 0.05


def silent_success(probe: Probe) -> Check | None:
    """Robust examples for which an attack tried a mistake and returned none [Pintor22]_."""
    paths = probe.paths
    if probe.robust is None or not paths:
        return None
    missed = torch.stack([path.missed for path in paths.values()]).any(0) & probe.robust
    count, name = int(missed.sum()), "silent success"
    if not count:
        return Check(name, "ok", 0.0, "Every attack returned the mistakes that it tried.")
    return Check(
        name,
        "suspicious",
        float(count),
        f"For {plural(count, 'example')} that count as robust an attack tried a mistake on its way "
        "and returned something else.",
        "Keep the best point of each attack, not the last (apgd does; pgd with restarts keeps the "
        "best of their ends).",
    )


def incomplete_optimisation(probe: Probe) -> Check | None:
    """Share of robust examples whose margin every attack was still raising [Pintor22]_.

    As in the authors' code, an attack is not done with an example if the running best of its
    margin, scaled to [0, 1] over the run, rose by more than 0.05 in the last 10 forward passes.
    """
    paths = probe.paths
    if probe.robust is None or not bool(probe.robust.any()) or not paths:
        return None
    rising = torch.stack([unfinished(path.margins) for path in paths.values()]).all(0)
    share = float(rising[probe.robust].double().mean())
    name = "incomplete optimisation"
    text = (
        f"For {percent(share)} of the robust examples every gradient attack was still gaining in "
        "its last steps."
    )
    if share <= HALF:
        return Check(name, "ok", share, text)
    return Check(name, "suspicious", share, text, "More steps, or a longer step.")


def more_steps(probe: Probe) -> Check | None:
    """Share of examples that are robust, but not to 50 steps of Auto-PGD [Carlini19]_.

    References:
        .. [Carlini19] Carlini et al., "On evaluating adversarial robustness", 2019,
           https://arxiv.org/abs/1902.06705
    """
    if probe.robust is None or probe.gradients is None:
        return None
    fooled = int((probe.white_box & probe.robust).sum())
    share, name = fooled / len(probe), "more steps"
    if share <= MORE:
        return Check(name, "ok", share, "A further gradient attack finds hardly anything new.")
    return Check(
        name,
        "suspicious",
        share,
        f"{STEPS} steps of Auto-PGD fool {fooled} of {len(probe)} examples that are "
        "robust to every attack.",
        "Use stronger attacks: the suite standard, or more steps and restarts.",
    )


def unfinished(margins: Tensor) -> Tensor:
    """``(batch,)`` booleans of margins ``(points, batch)``: which were still rising at the end."""
    best = margins.double().cummax(0).values
    low, high = margins.double().amin(0), best[-1]
    scale = torch.where(high > low, high - low, 1.0)
    last = best[-min(LAST, len(best)) :]
    return (last[-1] - last[0]) / scale > RISING
