"""Sparse Auto-PGD in L1 against its algorithm written out on one example, and against PGD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import APGD, PGD
from artplus.attacks._l1_ball import projection
from artplus.errors import ConfigurationError
from artplus.geometry import geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace
from tests.toys import wrong as misclassified

N, SHAPE, CLASSES = 6, (1, 6, 6), 5
BOX = InputSpace(0.0, 1.0)


@pytest.fixture
def net() -> nn.Module:
    """Wavy enough that sparsity settles and is taken up again."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    for parameter in net.parameters():
        parameter.data *= 3
    return net.double()


@pytest.fixture
def batch(net) -> tuple[Tensor, Tensor]:
    x = torch.rand(N, *SHAPE).double()
    return x, net(x).argmax(1)


def papers_run(loss, x: Tensor, start: Tensor, eps: float, steps: int) -> tuple[Tensor, set[str]]:
    """The algorithm on one example, flat; also which of its branches were taken."""
    d, z, taken = x.numel(), start, set()
    share, old = 0.2, float(d)
    phases = [(3 * eps, int(0.3 * steps)), (2 * eps, int(0.3 * steps))]
    phases.append((eps, steps - 2 * int(0.3 * steps)))
    for radius, count in phases:
        project = projection(x[None], radius, BOX)

        def f(z):
            z = z.clone().requires_grad_(True)
            value = loss(z)
            (slope,) = torch.autograd.grad(value, z)
            return float(value.detach()), slope

        z = project(z[None])[0]
        value, slope = f(z)
        z_max, f_max, slope_max, eta = z, value, slope, radius
        every = max(int(0.04 * count), 1)
        for k in range(1, count + 1):
            top = slope.abs().argsort(descending=True)[: max(int(share * d + 1e-9), 1)]
            step = torch.zeros(d).double()
            step[top] = slope[top].sign() / len(top)
            z = project((z + eta * step)[None])[0]
            value, slope = f(z)
            if value > f_max:
                z_max, f_max, slope_max = z, value, slope
            if k % every == 0:
                now = float((z_max != x).sum())
                if now / old < 0.95:
                    eta, z, slope = radius, z_max, slope_max
                    taken.add("sparser")
                else:
                    eta = max(eta / 1.5, radius / 10)
                    taken.add("settled" if eta > radius / 10 else "shortest")
                share, old = now / d / 1.5, now
        z = z_max
        old = float((z != x).sum())
        share = old / d / 1.5
    return z, taken


def test_apgd_in_l1_is_the_papers_algorithm(net, batch) -> None:
    """Sixty steps through three balls end where the written-out algorithm ends, per example."""
    x, y = batch
    model, start = LossModel(net), x + geometry(1).random(x, 1.5, None)
    start = start.clamp(0, 1)
    found = APGD(eps=1.5, norm=1, steps=60)(
        model, x, y, space=BOX, start=start,
        inner=lambda m, x, y: lambda z: m.loss(m(z), y),
    )  # fmt: skip
    taken = set()
    for i in range(N):
        expected, branches = papers_run(
            lambda z, i=i: model.loss(model(z.view(1, *SHAPE)), y[i : i + 1])[0],
            x[i].flatten(), start[i].flatten(), 1.5, 60,
        )  # fmt: skip
        taken |= branches
        torch.testing.assert_close(found[i].flatten(), expected, atol=1e-8, rtol=0)
    assert taken == {"sparser", "settled", "shortest"}, "else this shows little"


def first_points(attack: APGD, x: Tensor, space: InputSpace, seed: int = 0) -> list[Tensor]:
    """Where each run begins, by restart."""
    points: list[Tensor] = []

    def forward(z: Tensor) -> Tensor:
        points.append(z.detach())
        return z.flatten(1)[:, :CLASSES]

    model, y = LossModel(nn.Linear(1, 1), forward=forward), x.flatten(1)[:, :CLASSES].argmax(1)
    attack(model, x, y, space=space, generator=torch.Generator().manual_seed(seed))
    runs = len(points) // attack.restarts
    return points[::runs]


def test_a_run_starts_from_projected_noise() -> None:
    """As the authors start: N(0, 1) on every feature, projected on the ball of 3 eps and the box.

    A point drawn uniformly from the ball moves no feature by more than a hundredth of eps, so that
    every restart would repeat the first.
    """
    x = torch.rand(N, 1, 28, 28)
    attack = APGD(eps=8.0, norm=1, steps=4, restarts=3, loss="ce")
    y_stays = InputSpace(0.0, 1.0, (torch.arange(784) >= CLASSES).view(1, 28, 28).float())
    starts = first_points(attack, x, y_stays)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    expected = projection(x, 24.0, BOX)(x + y_stays.restrict(noise))
    torch.testing.assert_close(starts[0], expected)
    for start in starts:
        assert start.min() >= 0 and start.max() <= 1
        torch.testing.assert_close(geometry(1).length(start - x), torch.full((N,), 24.0))
        assert ((start - x).flatten(1).abs().amax(1) > 0.5).all()
    moved = [(start != x).flatten(1) for start in starts]
    both = (moved[0] & moved[1]).sum(1) / moved[0].sum(1)
    assert (both < 0.5).all(), "restarts change other features"


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (None, None)])
def test_the_start_scales_with_the_units(bounds) -> None:
    """Pixels of [0, 255] start where those of [0, 1] do, and so do inputs without a range."""
    x = torch.rand(N, *SHAPE).double()
    large = [None if bound is None else 255 * bound for bound in bounds]
    (small,) = first_points(APGD(eps=0.5, norm=1, steps=4), x, InputSpace(*bounds))
    (big,) = first_points(APGD(eps=127.5, norm=1, steps=4), 255 * x, InputSpace(*large))
    assert (small != x).any()
    torch.testing.assert_close(big, 255 * small)


def test_it_is_stronger_than_steps_of_one_feature(net) -> None:
    """More examples fall, and larger losses are met, than by PGD at the same number of steps."""
    x = torch.rand(60, *SHAPE).double()
    y, model = net(x).argmax(1), LossModel(net)
    sparse, single = (
        attack(model, x, y, space=BOX)
        for attack in (APGD(eps=1.0, norm=1, steps=40), PGD(eps=1.0, norm=1, steps=40))
    )
    wrong = [misclassified(model, net(z), y).double().mean() for z in (sparse, single)]
    losses = [model.loss(net(z), y).mean() for z in (sparse, single)]
    assert wrong[0] >= wrong[1] and losses[0] > losses[1]
    assert ((sparse != x).flatten(1).sum(1) < 36).any(), "few features are changed"


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_few_steps_keep_to_the_ball(net, batch, steps: int) -> None:
    """What the larger balls gave is pulled back, and does not count as fooled outside eps."""
    x, y = batch
    asked: list[int] = []

    def counting(z: Tensor) -> Tensor:
        asked.append(len(z))
        return net(z)

    x_adv = APGD(eps=0.5, norm=1, steps=steps)(LossModel(net, forward=counting), x, y, space=BOX)
    assert (geometry(1).length(x_adv - x) <= 0.5 * (1 + 1e-9)).all()
    balls = 3 if steps > 3 else 1
    assert len(asked) == steps + balls


@pytest.mark.parametrize("options", [{"rho": 0.5}, {"momentum": 1.0}])
def test_settings_without_meaning_are_refused(options) -> None:
    """Neither is taken and ignored."""
    with pytest.raises(ConfigurationError, match="rho and momentum have no meaning in L1"):
        APGD(eps=1.0, norm=1, **options)
