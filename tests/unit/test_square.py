"""The Square attack: its schedule, its shapes, and what random search must achieve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import Square
from artplus.attacks._l1_ball import projection
from artplus.attacks._patterns import Canvas, bumps
from artplus.attacks._search import search
from artplus.errors import ConfigurationError
from artplus.functional import margin
from artplus.geometry import clip
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for

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


def test_autoattack_does_not_scale_the_schedule() -> None:
    """Then query 1001 has the share of query 1001 of 10 000, however many there will be."""
    attack = Square(eps=0.1, queries=5000, rescale=False)
    assert [round(0.8 / attack._share(q)) for q in (0, 11, 51, 1001, 4001, 4999)] == [
        1, 2, 4, 32, 128, 128,
    ]  # fmt: skip
    assert attack._share(1001) == 2 * Square(eps=0.1, queries=5000)._share(1001)


def slow_pyramid(side: int, order: int) -> np.ndarray:
    """The paper's eta as its loops: frames 1/k^2 (in L1 1/k^4) around each half's middle."""

    def unit(values: np.ndarray) -> np.ndarray:
        return values / np.linalg.norm(values.ravel(), order)

    def half(rows: int) -> np.ndarray:
        out = np.zeros((rows, side))
        a, b = rows // 2, side // 2
        for k in range(max(a, b) + 1):
            for i in range(rows):
                for j in range(side):
                    if max(abs(i - a), abs(j - b)) <= k:
                        out[i, j] += 1 / (k + 1) ** (2 if order == 2 else 4)
        return unit(out)

    return unit(np.concatenate([half(side // 2), -half(side - side // 2)]))


@pytest.mark.parametrize("order", [2, 1])
@pytest.mark.parametrize("side", [2, 3, 4, 5, 7, 12])
def test_pyramids_are_the_papers(side: int, order: int) -> None:
    """A bump above a hollow, of unit length, in nested frames."""
    found = bumps(side, order, torch.zeros(1, dtype=torch.float64)).view(4, side, side)
    paper = slow_pyramid(side, order)
    for bump, expected in zip(found, (paper, paper.T, -paper, -paper.T), strict=True):
        np.testing.assert_allclose(bump, expected, atol=1e-12)


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


def test_l1_gains_most_of_what_a_linear_model_allows() -> None:
    """With L1 the margin rises by a good part of eps |w|_inf, and never beyond it."""
    model, layer = linear(1, 9, 9, classes=2)
    peak = torch.zeros(9, 9)
    peak[3:6, 3:6] = torch.tensor([[1.0, 2, 1], [2, 5, 2], [1, 2, 1]])
    layer.weight.data = torch.stack([-peak.flatten(), peak.flatten()])
    layer.bias.data = torch.tensor([100.0, 0.0])
    x, y = torch.full((4, 1, 9, 9), 0.2), torch.zeros(4, dtype=torch.long)
    x_adv = Square(eps=0.7, norm=1, queries=400)(model, x, y, space=BOX, generator=seed(0))
    assert ((x_adv - x).abs().flatten(1).sum(1) <= 0.7 * (1 + 1e-5)).all()
    gain = margin(model(x_adv), y) - margin(model(x), y)
    assert (gain > 0.4 * 0.7 * 10).all() and (gain <= 0.7 * 10 * (1 + 1e-4)).all()


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
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


def test_fooled_examples_leave_the_batch() -> None:
    """Within eight queries of their fall; one that is wrong from the first is asked only twice."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    asked: list[Tensor] = []

    def recording(z: Tensor) -> Tensor:
        asked.append(z.clone())
        return net(z)

    x = torch.rand(8, 1, 6, 6)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    x_adv = Square(eps=0.5, norm=2, queries=60)(
        LossModel(net, forward=recording), x, y, generator=seed(0)
    )
    sizes = [len(z) for z in asked]
    assert sizes[:2] == [8, 8] and len(sizes) <= 60
    assert sizes[2] <= 7 and sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[2]
    assert margin(net(x_adv), y)[0] >= margin(net(x), y)[0]
    standing = int((margin(net(x_adv), y) <= 0).sum())
    assert sizes[-1] - standing <= len(sizes), "those that stand are asked to the end"
    assert sizes[-1] >= standing


