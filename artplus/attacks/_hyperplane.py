"""The shortest way onto a hyperplane without leaving the box: in L∞, L2 and L1, exactly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.geometry import Box

_NEGLIGIBLE = 1e-12
"""Weights below this share of the largest count as zero: moving such a feature gains nothing."""


def crossing(
    z: Tensor, w: Tensor, gap: Tensor, box: Box, order: float, unit: float | Tensor = 1.0
) -> Tensor:
    r"""The shortest step from ``z`` onto a hyperplane, inside the box [Croce20fab]_.

    .. math:: \min_d \|d / u\|_p \quad \text{s.t.} \quad \langle w, d \rangle = g,
              \quad l \le z + d \le h

    Where the box does not reach the hyperplane, the step to the point of the box nearest to it.
    With :math:`a = |w|` and the room :math:`r` that each feature has in the direction that gains,
    the step has lengths :math:`m_i` with :math:`\sum_i a_i m_i = |g|`: for L∞
    :math:`m_i = \min(r_i, t u_i)`, for L2 :math:`m_i = \min(r_i, t a_i)`, and for L1 the features
    of largest :math:`a_i` go all the way, one after the other.

    Args:
        z: ``(batch, *input)`` inside the box.
        w: Normals, shaped like ``z``; a zero in one keeps the feature.
        gap: What :math:`\langle w, d \rangle` is to be, ``(batch,)``.
        box: Bounds; ``None`` is unbounded.
        order: ``inf``, 2 or 1.
        unit: For L∞, how much of the step's length each feature may take; zero keeps it.

    Returns:
        ``d``, shaped like ``z``.

    References:
        .. [Croce20fab] Croce and Hein, "Minimally distorted adversarial examples with a fast
           adaptive boundary attack", ICML 2020, https://arxiv.org/abs/1907.02044
    """
    rise = w * torch.where(gap < 0, -1, 1).view(-1, *(1,) * (w.ndim - 1))
    room = _room(z, rise, box).flatten(1)
    # Normals divided by their largest entry: the square of a small float underflows to zero.
    weight = rise.abs().flatten(1)
    peak = weight.amax(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    weight = weight / peak
    height = (gap.abs() / peak.squeeze(1)).clamp_max(torch.finfo(z.dtype).max)
    share = torch.as_tensor(unit, dtype=z.dtype, device=z.device).expand_as(z).flatten(1)
    moves = (weight > _NEGLIGIBLE) & (share > 0)
    weight, room = weight.where(moves, 0.0), room.where(moves, 0.0)
    if order == 1:
        length = _greedy(weight, room, height)
    else:
        pace = (weight if order == 2 else share).where(moves, 1.0)
        length = torch.minimum(room, _level(weight * pace, room / pace, height)[:, None] * pace)
    # Without bounds and with normals too small for floats there is no finite step: stay.
    return (rise.sign().flatten(1) * length.where(length < math.inf, 0.0)).view_as(z)


def _room(z: Tensor, rise: Tensor, box: Box) -> Tensor:
    """How far each feature may go in the direction of ``rise``; infinite without bounds."""
    up = math.inf if box.high is None else torch.as_tensor(box.high).to(z) - z
    down = math.inf if box.low is None else z - torch.as_tensor(box.low).to(z)
    return torch.where(rise > 0, up, down).to(z).clamp_min(0.0)


def _level(weight: Tensor, cap: Tensor, height: Tensor) -> Tensor:
    r"""The :math:`t` with :math:`\sum_i w_i \min(c_i, t) = g`; infinite where no ``t`` is enough.

    The sum is the least of the lines :math:`\sum_{j < k} w_j c_j + t \sum_{j \ge k} w_j` over
    sorted caps, so ``t`` is the largest of the places where these lines reach ``g``: no search.
    """
    cap, order = cap.sort(1)
    weight = weight.gather(1, order)
    full = (weight * cap).where(weight > 0, 0.0).cumsum(1)
    below, above = F.pad(full[:, :-1], (1, 0)), weight.flip(1).cumsum(1).flip(1)
    places = ((height[:, None] - below) / above).where(above > 0, 0.0)
    return torch.where(height >= full[:, -1], math.inf, places.amax(1).clamp_min(0.0))


def _greedy(weight: Tensor, room: Tensor, height: Tensor) -> Tensor:
    """Lengths that reach the height by the heaviest features first."""
    heaviest, order = weight.sort(1, descending=True)
    space = room.gather(1, order)
    gains = (heaviest * space).where(heaviest > 0, 0.0)
    missing = height[:, None] - F.pad(gains.cumsum(1)[:, :-1], (1, 0))
    length = (missing / heaviest).where(heaviest > 0, 0.0).clamp_min(0.0)
    return torch.zeros_like(weight).scatter(1, order, torch.minimum(length, space))
