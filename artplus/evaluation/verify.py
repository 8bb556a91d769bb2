"""Whether an attack kept the rules: ball, range and mask, in double precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus.attacks._base import Budget, resolve, scaled
from artplus.geometry import Geometry, geometry
from artplus.model import LossModel
from artplus.spaces import Region, Space
from artplus.tree import Tree

TOLERANCE = 1e-4
"""Relative slack of the radius. Attacks add and clip in float32, where a projected perturbation
misses its radius by a few units in the seventh digit; 1e-4 leaves a wide margin above that noise
and changes no accuracy that anybody could measure."""

_UNIT = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Measured:
    """Measurements of a batch of attacked examples; all ``(batch,)``, on the CPU.

    Attributes:
        lengths: Length of each perturbation, float64.
        outside_ball: Which are longer than the radius allows.
        outside_space: Which leave the range of valid inputs or change what is masked.
        changed: Which differ from the input at all.
    """

    lengths: Tensor
    outside_ball: Tensor
    outside_space: Tensor
    changed: Tensor


def verify(x: Tensor, x_adv: Tensor, *, eps: Budget, norm: float, space: Region) -> Measured:
    """Measure attacked inputs that are tensors; see :func:`measure`."""
    return measure(x, x_adv, eps=eps, ball=geometry(norm), region=space)


def verify_in(
    space: Space, model: LossModel, x: Tree, x_adv: Tree, *, eps: Budget, norm: float
) -> Measured:
    """Measure attacked inputs of any form, in the coordinates of the space.

    Lengths are in the unit of ``eps``, which a space can make relative.
    """
    z = space.lift(model, x)
    unit = space.unit(model)
    measured = measure(
        z,
        space.extract(x_adv),
        eps=eps if unit == 1.0 else scaled(eps, unit),
        ball=space.geometry(norm),
        region=space.region(x, z),
    )
    return replace(measured, lengths=measured.lengths / unit)


def measure(z: Tensor, z_adv: Tensor, *, eps: Budget, ball: Geometry, region: Region) -> Measured:
    r"""Measure a perturbation.

    A perturbation is outside its ball if
    :math:`\|x' - x\|_p > \epsilon (1 + \tau) + \|u\,x\|_p`, with :math:`\tau` =
    :data:`TOLERANCE` and :math:`u` the spacing of float32: the second part is the rounding of
    ``x`` itself, which matters for a small radius at large inputs (1 on a scale of 0 to 255).

    Args:
        z: ``(batch, ...)``, clean.
        z_adv: The same under attack; finite.
        eps: Radius that the attack is judged by.
        ball: Its norm, over an example or each token.
        region: Range and mask.
    """
    z, z_adv = z.detach().cpu().double(), z_adv.detach().cpu().double()
    delta, rounding = z_adv - z, z.abs() * _UNIT
    limit = resolve(eps, z, ball)
    if math.isinf(ball.order):
        # Feature by feature, since L∞ allows a radius for each.
        outside = (delta.abs() > limit * (1 + TOLERANCE) + rounding).flatten(1).any(1)
    else:
        radius = torch.as_tensor(limit, dtype=torch.float64).flatten()
        outside = ball.length(delta) > radius * (1 + TOLERANCE) + ball.length(rounding)
    return Measured(
        lengths=ball.length(delta),
        outside_ball=outside,
        outside_space=_outside(z_adv, region) | _masked(delta, rounding, region),
        changed=(delta != 0).flatten(1).any(1),
    )


def _outside(z: Tensor, region: Region) -> Tensor:
    """Below ``low`` or above ``high`` by more than float32 resolves at the scale of the range.

    Inputs that have been normalised are rounded at that scale, not at the scale of the bound.
    """
    outside = torch.zeros(len(z), dtype=torch.bool)
    bounds = {
        sign: torch.as_tensor(bound).cpu().double()
        for sign, bound in ((-1.0, region.low), (1.0, region.high))
        if bound is not None
    }
    slack = 1e-6 * max([1.0, *(float(bound.abs().max()) for bound in bounds.values())])
    for sign, bound in bounds.items():
        outside |= (sign * (z - bound) > slack).flatten(1).any(1)
    return outside


def _masked(delta: Tensor, rounding: Tensor, region: Region) -> Tensor:
    if region.mask is None:
        return torch.zeros(len(delta), dtype=torch.bool)
    held = region.mask.cpu().double() == 0
    return (held & (delta.abs() > rounding)).flatten(1).any(1)
