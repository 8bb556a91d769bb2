"""The exact projection on the intersection of an L1 ball and a box (Croce and Hein, 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.geometry import Box, Eps, Retraction, clip, usable


def projection(x: Tensor, eps: Eps, box: Box) -> Retraction:
    r"""The Euclidean projection on :math:`\{z : \|z - x\|_1 \le \epsilon, \; l \le z \le h\}`.

    Let :math:`u = z - x`, and let :math:`r_i` be the distance from :math:`x_i` to its bound in the
    direction of :math:`u_i`. The projection moves feature :math:`i` by
    :math:`\min(\max(|u_i| - \lambda, 0), r_i)`, where :math:`\lambda \ge 0` is the smallest value
    for which these sum to at most :math:`\epsilon`. Projecting on the box and then on the ball
    would end inside the ball, short of its surface.

    Args:
        x: Centre, ``(batch, *input)``, inside the box.
        eps: Radius, a number or one per example.
        box: Bounds; ``None`` is unbounded.
    """
    up = math.inf if box.high is None else usable(box.high, x) - x
    down = math.inf if box.low is None else x - usable(box.low, x)
    # new_full fills device memory directly; torch.tensor(eps) would be a copy from the host.
    radius = eps.to(x) if isinstance(eps, Tensor) else x.new_full((), eps)
    radius = radius.expand_as(x).flatten(1)[:, :1]

    def project(z: Tensor) -> Tensor:
        delta = z - x
        room = torch.where(delta > 0, up, down).to(x).clamp_min(0.0).flatten(1)
        size = delta.abs().flatten(1)
        size = torch.minimum((size - _threshold(size, room, radius)).clamp_min(0.0), room)
        return clip(x + delta.sign() * size.view_as(x), box)

    return project


def _threshold(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    r"""The least :math:`\lambda \ge 0` with :math:`\sum_i \min((|u_i| - \lambda)_+, r_i) \le eps`.

    As :math:`\lambda` falls from the largest :math:`|u_i|`, the sum rises piecewise linearly: a
    feature starts to contribute at :math:`|u_i|` and is constant from :math:`|u_i| - r_i` on.
    """
    bends, order = torch.cat([size, (size - room).clamp_min(0.0)], 1).sort(1, descending=True)
    moving = torch.where(order < size.shape[1], 1.0, -1.0).to(size).cumsum(1)
    drops = bends - F.pad(bends[:, 1:], (0, 1))  # the last piece ends at zero
    sums = (moving * drops).cumsum(1)
    piece = (sums < eps).sum(1, keepdim=True).clamp_max(sums.shape[1] - 1)
    short = (sums.gather(1, piece) - eps).clamp_min(0.0)
    foot = (bends - drops).gather(1, piece)
    return foot + short / moving.gather(1, piece).clamp_min(1.0)
