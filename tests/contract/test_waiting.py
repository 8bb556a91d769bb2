"""No step of an attack waits for its device, shown on one that holds no values.

On the ``meta`` device whatever asks for a value raises: ``item``, ``bool``, ``equal``, ``cpu``. So
an attack that gets through has asked for none, but where it may: ``nonzero``, with which it looks
for fooled examples, is counted here and answered with all. What is copied there is counted too.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import artplus
from artplus.attacks import (
    APGD,
    FAB,
    FMN,
    PGD,
    Chain,
    Microbatched,
    Noise,
    PowerIteration,
    SMARTAttack,
    Square,
    WorstOf,
)
from artplus.geometry import clip
from artplus.model import LossModel
from artplus.spaces import InputSpace

SHAPE, CLASSES, N = (2, 6, 6), 3, 3
aten = torch.ops.aten


class Looks(TorchDispatchMode):
    """Counts looks and copies to the device of tensors; a look finds all examples standing."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.nonzero.default:
            self.seen["look"] += 1
            return torch.arange(len(args[0]), device=args[0].device)[:, None]
        if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            self.seen["mask"] += len(masks)
        found = func(*args, **(kwargs or {}))
        source = args[1] if func is aten.copy_.default else args[0] if args else None
        if func in (aten._to_copy.default, aten.copy_.default):
            self.seen["copy"] += source.device != found.device
        return found


class Numbers(TorchFunctionMode):
    """Counts numbers and arrays of the host that become tensors on the device."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (torch.as_tensor, torch.tensor, Tensor.new_tensor):
            value = args[0] if func is not Tensor.new_tensor else args[1]
            self.seen["copy"] += not isinstance(value, Tensor) and found.device.type == "meta"
        return found


def waits(attack: Any, space: InputSpace, forward: Any = None, *, minimum: bool = False) -> Counter:
    """What an attack on a device looks at and copies there."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).to("meta")
    x = torch.empty(N, *SHAPE, device="meta")
    y = torch.zeros(N, dtype=torch.long, device="meta")
    seen: Counter[str] = Counter()
    model = LossModel(net, forward=None if forward is None else lambda z: net(forward(z)))
    with Looks(seen), Numbers(seen):
        found = attack.minimum(model, x, y, space=space) if minimum else None
        found = attack(model, x, y, space=space) if found is None else found[0]
    assert found.shape == x.shape
    return seen


MASK = torch.ones(SHAPE, dtype=torch.float64)
SPACES = {
    "numbers": InputSpace(0.0, 1.0),
    "tensors of one number": InputSpace(torch.tensor(0.0), torch.tensor([1.0])),
    "per feature": InputSpace(torch.zeros(2, 1, 1), torch.ones(2, 1, 1), MASK),
    "mixed": InputSpace(0.0, torch.ones(SHAPE)),
    "low": InputSpace(low=0.0, mask=MASK.bool()),
    "none": InputSpace(),
}

ATTACKS: dict[str, Any] = {
    "pgd": lambda n, **k: PGD(steps=n, **k),
    "pgd-restarts": lambda n, **k: PGD(steps=n, restarts=2, decay=1.0, **k),
    "apgd": lambda n, **k: APGD(steps=n, **k),
    "apgd-draws": lambda n, **k: APGD(steps=n, loss="dlr", draws=2, **k),
    "apgd-t": lambda n, **k: APGD(steps=n, loss="targeted_dlr", targets=1, **k),
    "fmn": lambda n, **k: FMN(steps=n, **k),
    "noise": lambda n, **k: Noise(**k),
    "power-iteration": lambda n, **k: PowerIteration(steps=n, **k),
    "smart": lambda n, **k: SMARTAttack(steps=n, **k),
    "worst": lambda n, **k: WorstOf([PGD(steps=n, **k), PGD(steps=n, **k)]),
    "sliced": lambda n, **k: Microbatched(PGD(steps=n, **k), 2),
    # Those whose examples leave.
    "pgd-patience": lambda n, **k: PGD(steps=n, patience=1, **k),
    "apgd-leaving": lambda n, **k: APGD(steps=n, loss="ce", until_fooled=True, **k),
    "fab": lambda n, **k: FAB(steps=n, targets=None, **k),
    "fab-t": lambda n, **k: FAB(steps=n, targets=1, **k),
    "square": lambda n, **k: Square(queries=n, **k),
    "relay": lambda n, **k: Chain(Square(queries=n, **k), APGD(steps=5, loss="margin", **k)),
}
LOOKS = {"pgd-patience": 1, "apgd-leaving": 1, "fab": 1, "fab-t": 1, "square": 2, "relay": 2}
"""How many more there are in 20 steps than in 10: at the 16th; Square, which has made two queries
before it counts, looks at the eighth later."""

