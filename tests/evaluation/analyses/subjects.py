"""Models whose robustness is known in closed form, and reports on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artplus.attacks import PGD
from artplus.evaluation import Report, Section, judge
from artplus.evaluation.section import Curves, Matrix, Series, Table
from artplus.model import LossModel
from artplus.spaces import InputSpace

BOX = InputSpace(0.0, 1.0)
DUAL = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}


def linear(features: int = 12, seed: int = 0) -> nn.Linear:
    """Two classes, the boundary through the middle of the box."""
    torch.manual_seed(seed)
    net = nn.Linear(features, 2)
    with torch.no_grad():
        net.bias.copy_(-(net.weight.sum(1)) / 2)
    return net


def inside(n: int, features: int = 12) -> Tensor:
    """Inputs so far from the box's walls that no short perturbation meets them."""
    return 0.35 + 0.3 * torch.rand(n, features)


def distances(net: nn.Linear, x: Tensor, norm: float) -> np.ndarray[Any, Any]:
    """Distance of each input to the boundary, in ``norm``."""
    w = (net.weight[1] - net.weight[0]).detach()
    gap = net(x).detach().diff(dim=1).squeeze(1).abs()
    return (gap / torch.linalg.vector_norm(w, DUAL[norm])).double().numpy()


def labelled(net: nn.Module, x: Tensor, wrong: int = 0) -> Tensor:
    """What the net predicts, the first ``wrong`` labels changed."""
    y = net(x).detach().argmax(1)
    classes = net(x).shape[1]
    y[:wrong] = (y[:wrong] + 1) % classes
    return y


def looked(
    net: nn.Module | LossModel,
    x: Tensor,
    y: Tensor,
    *analyses: Any,
    eps: float = 0.02,
    norm: float = math.inf,
    space: InputSpace = BOX,
    attack: Any = None,
    **options: Any,
) -> Report:
    """A report by one weak attack, with these analyses."""
    model = net if isinstance(net, LossModel) else LossModel(net)
    attacks = {"pgd": attack or PGD(eps=eps, norm=norm, steps=2)}
    return judge(model, x, y, attacks, space=space, analyses=analyses, progress=False, **options)


def section(*given: Any, **options: Any) -> Section:
    """The only section of :func:`looked`."""
    (found,) = looked(*given, **options).sections
    return found


def blocks(found: Section, kind: type) -> list[Any]:
    """Its blocks of one kind."""
    return [block for block in found.blocks if isinstance(block, kind)]


def curve(found: Section, name: str, number: int = 0) -> Series:
    """A line of one of its charts."""
    (line,) = [s for s in blocks(found, Curves)[number].series if s.name == name]
    return line


def table(found: Section, number: int = 0) -> Table:
    """One of its tables."""
    chosen: Table = blocks(found, Table)[number]
    return chosen


def matrix(found: Section, number: int = 0) -> Matrix:
    """One of its matrices."""
    chosen: Matrix = blocks(found, Matrix)[number]
    return chosen
