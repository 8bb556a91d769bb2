"""Did an attack keep the rules? Ball, range and mask, in double precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from artplus.attacks._base import Budget, resolve
from artplus.geometry import geometry
from artplus.spaces import InputSpace

TOLERANCE = 1e-4
"""Relative slack of the radius. Attacks add and clip in float32, where a projected perturbation
misses its radius by a few units in the seventh digit; 1e-4 leaves a wide margin above that noise
and changes no accuracy that anybody could measure."""

_UNIT = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Findings:
    """What one batch of attacked examples shows; all ``(batch,)``, on the CPU.

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


def verify(x: Tensor, x_adv: Tensor, *, eps: Budget, norm: float, space: InputSpace) -> Findings:
    r"""Measure what an attack returned.

    A perturbation is outside its ball if
    :math:`\|x' - x\|_p > \epsilon (1 + \tau) + \|u\,x\|_p`, with :math:`\tau` =
    :data:`TOLERANCE` and :math:`u` the spacing of float32: the second part is the rounding of
    ``x`` itself, which matters for a small radius at large inputs (1 on a scale of 0 to 255).

    Args:
        x: ``(batch, *input)``, what was attacked.
        x_adv: Shaped like ``x``, what came back; finite.
        eps: Radius that the attack is judged by.
        norm: ``inf``, 2 or 1.
        space: Range and mask.
    """
    x, x_adv = x.detach().cpu().double(), x_adv.detach().cpu().double()
    delta, rounding = x_adv - x, x.abs() * _UNIT
    ball = geometry(norm)
    limit = resolve(eps, x, ball)
    if math.isinf(norm):
        # Feature by feature, since L∞ allows a radius for each.
        outside = (delta.abs() > limit * (1 + TOLERANCE) + rounding).flatten(1).any(1)
    else:
        radius = torch.as_tensor(limit, dtype=torch.float64).flatten()
        outside = ball.length(delta) > radius * (1 + TOLERANCE) + ball.length(rounding)
    return Findings(
        lengths=ball.length(delta),
        outside_ball=outside,
        outside_space=_outside(x_adv, space) | _masked(delta, rounding, space),
        changed=(delta != 0).flatten(1).any(1),
    )


def _outside(z: Tensor, space: InputSpace) -> Tensor:
    """Below ``low`` or above ``high`` by more than float32 can tell."""
    beyond = torch.zeros(len(z), dtype=torch.bool)
    for bound, sign in ((space.low, -1.0), (space.high, 1.0)):
        if bound is not None:
            edge = torch.as_tensor(bound).cpu().double()
            slack = 1e-6 * edge.abs().clamp_min(1.0)
            beyond |= (sign * (z - edge) > slack).flatten(1).any(1)
    return beyond


def _masked(delta: Tensor, rounding: Tensor, space: InputSpace) -> Tensor:
    if space.mask is None:
        return torch.zeros(len(delta), dtype=torch.bool)
    held = space.mask.cpu().double() == 0
    return (held & (delta.abs() > rounding)).flatten(1).any(1)
