"""The Square attack: its schedule, its shapes, and what random search must achieve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import Square
from artplus.attacks._patterns import Canvas, pyramid
from artplus.criterion import criterion
from artplus.errors import ConfigurationError
from artplus.functional import margin
from artplus.model import LossModel
from artplus.spaces import InputSpace

BOX = InputSpace(0.0, 1.0)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def linear(*shape: int, classes: int = 3) -> tuple[LossModel, nn.Linear]:
    net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
    return LossModel(net), net[1]


def test_the_schedule_is_the_authors() -> None:
    """Out of 10 000 queries the share halves after 10, 50, 200, 500, 1000, 2000, 4000, ..."""
    attack = Square(eps=0.1, queries=10_000)
    table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 501: 16, 1001: 32, 2001: 64}
    table |= {4000: 64, 4001: 128, 6001: 256, 8000: 256, 8001: 512, 9999: 512}
    assert {q: round(0.8 / attack._share(q)) for q in table} == table
    assert Square(eps=0.1, queries=1000)._share(2) == pytest.approx(0.4)


def slow_pyramid(side: int) -> np.ndarray:
    """The paper's eta written as its loops: frames 1/k^2 around each half's middle."""

    def half(rows: int) -> np.ndarray:
        out = np.zeros((rows, side))
        a, b = rows // 2, side // 2
        for k in range(max(a, b) + 1):
            for i in range(rows):
                for j in range(side):
                    if max(abs(i - a), abs(j - b)) <= k:
                        out[i, j] += 1 / (k + 1) ** 2
        return out / np.linalg.norm(out)

    whole = np.concatenate([half(side // 2), -half(side - side // 2)])
    return whole / np.linalg.norm(whole)


@pytest.mark.parametrize("side", [2, 3, 4, 5, 7, 12])
def test_pyramids_are_the_papers(side: int) -> None:
    """A bump above a hollow, of unit length, in nested frames."""
    found = pyramid(side, torch.zeros(1, dtype=torch.float64))
    np.testing.assert_allclose(found, slow_pyramid(side), atol=1e-12)


def test_linf_reaches_the_corner_that_a_linear_model_fears() -> None:
    """On a linear model the best of all +-eps patterns is known; the search comes close to it."""
    model, layer = linear(1, 4, 4, classes=2)
    x, y = torch.full((5, 1, 4, 4), 0.5), torch.zeros(5, dtype=torch.long)
    layer.bias.data = torch.tensor([100.0, 0.0])  # never fooled, so the search goes on
    w = layer.weight[1] - layer.weight[0]
    best = (x.flatten(1) @ w) + layer.bias[1] - layer.bias[0] + 0.1 * w.abs().sum()
    found = margin(model(Square(eps=0.1, queries=600)(model, x, y, generator=seed(0))), y)
    torch.testing.assert_close(found, best, atol=2e-3, rtol=0)


def test_l2_gains_most_of_what_a_linear_model_allows() -> None:
    """With L2 the margin rises by over half of eps |w|_2, and never beyond it."""
    model, layer = linear(1, 9, 9, classes=2)
    ramp = torch.linspace(-1, 1, 9).outer(torch.ones(9)).flatten()
    layer.weight.data = torch.stack([-ramp, ramp])
    layer.bias.data = torch.tensor([100.0, 0.0])
    x, y = torch.full((4, 1, 9, 9), 0.5), torch.zeros(4, dtype=torch.long)
    most = 0.5 * 2 * ramp.norm()
    x_adv = Square(eps=0.5, norm=2, queries=400)(model, x, y, generator=seed(0))
    gain = margin(model(x_adv), y) - margin(model(x), y)
    assert (gain > 0.55 * most).all() and (gain <= most * (1 + 1e-4)).all()


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_the_margin_never_falls_with_more_queries(norm: float) -> None:
    """What is kept is the best so far, and x itself if nothing is worse."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 4))
    model, x, y = LossModel(net), torch.rand(6, 2, 6, 6), torch.randint(4, (6,))
    heights = [margin(net(x), y)]
    for queries in (2, 5, 30):
        attack = Square(eps=0.05, norm=norm, queries=30)
        object.__setattr__(attack, "queries", queries)
        # the schedule of 30 queries, cut short: a prefix of the same search
        object.__setattr__(attack, "_share", Square(eps=0.05, norm=norm, queries=30)._share)
        x_adv = attack(model, x, y, space=BOX, generator=seed(1))
        heights.append(margin(net(x_adv), y))
    for before, after in zip(heights, heights[1:], strict=False):
        assert (after >= before).all()
    assert (heights[-1] > heights[0]).any()


