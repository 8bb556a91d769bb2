"""Attack outputs on small networks, recorded before the attacks were given a problem to solve.

Run as a script it writes the record, or compares with it to the last bit on the same machine:
``python -m tests.reference.attack_outputs --check tests/reference/attack_outputs.npz``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artplus.attacks import APGD, FAB, FMN, PGD, Relative, Square, WorstOf, bim, fgm, mim
from artplus.losses import make_loss
from artplus.model import as_loss_model
from artplus.spaces import InputSpace

try:
    from artplus.attacks import Chain, Microbatched
except ImportError:  # their names at the commit that the record is of
    from artplus.attacks import Chain as Chain
    from artplus.attacks import Microbatched as Microbatched

RECORD = Path(__file__).with_suffix(".npz")
EPS = {math.inf: 0.12, 2.0: 0.6, 1.0: 1.5}
N, CLASSES, SHAPE = 6, 4, (1, 6, 6)


def network(kind: str) -> nn.Module:
    """Weights of one seed, the same wherever torch's generator is."""
    torch.manual_seed({"cnn": 1, "mlp": 2}[kind])
    if kind == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
            nn.Flatten(), nn.Linear(64, CLASSES),
        )  # fmt: skip
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def _attacks(eps: float, norm: float) -> dict[str, Any]:
    rows = {
        "fgm": fgm(eps, norm=norm),
        "bim": bim(eps, norm=norm, steps=5),
        "mim": mim(eps, norm=norm, steps=5),
        "pgd": PGD(eps=eps, norm=norm, steps=5),
        "pgd_restarts": PGD(eps=eps, norm=norm, steps=3, restarts=3),
        "pgd_targeted": PGD(eps=eps, norm=norm, steps=4, targeted=True),
        "pgd_patience": PGD(eps=eps, norm=norm, steps=6, patience=1),
        "apgd": APGD(eps=eps, norm=norm, steps=12),
        "apgd_margin": APGD(eps=eps, norm=norm, steps=12, loss="margin", restarts=2),
        "apgd_dlr": APGD(eps=eps, norm=norm, steps=12, loss="dlr", until_fooled=True),
        "apgd_t": APGD(eps=eps, norm=norm, steps=8, loss="targeted_dlr", targets=3),
        "apgd_draws": APGD(eps=eps, norm=norm, steps=6, loss="ce", draws=2),
        "fab": FAB(eps=eps, norm=norm, steps=6, targets=None, restarts=2),
        "fab_t": FAB(eps=eps, norm=norm, steps=6, targets=2, restarts=2),
        "fmn": FMN(eps=eps, norm=norm, steps=10),
        "square": Square(eps=eps, norm=norm, queries=40),
        "worst": WorstOf([fgm(eps, norm=norm), PGD(eps=eps, norm=norm, steps=3)]),
        "chain": Chain(
            Square(eps=eps, norm=norm, queries=15),
            APGD(eps=eps, norm=norm, steps=5, loss="margin"),
            restarts=2,
        ),
        "microbatched": Microbatched(PGD(eps=eps, norm=norm, steps=3), 4),
    }
    if norm != 1:
        rows["pgd_relative"] = PGD(eps=Relative(0.1), norm=norm, steps=4)
    if norm == math.inf:
        radius = torch.linspace(0.02, 0.2, 36).view(SHAPE)
        rows["pgd_per_feature"] = PGD(eps=radius, steps=4)
        rows["fab_per_feature"] = FAB(eps=radius, steps=5, targets=2)
        rows["apgd_per_feature"] = APGD(eps=radius, steps=8, loss="margin", until_fooled=True)
    return rows


def _spaces() -> dict[str, InputSpace]:
    torch.manual_seed(5)
    mask = (torch.rand(SHAPE) > 0.3).float()
    each = (torch.rand(N, *SHAPE) > 0.3).float()
    return {
        "box": InputSpace(0.0, 1.0),
        "masked": InputSpace(0.0, 1.0, mask),
        "masked_each": InputSpace(0.0, 1.0, each),
        "open": InputSpace(),
    }


def cases() -> dict[str, Callable[[], Tensor]]:
    """Every case by name, as a function that computes its adversarial examples."""
    found: dict[str, Callable[[], Tensor]] = {}
    for norm, eps in EPS.items():
        for kind in ("cnn", "mlp"):
            for where, space in _spaces().items():
                if kind == "mlp" and where != "masked":
                    continue
                for name, attack in _attacks(eps, norm).items():
                    found[f"{name}|{norm:g}|{kind}|{where}"] = _case(kind, attack, space, None)
            for loss in ("trades", "hinge", "mse"):
                attacks = {
                    "pgd": PGD(eps=eps, norm=norm, steps=4),
                    "pgd_patience": PGD(eps=eps, norm=norm, steps=5, patience=1),
                    "apgd": APGD(eps=eps, norm=norm, steps=8),
                }
                for name, attack in attacks.items():
                    key = f"{name}+{loss}|{norm:g}|{kind}|box"
                    found[key] = _case(kind, attack, InputSpace(0.0, 1.0), loss)
    return found


def _case(kind: str, attack: Any, space: InputSpace, loss: str | None) -> Callable[[], Tensor]:
    def run() -> Tensor:
        model = network(kind)
        torch.manual_seed(3)
        x, y = torch.rand(N, *SHAPE), torch.randint(CLASSES, (N,))
        inner = None if loss is None else make_loss(loss).inner
        x_adv: Tensor = attack(
            as_loss_model(model), x, y, space=space, inner=inner,
            generator=torch.Generator().manual_seed(11),
        )  # fmt: skip
        return x_adv

    return run


def main() -> None:
    """Write the record, or compare with it bit by bit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: run().numpy() for name, run in cases().items()}
    if options.write:
        np.savez_compressed(options.write, **found)
    if options.check:
        with np.load(options.check) as saved:
            differ = [
                name for name, value in found.items() if not np.array_equal(saved[name], value)
            ]
        print(
            f"{len(found) - len(differ)} of {len(found)} outputs equal to the bit; differ: {differ}"
        )


if __name__ == "__main__":
    main()
