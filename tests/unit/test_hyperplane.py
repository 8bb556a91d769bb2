"""The shortest way onto a hyperplane inside a box, held against general-purpose solvers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from artplus.attacks import FAB, _hyperplane
from artplus.attacks._hyperplane import crossing
from artplus.model import LossModel
from artplus.spaces import InputSpace

ORDERS = [math.inf, 2.0, 1.0]
BOXES = [InputSpace(0.0, 1.0), InputSpace(), InputSpace(low=0.0), InputSpace(high=1.0)]

orders = st.sampled_from(ORDERS)
seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module", autouse=True, params=["looking", "sorting"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to the level: the processor's, and that of devices which no host waits for."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "sorting":
            patch.setattr(_hyperplane, "_climbed", _hyperplane._sorted)
        yield request.param


def problem(seed: int, n: int = 3, d: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Points in the unit box, normals with a zero here and there, and gaps of both signs."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, d, generator=generator, dtype=torch.float64)
    w = torch.randn(n, d, generator=generator, dtype=torch.float64)
    w = w * (torch.rand(n, d, generator=generator) < 0.8)
    return z, w, torch.randn(n, generator=generator, dtype=torch.float64) * 0.7


def bounds(z: np.ndarray, box: InputSpace) -> list[tuple[float | None, float | None]]:
    low = [None if box.low is None else box.low - v for v in z]
    high = [None if box.high is None else box.high - v for v in z]
    return list(zip(low, high, strict=True))


def solved(z: np.ndarray, w: np.ndarray, gap: float, box: InputSpace, order: float) -> float | None:
    """The least norm by a solver; ``None`` where the box does not reach the hyperplane."""
    d, within = len(z), bounds(z, box)
    if order == 1:  # d = p - q with p, q >= 0
        limits = [(0.0, None if h is None else max(h, 0.0)) for _, h in within]
        limits += [(0.0, None if low is None else max(-low, 0.0)) for low, _ in within]
        answer = linprog(np.ones(2 * d), A_eq=[np.concatenate([w, -w])], b_eq=[gap], bounds=limits)
    else:
        rows = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
        answer = linprog(
            np.append(np.zeros(d), 1.0), A_ub=rows, b_ub=np.zeros(2 * d),
            A_eq=[np.append(w, 0.0)], b_eq=[gap], bounds=[*within, (0.0, None)],
        )  # fmt: skip
    if answer.status == 2 or order != 2:
        return None if answer.status == 2 else float(answer.fun)
    answer = minimize(
        lambda s: s @ s / 2, answer.x[:d], jac=lambda s: s, bounds=within, method="SLSQP",
        constraints={"type": "eq", "fun": lambda s: w @ s - gap, "jac": lambda s: w},
        options={"ftol": 1e-14, "maxiter": 300},
    )  # fmt: skip
    return float(np.linalg.norm(answer.x))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("box", BOXES, ids=["box", "free", "low", "high"])
def test_the_step_is_the_shortest_there_is(order: float, box: InputSpace) -> None:
    """As short as a solver's answer, on the hyperplane, in the box; both outcomes occur."""
    reached = 0
    for seed in range(4):
        z, w, gap = problem(seed)
        d = crossing(z, w, gap, box, order)
        for i in range(len(z)):
            best = solved(z[i].numpy(), w[i].numpy(), float(gap[i]), box, order)
            if best is None:
                assert abs(w[i] @ d[i]) < abs(gap[i])
                continue
            reached += 1
            assert float(w[i] @ d[i]) == pytest.approx(float(gap[i]), abs=1e-9)
            assert float(torch.linalg.vector_norm(d[i], order)) == pytest.approx(best, abs=1e-5)
    assert 0 < reached and (reached < 12 or box.low is None or box.high is None)


@given(orders, seeds, st.floats(-8, 8), st.sampled_from(BOXES))
def test_the_step_stays_in_the_box_and_reaches_what_it_can(order, seed, scale, box) -> None:
    """Inside the box; on the hyperplane, or in the corner that is nearest to it."""
    z, w, gap = problem(seed, d=7)
    gap = gap * scale
    d = crossing(z, w, gap, box, order)
    low, high = (math.inf if b is None else b for b in (box.low, box.high))
    low = -low if box.low is None else low
    assert ((z + d >= low - 1e-12) & (z + d <= high + 1e-12)).all()
    assert (d[w == 0] == 0).all()
    for i in range(len(z)):
        rise = w[i] * (1 if gap[i] >= 0 else -1)
        room = torch.where(rise > 0, high - z[i], z[i] - low)
        most = (rise.abs() * room).where(rise != 0, torch.zeros_like(rise)).sum()
        gain = (rise * d[i]).sum()
        assert float(gain) == pytest.approx(min(float(most), float(gap[i].abs())), abs=1e-9)


