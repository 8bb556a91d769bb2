"""The shortest step onto a hyperplane inside a box, exact in L∞, L2 and L1."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.geometry import Box, usable

_NEGLIGIBLE = 1e-12
"""Weights below this share of the largest count as zero: moving their features gains nothing."""

_FAR = 1e30
"""Stands for infinity in unbounded boxes, because sums of it stay finite."""


def crossing(
    z: Tensor, w: Tensor, gap: Tensor, box: Box, order: float, unit: float | Tensor = 1.0
) -> Tensor:
    r"""The shortest step from ``z`` onto a hyperplane, inside the box [Croce20fab]_.

    .. math:: \min_d \|d / u\|_p \quad \text{s.t.} \quad \langle w, d \rangle = g,
              \quad l \le z + d \le h

    If the box does not reach the hyperplane, the step goes to the point of the box nearest to it.
    Let :math:`a = |w|`, and let :math:`r_i` be the distance from feature :math:`i` to its bound in
    the direction of the hyperplane. The step has lengths :math:`m_i` with
    :math:`\sum_i a_i m_i = |g|`: in L∞ :math:`m_i = \min(r_i, t u_i)`, in L2
    :math:`m_i = \min(r_i, t a_i)`, and in L1 the features move to their bounds one after the other,
    in order of decreasing :math:`a_i`.

    Args:
        z: ``(batch, *input)`` inside the box.
        w: Normals, shaped like ``z``; features of weight zero do not move.
        gap: Required :math:`\langle w, d \rangle`, ``(batch,)``.
        box: Bounds; ``None`` is unbounded.
        order: ``inf``, 2 or 1.
        unit: For L∞, the relative step length of each feature; features of unit zero do not move.

    Returns:
        ``d``, shaped like ``z``.

    References:
        .. [Croce20fab] Croce and Hein, "Minimally distorted adversarial examples with a fast
           adaptive boundary attack", ICML 2020, https://arxiv.org/abs/1907.02044
    """
    side = torch.where(gap < 0, -1, 1).view(-1, *(1,) * (w.ndim - 1))
    rise = (w * side).flatten(1)
    side = torch.copysign(rise.new_ones(()), rise)
    room = _room(z.flatten(1), side, box, z)
    # Normals are divided by their largest entry, since squares of small floats underflow.
    weight = rise.abs()
    peak = weight.amax(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    weight = F.threshold(weight / peak, _NEGLIGIBLE, 0.0)
    height = (gap.abs() / peak.squeeze(1)).clamp_max(torch.finfo(z.dtype).max)
    if order == 1:
        free = _flat(unit, z) > 0 if isinstance(unit, Tensor) else unit > 0
        length = _greedy(weight * free, room, height)
    elif order == 2:
        # Where a weight is zero, the cap is finite and has no effect.
        cap = (room / weight.clamp_min(_NEGLIGIBLE)).clamp_max(_FAR)
        length = torch.minimum(room, _level(weight * weight, cap, height)[:, None] * weight)
    elif isinstance(unit, Tensor):
        share = _flat(unit, z)
        cap = (room / share.clamp_min(torch.finfo(z.dtype).tiny)).clamp_max(_FAR)
        length = torch.minimum(room, _level(weight * share, cap, height)[:, None] * share)
    else:
        length = torch.minimum(room, _level(weight, room, height)[:, None])
    # Without bounds, normals that underflow give no finite step: do not move.
    length = length.where(length < _FAR, 0.0) if _open(box) else length
    return (side * weight.sign() * length).view_as(z)


def _open(box: Box) -> bool:
    return box.low is None or box.high is None


def _flat(unit: Tensor, z: Tensor) -> Tensor:
    return unit.to(z).expand_as(z).flatten(1)


def _room(z: Tensor, side: Tensor, box: Box, like: Tensor) -> Tensor:
    """Distance of each feature to its bound in direction ``side``, 1 or -1; at most ``_FAR``."""
    if box.low is None and box.high is None:
        return torch.full_like(z, _FAR)
    low = -math.inf if box.low is None else _bound(box.low, like)
    high = math.inf if box.high is None else _bound(box.high, like)
    # The larger of the two belongs to this side, since the other is not positive.
    return torch.maximum(side * (high - z), side * (low - z)).clamp(0.0, _FAR)


def _bound(bound: float | Tensor, like: Tensor) -> float | Tensor:
    """A bound as a number, or flattened per example like the points."""
    value = usable(bound, like)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value.expand_as(like).flatten(1)


def _level(weight: Tensor, cap: Tensor, height: Tensor) -> Tensor:
    r"""The :math:`t` with :math:`\sum_i w_i \min(c_i, t) = g`; ``_FAR`` where no ``t`` is enough.

    Both methods are exact up to rounding. On a CPU, Newton's method takes a few passes over the
    features, and sorting costs ten times as much. Its stopping test would synchronise with any
    other device, so there the caps are sorted, which takes a fixed number of operations.
    """
    return (_climbed if weight.device.type == "cpu" else _sorted)(weight, cap, height)


def _climbed(weight: Tensor, cap: Tensor, height: Tensor) -> Tensor:
    """Newton's method from below; the stopping test is made every other pass.

    The sum is concave and piecewise linear in ``t``, so no step goes too far, and the answer is
    exact up to rounding once a step passes no further cap. Every step but the last passes one.
    """
    t, passed, above = torch.zeros_like(height), weight.new_full((), -1.0), torch.empty_like(weight)
    for count in range(weight.shape[1] + 2):
        torch.gt(cap, t[:, None], out=above)
        slope = torch.linalg.vecdot(weight, above)
        value = torch.linalg.vecdot(weight, torch.minimum(cap, t[:, None]))
        rise = (height - value).clamp_min(0.0) / slope
        t = torch.where(slope > 0, t + rise, t)
        if count % 2 and torch.equal(slope, passed):
            break
        passed = slope
    return torch.where((slope == 0) & (height >= value), _FAR, t)


def _sorted(weight: Tensor, cap: Tensor, height: Tensor) -> Tensor:
    """Finds the linear piece of the sum that reaches the height; never synchronises.

    Up to the smallest cap the slope of the sum is that of all weights, up to the next cap that of
    all but one, and so on. All terms are positive, so nothing cancels. The cumulative sums only
    select the piece; one Newton step from its left end, with the sum itself, gives ``t``.
    """
    bends, order = cap.sort(1)
    starts = F.pad(bends[:, :-1], (1, 0))
    slopes = weight.gather(1, order).flip(1).cumsum(1).flip(1)
    values = (slopes * (bends - starts)).cumsum(1)
    pieces = (values < height[:, None]).sum(1, keepdim=True)
    piece = pieces.clamp_max(values.shape[1] - 1)
    low, high, slope = (part.gather(1, piece).squeeze(1) for part in (starts, bends, slopes))
    value = torch.linalg.vecdot(weight, torch.minimum(cap, low[:, None]))
    step = (height - value) / slope.clamp_min(torch.finfo(slope.dtype).tiny)
    t = torch.clamp(low + step, low, high)
    return torch.where(pieces.squeeze(1) == values.shape[1], _FAR, t)


def _greedy(weight: Tensor, room: Tensor, height: Tensor) -> Tensor:
    """Lengths that reach the height with the features of largest weight first."""
    heaviest, order = weight.sort(1, descending=True)
    space = room.gather(1, order)
    gains = (heaviest * space).where(heaviest > 0, 0.0)
    missing = height[:, None] - F.pad(gains.cumsum(1)[:, :-1], (1, 0))
    length = (missing / heaviest).where(heaviest > 0, 0.0).clamp_min(0.0)
    return torch.zeros_like(weight).scatter(1, order, torch.minimum(length, space))
