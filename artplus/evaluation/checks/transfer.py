"""Do attacks made on another model do better than those on the model itself? Indicator 5."""

from __future__ import annotations

import torch
from torch import Tensor

from artplus.evaluation.checks._base import Check
from artplus.evaluation.checks._compare import outdone
from artplus.evaluation.checks._probe import Probe
from artplus.evaluation.wording import percent
from artplus.functional import class_index
from artplus.spaces import Space
from artplus.tree import Tree


def transfer_failure(probe: Probe) -> Check | None:
    """Share of what fools the surrogate and not the model; white box against transfer.

    The share is the indicator of [Pintor22]_: where it is high, an evaluation by transfer means
    nothing. The verdict follows Carlini: transfer must not beat the white box.
    """
    other = probe.surrogate
    if other is None or not probe.classifies:
        return None
    attack = probe.stronger()

    def crafted(x: Tree, y: Tree, space: Space) -> Tensor:
        x_adv = attack(other, x, y, space=space)
        with torch.no_grad():
            on_surrogate = (other(x_adv).argmax(1) != class_index(y)).cpu()
        return torch.stack([on_surrogate, probe.fooled(x, x_adv, y, space, attack)], 1)

    on_surrogate, on_model = probe.over(crafted, "transfer").unbind(1)
    failed = float((on_surrogate & ~on_model).sum()) / max(1, int(on_surrogate.sum()))
    text = f"{percent(failed)} of what fools the surrogate does not fool the model."
    if probe.gradients is None:
        count, unlikely = int(on_model.sum()), bool(on_model.any())
    else:
        count, unlikely = outdone(probe.white_box, on_model)
    if not unlikely:
        return Check("transfer", "ok", failed, f"{text} The white box does no worse.")
    return Check(
        "transfer",
        "suspicious",
        failed,
        f"{text} But it fools {count} of {len(probe)} examples that the white box does not.",
        "Add transfer to the evaluation; the gradients of this model are masked.",
    )