@given(orders, seeds, st.sampled_from([1e-30, 1e-12, 1e12]))
def test_only_the_hyperplane_counts_not_the_length_of_its_normal(order, seed, scale) -> None:
    """Gradients as small as a confident model's give the same step, in single precision."""
    z, w, gap = (part.float() for part in problem(seed))
    box = InputSpace(0.0, 1.0)
    expected = crossing(z, w, gap, box, order)
    found = crossing(z, w * scale, gap * scale, box, order)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_zero_normals_and_zero_gaps_move_nothing(order: float) -> None:
    """No direction to go in, or no way to go: nothing moves, and nothing is NaN."""
    z, w, gap = problem(0)
    for box in BOXES:
        zero = torch.zeros_like(z)
        assert torch.equal(crossing(z, zero, gap, box, order), zero)
        assert torch.equal(crossing(z, w, gap * 0, box, order).abs(), zero)
        tiny = crossing(z.float(), w.float() * 1e-44, gap.float() * 1e30, box, order)
        assert torch.isfinite(tiny).all()


def test_in_linf_each_feature_may_have_its_own_unit() -> None:
    """With units the largest ``|d_i| / u_i`` is least: the problem in rescaled features."""
    z, w, gap = problem(3)
    unit = torch.tensor([0.5, 1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    d = crossing(z, w, gap * 0.1, InputSpace(), math.inf, unit)
    expected = crossing(z, w * unit, gap * 0.1, InputSpace(), math.inf) * unit
    torch.testing.assert_close(d, expected)
    assert (d[:, 3] == 0).all() and (d != 0).any()


_EXACT = _hyperplane._climbed


@given(seeds, st.integers(1, 60), st.sampled_from(["plain", "far", "steep", "ties", "narrow"]))
def test_sorting_gives_the_level_that_looking_gives(seed: int, d: int, kind: str) -> None:
    """In double precision to 1e-9: with ties, no bounds, weights that fall by 1e12, no weights."""
    generator = torch.Generator().manual_seed(seed)
    weight, cap, share = (
        torch.rand(6, n, generator=generator, dtype=torch.float64) for n in (d, d, 1)
    )
    weight = weight * (torch.rand(6, d, generator=generator) < 0.8)
    if kind == "far":
        cap = cap.where(torch.rand(6, d, generator=generator) < 0.5, 1e30)
    elif kind == "steep":
        weight = F.threshold(weight**40, 1e-12, 0.0)
    elif kind == "ties":
        cap = (cap * 3).round() / 3
    elif kind == "narrow":
        cap = cap * 1e-6
    most = (weight * cap.clamp_max(2.0)).sum(1)
    for height in (most * share[:, 0] * 0.99, most * 0, most + 1.0):
        exact, found = (level(weight, cap, height) for level in (_EXACT, _hyperplane._sorted))
        assert torch.isfinite(found).all()
        # Without anything to gain, any level is as good.
        gain = [(weight * torch.minimum(cap, t[:, None])).sum(1) for t in (exact, found)]
        torch.testing.assert_close(gain[1], gain[0], rtol=1e-9, atol=1e-12)
        within = (height > 0) & (exact < 1e29)
        torch.testing.assert_close(found[within], exact[within], rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", [math.inf, 2.0])
def test_fab_finds_the_same_whichever_way_the_level_is_found(norm: float, monkeypatch) -> None:
    """Distances agree to far below what a step moves."""
    net = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    x = torch.rand(9, 20, dtype=torch.float64)
    y, attack, found = net(x).argmax(1), FAB(eps=0.1, norm=norm, steps=15, targets=3), []
    for level in (_EXACT, _hyperplane._sorted):
        monkeypatch.setattr(_hyperplane, "_climbed", level)
        found.append(attack.minimum(LossModel(net), x, y, space=InputSpace(0.0, 1.0))[1])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=0)