def test_a_square_that_changes_nothing_is_not_asked() -> None:
    """On the host those are left out of the pass, and the search goes as if they had been asked."""
    model, layer = linear(1, 4, 4, classes=2)
    layer.bias.data = torch.tensor([100.0, 0.0])
    x, y = torch.full((6, 1, 4, 4), 0.5), torch.zeros(6, dtype=torch.long)
    asked = 0

    def counting(z: Tensor) -> Tensor:
        nonlocal asked
        asked += len(z)
        return model.module(z)

    attack = Square(eps=0.1, queries=200)
    found = attack(LossModel(model.module, forward=counting), x, y, generator=seed(0))
    assert asked < 0.8 * 6 * 200
    expected = slow_square(model, x, y, attack, seed(0))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def slow_square(
    model: LossModel, x: Tensor, y: Tensor, attack: Square, generator: torch.Generator
) -> Tensor:
    """L∞ Square as its loop over images, on the same draws; every candidate is asked."""
    n, c, h, w = x.shape
    first = torch.randint(2, (n, c, 1, w), generator=generator) * 2 - 1
    best = x + attack.eps * first.expand(x.shape)
    height = margin(model(best), y)
    for query in range(attack.queries - 2):
        side = min(max(round(math.sqrt(attack._share(query) * h * w)), 1), h, w)
        top = torch.randint(h - side + 1, (n,), generator=generator)
        left = torch.randint(w - side + 1, (n,), generator=generator)
        up = torch.randint(2, (n, c, 1), generator=generator)
        for i in range(n):
            z = best[i].clone()
            for k in range(c):
                for row in range(top[i], top[i] + side):
                    for column in range(left[i], left[i] + side):
                        move = attack.eps if up[i, k, 0] else -attack.eps
                        z[k, row, column] = x[i, k, row, column] + move
            value = margin(model(z[None]), y[i : i + 1])[0]
            if value > height[i]:
                best[i], height[i] = z, value
    return best


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_inputs_in_any_memory_order_are_searched_alike(norm: float) -> None:
    """Channels last are the same pixels."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    x, y = torch.rand(4, 2, 6, 6), torch.tensor([0, 1, 2, 0])
    last = x.contiguous(memory_format=torch.channels_last)
    found = [
        Square(eps=0.3, norm=norm, queries=30)(
            LossModel(net), z, y, space=BOX, start=z + 0.01, generator=seed(0)
        )
        for z in (x, last)
    ]
    torch.testing.assert_close(*found)


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
    places = canvas.places(400, side, x, seed(0))
    assert places.shape == (400, 2, 9)
    window = torch.zeros(400, 60).scatter(1, places.flatten(1), 1.0).view_as(x)
    assert window.bool().any(0).all() and not window.bool().all(0).any()
    for corner, image in zip(places[:, 0, 0].tolist(), window, strict=True):
        top, left = divmod(corner, 5)
        assert image[:, top : top + 3, left : left + 3].sum() == 18 == image.sum()


def slow_move(delta: Tensor, eps: float, order: int, draws: dict[str, Tensor]) -> Tensor:
    """The authors' step on one image, with slices."""
    side, c = draws["side"], len(delta)
    (a, b), (a2, b2) = draws["here"], draws["there"]
    both = torch.zeros_like(delta)
    both[:, a : a + side, b : b + side] = 1
    both[:, a2 : a2 + side, b2 : b2 + side] = 1

    def power(values: Tensor) -> Tensor:
        return (values.abs() ** order).sum((-2, -1), keepdim=True)

    old = delta[:, a : a + side, b : b + side]
    bump = torch.from_numpy(slow_pyramid(side, order))
    bump = (bump if draws["flip"] else bump.T) * draws["signs"].view(-1, 1, 1)
    new = bump + old / (1e-12 + power(old) ** (1 / order))
    unused = max(eps**order - float(power(delta).sum()), 0.0)
    budget = unused / c + power(delta * both)
    budget = budget.sqrt() if order == 2 else budget * c
    new = new / (1e-12 + power(new) ** (1 / order)) * budget
    moved = delta.clone()
    moved[:, a2 : a2 + side, b2 : b2 + side] = 0
    moved[:, a : a + side, b : b + side] = new
    return moved


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("order", [2, 1])
def test_moving_a_window_is_the_authors_step(order: int, boxed: bool) -> None:
    """One window takes the other's length and the unused part of eps, overlapping or not."""
    n, c, overlaps = 40, 3, 0
    x = torch.rand(n, c, 9, 9, generator=seed(2)).double()
    space = BOX if boxed else InputSpace()
    delta = torch.randn(n, c, 9, 9, generator=seed(0)).double()
    norms = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
    delta = delta / norms.view(-1, 1, 1, 1) * torch.linspace(0.3, 1.0, n).view(-1, 1, 1, 1)
    best = clip(x + delta, space)
    trial = search(x, 1.0, space, order).tried(best.clone(), 0.1, seed(1))
    canvas, draw = Canvas.of(x, tiled=True), seed(1)
    side = canvas.side(0.1, least=3, odd=True)
    assert side == (3, 3)
    corners = [canvas.places(n, side, x, draw)[:, 0, 0] for _ in range(2)]
    here, there = (torch.stack([corner // 9, corner % 9], 1) for corner in corners)
    turn = torch.randint(2, (n, 1), generator=draw)
    signs = 1 - 2 * torch.randint(2, (n, c), generator=draw)
    for i in range(n):
        draws = {"here": here[i], "there": there[i], "flip": turn[i] == 0, "signs": signs[i]}
        moved = slow_move(best[i] - x[i], 1.0, order, draws | {"side": 3})
        if order == 2:  # the authors': always to the full length, and clipped
            moved = moved / torch.linalg.vector_norm(moved)
            expected = clip(x[i] + moved, space)
        else:
            expected = projection(x[i : i + 1], 1.0, space)(x[i : i + 1] + moved)[0]
        torch.testing.assert_close(trial.z[i], expected, atol=1e-9, rtol=0)
        overlaps += bool(((here[i] - there[i]).abs() < 3).all())
    assert 0 < overlaps < n
    z, rose = trial.z.clone(), torch.arange(n) % 2 == 0
    kept = trial.undo(rose)
    torch.testing.assert_close(kept[rose], z[rose], atol=0, rtol=0)
    torch.testing.assert_close(kept[~rose], best[~rose], atol=0, rtol=0)


@pytest.mark.parametrize(("norm", "eps"), [(2, 0.6), (1, 2.0)])
def test_candidates_use_the_whole_radius_inside_the_box(norm: int, eps: float) -> None:
    """In L1 the nearest point of ball and box, in L2 the full length, clipped; the mask is kept."""
    x = torch.rand(5, 2, 9, 9, generator=seed(0)).double()
    mask = (torch.rand(2, 9, 9, generator=seed(1)) < 0.8).double()
    free = search(x, eps, InputSpace(mask=mask), norm)
    boxed = search(x, eps, InputSpace(0.0, 1.0, mask), norm)
    for where in (free, boxed):
        best = where.first(seed(2))
        for query in range(5):
            trial = where.tried(best, 0.3 / (query + 1), seed(query))
            length = torch.linalg.vector_norm((trial.z - x).flatten(1), norm, dim=1)
            assert (length <= eps * (1 + 1e-9)).all()
            if where is free or norm == 1:
                torch.testing.assert_close(length, torch.full_like(length, eps))
            else:
                assert trial.z.min() >= 0 and trial.z.max() <= 1
            best = trial.undo(torch.arange(5) % 2 == 0)
            assert ((best - x) * (1 - mask) == 0).all()


def test_thousands_of_moves_leave_neither_ball_nor_box() -> None:
    """Each is made by its window alone; what rounding adds is taken back by the next."""
    x = torch.rand(4, 1, 9, 9, generator=seed(0))
    where = search(x, 0.8, BOX, 2)
    best, draw = where.first(seed(1)), seed(2)
    for _ in range(3000):
        best = where.tried(best, 0.1, draw).undo(torch.rand(4, generator=draw) < 0.9)
    length = torch.linalg.vector_norm((best - x).flatten(1), dim=1)
    assert (length <= 0.8 * (1 + 1e-6)).all() and (length > 0.4).all()
    assert best.min() >= 0 and best.max() <= 1


@pytest.mark.parametrize("norm", [2, 1])
def test_bounds_and_masks_by_feature_and_by_example(norm: int) -> None:
    """However they broadcast, each feature is held by its own."""
    x = torch.rand(6, 2, 9, 9, generator=seed(0))
    low = torch.stack([torch.zeros(9, 9), torch.full((9, 9), -0.5)])
    high = torch.tensor([1.0, 1.2]).view(2, 1, 1)
    for mask in (torch.rand(9, 9, generator=seed(1)), torch.rand(6, 1, 9, 9, generator=seed(1))):
        free = (mask < 0.7).float()
        where = search(x, 2.0, InputSpace(low, high, free).on(x), norm)
        best, draw = where.first(seed(2)), seed(3)
        for _ in range(20):
            best = where.tried(best, 0.1, draw).undo(torch.rand(6, generator=draw) < 0.5)
        assert (best >= low - 1e-6).all() and (best <= high + 1e-6).all()
        assert ((best != x) <= free.bool()).all() and (best != x).flatten(1).any(1).all()
        part = where.take(torch.tensor([4, 1])).tried(best[[4, 1]], 0.1, draw).z
        assert ((part - x[[4, 1]]).abs() * (1 - free.expand_as(x)[[4, 1]]) == 0).all()


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
    with pytest.raises(ConfigurationError, match=r"p_init must lie in \(0, 1\]"):
        Square(eps=0.1, p_init=0.0)
    with pytest.raises(ConfigurationError, match="queries must be a whole number >= 2"):
        Square(eps=0.1, queries=1)
    with pytest.raises(ConfigurationError, match="climbs the margin .* no other loss"):
        Square(eps=0.1)(model, x, y, inner=lambda m, x, y: lambda z: z.sum((1, 2, 3)))
    with pytest.raises(ConfigurationError, match="needs class logits"):
        Square(eps=0.1)(LossModel(nn.Linear(3, 1), task_for(nn.MSELoss())), x, y)
    with pytest.raises(ConfigurationError, match="draws pyramids on images"):
        Square(eps=0.1, norm=2)(linear(7)[0], torch.rand(2, 7), y)
    with pytest.raises(ConfigurationError, match="at least 3 x 3 pixels"):
        Square(eps=0.1, norm=1)(linear(1, 2, 9)[0], torch.rand(2, 1, 2, 9), y)
    with pytest.raises(ConfigurationError, match="needs images .* signals .* or rows"):
        Square(eps=0.1)(linear(1, 2, 2, 2)[0], torch.rand(2, 1, 2, 2, 2), y)
