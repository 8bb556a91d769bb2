"""The projection on an L1 ball and a box at once, held against a quadratic solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from artplus.attacks._l1_ball import projection
from artplus.geometry import geometry
from artplus.spaces import InputSpace

BOXES = [InputSpace(0.0, 1.0), InputSpace(), InputSpace(low=0.0)]


@pytest.mark.parametrize("box", BOXES, ids=["box", "free", "low"])
@pytest.mark.parametrize("eps", [0.1, 1.0, 3.0, 50.0])
def test_it_is_the_nearest_point(box: InputSpace, eps: float) -> None:
    """As near to z as what a quadratic solver finds in ball and box."""
    x = torch.rand(3, 5, dtype=torch.float64)
    z = x + torch.randn_like(x)
    found = projection(x, eps, box)(z)
    for i in range(len(x)):
        u, sign = (z[i] - x[i]).abs().numpy(), torch.sign(z[i] - x[i])
        high = np.inf if box.high is None else 1 - x[i].numpy()
        low = np.inf if box.low is None else x[i].numpy()
        room = np.where(sign > 0, high, low)
        answer = minimize(
            lambda m, u=u: ((m - u) ** 2).sum(), 0 * u, jac=lambda m, u=u: 2 * (m - u),
            bounds=[(0, None if np.isinf(r) else r) for r in room], method="SLSQP",
            constraints={
                "type": "ineq", "fun": lambda m: eps - m.sum(), "jac": lambda m: -np.ones(5)
            },
            options={"ftol": 1e-14},
        )  # fmt: skip
        expected = x[i] + sign * torch.from_numpy(answer.x)
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=0)


@given(st.integers(0, 10_000), st.floats(0.0, 5.0), st.sampled_from(BOXES))
def test_it_ends_in_both_and_leaves_alone_what_is_there(seed, eps, box) -> None:
    """In ball and box, a second time the same, x itself unmoved; radii may differ by example."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 2, 3, generator=generator)
    eps = torch.tensor([1.0, 0.5, 2.0, 0.0]).view(4, 1, 1) * eps
    project = projection(x, eps, box)
    z = project(x + 3 * torch.randn(x.shape, generator=generator))
    assert (geometry(1).length(z - x) <= eps.flatten() * (1 + 1e-5) + 1e-6).all()
    assert box.low is None or z.min() >= 0
    assert box.high is None or z.max() <= 1
    torch.testing.assert_close(project(z), z, atol=1e-6, rtol=1e-6)
    assert torch.equal(project(x), x) and torch.equal(z[3], x[3])


def test_box_and_ball_at_once_reach_the_surface() -> None:
    """Clipping first and projecting then would end inside; the exact projection does not."""
    x, z = torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[5.0, 0.9, 0.8]])
    found = projection(x, 0.6, InputSpace(0.0, 1.0))(z)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.8, 0.7]]))
