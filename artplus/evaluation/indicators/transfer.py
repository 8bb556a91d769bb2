"""Do attacks made on another model do better than those on the model itself? Indicator 5."""

from __future__ import annotations

import torch
from torch import Tensor

from artplus.evaluation.check import Check
from artplus.evaluation.indicators._compare import outdone
from artplus.evaluation.probe import Probe
from artplus.evaluation.wording import percent
from artplus.functional import class_index
from artplus.spaces import Space
from artplus.tree import Tree


def transfer_failure(probe: Probe) -> Check | None:
    """Share of what fools the surrogate and not the model; white box against transfer.

    The share is the indicator [Pintor22]_: where it is high, an evaluation by transfer means
    nothing. The alarm is Carlini's: transfer must not beat the white box.
    """
    other = probe.surrogate
    if other is None or not probe.classifies:
        return None
    attack = probe.stronger()

    def crafted(x: Tree, y: Tree, space: Space) -> Tensor:
        x_adv = attack(other, x, y, space=space)
        with torch.no_grad():
            elsewhere = (other(x_adv).argmax(1) != class_index(y)).cpu()
        return torch.stack([elsewhere, probe.judged(x, x_adv, y, space, attack)], 1)

    there, here = probe.over(crafted, "transfer").unbind(1)
    failed = float((there & ~here).sum()) / max(1, int(there.sum()))
    text = f"{percent(failed)} of what fools the surrogate does not fool the model."
    if probe.gradients is None:
        count, unlikely = int(here.sum()), bool(here.any())
    else:
        count, unlikely = outdone(probe.white_box, here)
    if not unlikely:
        return Check("transfer", "ok", failed, f"{text} The white box does no worse.")
    return Check(
        "transfer",
        "suspicious",
        failed,
        f"{text} Yet {count} of {len(probe)} examples fall to it and not to the white box.",
        "Add transfer to the evaluation; the gradients of this model are masked.",
    )