ROWS = [(name, "per feature") for name in ATTACKS]
ROWS += [("apgd", space) for space in SPACES if space != "per feature"]
ROWS += [("fab-t", "numbers"), ("fab-t", "low"), ("fmn", "low"), ("square", "numbers")]


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
@pytest.mark.parametrize(("name", "space"), ROWS)
def test_no_step_waits_for_the_device_or_copies_to_it(name: str, space: str, norm: float) -> None:
    """Twice the steps wait no more often, but for one look in eight steps where examples leave."""
    short, long = (waits(ATTACKS[name](n, eps=0.1, norm=norm), SPACES[space]) for n in (10, 20))
    long["look"] -= LOOKS.get(name, 0)
    assert long == short
    assert short["mask"] == 0 and short["copy"] <= 8


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
@pytest.mark.parametrize("make", [partial(FAB, eps=0.1, targets=1), partial(FMN, eps=0.1)])
def test_the_search_for_the_nearest_mistake_never_looks(make: Any, norm: float) -> None:
    """``minimum`` has nothing that leaves, so its steps have no looks either."""
    short, long = (
        waits(make(norm=norm, steps=n), SPACES["per feature"], minimum=True) for n in (10, 20)
    )
    assert long == short


def test_per_feature_radii_are_on_the_device_before_the_first_step() -> None:
    """Arrays of the host, which L∞ allows, are copied once too."""
    eps = np.full((2, 1, 1), 0.1)
    for make in (PGD, APGD, partial(FAB, targets=1)):
        short, long = (waits(make(eps=eps, steps=n), SPACES["numbers"]) for n in (10, 20))
        assert long["copy"] == short["copy"] > 0


def test_the_counts_see_what_waits() -> None:
    """A model that copies raises the count by one a pass, and one that looks gets nowhere."""
    attack, bounds, free = PGD(eps=0.1, steps=20), torch.ones(SHAPE), InputSpace()
    assert waits(attack, free)["copy"] == 0
    for careless in (
        lambda z: clip(z, InputSpace(high=bounds)),
        lambda z: z + torch.as_tensor(0.5, device=z.device),
        lambda z: z * z.new_tensor(2.0),
    ):
        assert waits(attack, free, careless)["copy"] == 20
    assert waits(attack, free, lambda z: z + 0 * len(z.nonzero()))["look"] == 20
    for looking in (lambda z: z * float(z.detach().max()), lambda z: z if z.equal(z) else -z):
        with pytest.raises((RuntimeError, NotImplementedError)):
            waits(attack, free, looking)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((0, 1), (0.0, 1.0)),
        ((np.float32(0.1), torch.tensor(0.7)), (float(np.float32(0.1)), float(np.float32(0.7)))),
        ((np.zeros((2, 1, 1)), 1), (torch.zeros(2, 1, 1), 1.0)),
    ],
)
def test_evaluate_keeps_numbers_as_numbers(given: Any, kept: Any) -> None:
    """``clip_values`` reach attacks as they are needed: numbers in float32, arrays as tensors."""
    spaces: list[InputSpace] = []

    class Watching(PGD):
        def __call__(self, model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
            spaces.append(options["space"])
            return super().__call__(model, x, y, **options)

    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    x, y = torch.full((2, *SHAPE), 0.5), torch.tensor([0, 1])
    artplus.evaluate(
        net, x, y, attacks=[Watching(eps=0.1, steps=2)], clip_values=given, progress=False
    )
    for found, expected in zip((spaces[0].low, spaces[0].high), kept, strict=True):
        assert type(found) is type(expected)
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
