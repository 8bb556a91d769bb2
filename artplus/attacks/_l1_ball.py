"""The nearest point of an L1 ball and a box at once, exactly (Croce and Hein, 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.geometry import Box, Eps, Retraction, clip, usable


def projection(x: Tensor, eps: Eps, box: Box) -> Retraction:
    r"""The Euclidean projection on :math:`\{z : \|z - x\|_1 \le \epsilon, \; l \le z \le h\}`.

    With :math:`u = z - x` and the room :math:`r_i` that each feature has in the direction of
    :math:`u_i`, the projection moves it by :math:`\min(\max(|u_i| - \lambda, 0), r_i)`, where
    :math:`\lambda \ge 0` is the least for which these sum to at most :math:`\epsilon`. Box and
    ball one after the other would end short of the ball's surface.

    Args:
        x: Centre, ``(batch, *input)``, inside the box.
        eps: Radius, a number or one per example.
        box: Bounds; ``None`` is unbounded.
    """
    up = math.inf if box.high is None else usable(box.high, x) - x
    down = math.inf if box.low is None else x - usable(box.low, x)
    # A number fills memory of the device, where a tensor of it would be copied there.
    each = eps.to(x) if isinstance(eps, Tensor) else x.new_full((), eps)
    each = each.expand_as(x).flatten(1)[:, :1]

    def project(z: Tensor) -> Tensor:
        move = z - x
        room = torch.where(move > 0, up, down).to(x).clamp_min(0.0).flatten(1)
        size = move.abs().flatten(1)
        size = torch.minimum((size - _threshold(size, room, each)).clamp_min(0.0), room)
        return clip(x + move.sign() * size.view_as(x), box)

    return project


def _threshold(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    r"""The least :math:`\lambda \ge 0` with :math:`\sum_i \min((|u_i| - \lambda)_+, r_i) \le eps`.

    From the largest :math:`|u_i|` downwards the sum rises in straight pieces: each feature enters
    at :math:`|u_i|` and stops counting at :math:`|u_i| - r_i`.
    """
    bends, order = torch.cat([size, (size - room).clamp_min(0.0)], 1).sort(1, descending=True)
    moving = torch.where(order < size.shape[1], 1.0, -1.0).to(size).cumsum(1)
    drops = bends - F.pad(bends[:, 1:], (0, 1))  # the last one goes down to zero
    sums = (moving * drops).cumsum(1)
    piece = (sums < eps).sum(1, keepdim=True).clamp_max(sums.shape[1] - 1)
    short = (sums.gather(1, piece) - eps).clamp_min(0.0)
    foot = (bends - drops).gather(1, piece)
    return foot + short / moving.gather(1, piece).clamp_min(1.0)
