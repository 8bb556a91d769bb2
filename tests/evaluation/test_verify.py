"""The rules of the ball, measured in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from artplus.evaluation.verify import TOLERANCE, verify
from artplus.geometry import geometry
from artplus.spaces import InputSpace

FREE = InputSpace()


def moved(norm: float, length: float, scale: float = 0.0) -> tuple[Tensor, Tensor]:
    """Double-precision inputs around ``scale`` and their copies at a distance of ``length``."""
    x = torch.full((3, 4), scale, dtype=torch.float64)
    delta = torch.randn(3, 4, dtype=torch.float64)
    size = geometry(norm).length(delta)
    return x, x + delta * (length / size)[:, None]


@given(norm=st.sampled_from([math.inf, 2.0, 1.0]), eps=st.floats(1e-3, 10))
def test_ball_has_its_tolerance_and_no_more(norm: float, eps: float) -> None:
    """Half the slack is inside, twice the slack is outside, and lengths are the true ones."""
    for slack, outside in ((0.5, False), (2.0, True)):
        x, x_adv = moved(norm, eps * (1 + slack * TOLERANCE))
        measured = verify(x, x_adv, eps=eps, norm=norm, space=FREE)
        assert bool(measured.outside_ball.any()) is outside is bool(measured.outside_ball.all())
        assert measured.lengths.tolist() == pytest.approx([eps * (1 + slack * TOLERANCE)] * 3)


def test_rounding_of_large_inputs_is_no_violation() -> None:
    """On a scale of 0 to 255 a radius of 1e-3 cannot be kept to 1e-4 in float32; it need not."""
    x = torch.full((1, 4), 251.7)
    x_adv = x + 1e-3
    assert float((x_adv.double() - x.double()).abs().max()) > 1e-3 * (1 + TOLERANCE)
    assert not verify(x, x_adv, eps=1e-3, norm=math.inf, space=FREE).outside_ball.any()
    assert verify(x, x + 1.1e-3, eps=1e-3, norm=math.inf, space=FREE).outside_ball.any()


def test_range_may_differ_per_feature() -> None:
    """Bounds per feature are held each for itself, to float32 precision."""
    space = InputSpace(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 1.0]))
    x = torch.zeros(3, 2)
    x_adv = torch.tensor([[0.0, -0.5], [-0.5, 0.0], [1.0000001, 1.0]])
    measured = verify(x, x_adv, eps=5.0, norm=math.inf, space=space)
    assert measured.outside_space.tolist() == [False, True, False]
    assert measured.changed.tolist() == [True, True, True]


def test_changed_sees_the_smallest_change() -> None:
    """One feature of one example is enough."""
    x = torch.rand(2, 3)
    x_adv = x.clone()
    x_adv[1, 2] += 1e-6
    measured = verify(x, x_adv, eps=1.0, norm=2.0, space=FREE)
    assert measured.changed.tolist() == [False, True]


def test_lengths_of_float32_inputs_are_double() -> None:
    """A sum over many features is not rounded on the way."""
    x = torch.rand(2, 5000)
    x_adv = x + torch.rand(2, 5000) * 1e-3
    measured = verify(x, x_adv, eps=10.0, norm=1.0, space=FREE)
    exact = np.abs(x_adv.numpy().astype(float) - x.numpy().astype(float)).sum(1)
    assert measured.lengths.tolist() == pytest.approx(exact.tolist(), rel=1e-12)