def test_each_query_asks_only_for_those_still_standing() -> None:
    """Fooled examples leave the batch; the query budget holds for each example."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    sizes: list[int] = []

    def counting(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return net(z)

    x = torch.rand(8, 1, 6, 6)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # wrong from the start: asked twice and left as it is or worse
    Square(eps=0.15, queries=60)(LossModel(net, forward=counting), x, y, generator=seed(0))
    assert sizes[:2] == [8, 8] and len(sizes) <= 60
    assert sizes[2] < 8 and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("shape", [(12,), (2, 10), (3, 7, 5)])
def test_linf_takes_rows_signals_and_images(shape: tuple[int, ...]) -> None:
    """Stripes fill the ball, later changes are runs of neighbours of one sign per channel."""
    model, layer = linear(*shape)
    layer.bias.data = torch.tensor([100.0, 0.0, 0.0])
    x, y = torch.full((3, *shape), 0.5), torch.zeros(3, dtype=torch.long)
    x_adv = Square(eps=0.1, queries=50)(model, x, y, space=BOX, generator=seed(0))
    moved = (x_adv - x).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-6)
    assert (margin(model(x_adv), y) > margin(model(x), y)).all()


def test_windows_reach_every_pixel() -> None:
    """Over many draws each pixel is inside some window, the last row and column too."""
    x = torch.zeros(400, 2, 6, 5)
    canvas = Canvas.of(x, tiled=False)
    side = canvas.side(0.3)
    assert side == (3, 3)
    window = canvas.window(canvas.corners(400, side, x, seed(0)), side, x)
    assert window.shape == x.shape
    assert (window.flatten(1).sum(1) == 2 * 9).all()
    assert window.any(0).all() and not window.all(0).any()


def test_moving_a_window_keeps_to_the_radius() -> None:
    """One window takes the other's length and the unused part of eps, as the paper's equation."""
    x = torch.zeros(50, 3, 9, 9)
    canvas = Canvas.of(x, tiled=True)
    delta = torch.randn(x.shape, generator=seed(0))
    delta = 0.6 * delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    new = canvas.moved(delta, 1.0, 0.2, seed(1))
    changed = (new != delta).any(1)
    assert (changed.flatten(1).sum(1) <= 2 * 25).all()
    emptied = ((new == 0) & (delta != 0)).any(1)
    filled = changed & ~emptied
    assert emptied.flatten(1).any(1).sum() > 40
    square = (new * filled[:, None]).square().sum((2, 3))
    budget = (1 - 0.36) / 3 + (delta * changed[:, None]).square().sum((2, 3))
    torch.testing.assert_close(square, budget, rtol=1e-4, atol=1e-5)


def test_start_replaces_the_stripes() -> None:
    """A given start is the first candidate; with no query left it is what comes back if worse."""
    model, layer = linear(1, 4, 4, classes=2)
    layer.bias.data = torch.tensor([100.0, 0.0])
    w = (layer.weight[1] - layer.weight[0]).view(1, 1, 4, 4)
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.long)
    start = x + 0.1 * w.sign()
    x_adv = Square(eps=0.1, queries=2)(model, x, y, start=start)
    torch.testing.assert_close(x_adv, start)


def test_what_square_cannot_do_is_refused() -> None:
    """Each with its remedy."""
    model, _ = linear(1, 4, 4)
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ConfigurationError, match="norm numpy.inf and 2.*For L1 use APGD"):
        Square(eps=0.1, norm=1)
    with pytest.raises(ConfigurationError, match=r"p_init must lie in \(0, 1\]"):
        Square(eps=0.1, p_init=0.0)
    with pytest.raises(ConfigurationError, match="queries must be a whole number >= 2"):
        Square(eps=0.1, queries=1)
    with pytest.raises(ConfigurationError, match="climbs the margin .* no other loss"):
        Square(eps=0.1)(model, x, y, inner=lambda m, x, y: lambda z: z.sum((1, 2, 3)))
    with pytest.raises(ConfigurationError, match="needs class logits"):
        Square(eps=0.1)(LossModel(nn.Linear(3, 1), criterion(nn.MSELoss())), x, y)
    with pytest.raises(ConfigurationError, match="draws pyramids on images"):
        Square(eps=0.1, norm=2)(linear(7)[0], torch.rand(2, 7), y)
    with pytest.raises(ConfigurationError, match="needs images .* signals .* or rows"):
        Square(eps=0.1)(linear(1, 2, 2, 2)[0], torch.rand(2, 1, 2, 2, 2), y)
