"""FMN against closed forms, and against the paper written out one example at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import FMN
from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for

DUAL = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}
every_norm = pytest.mark.parametrize("norm", list(DUAL))


@pytest.fixture
def net() -> nn.Module:
    """Wavy, in double precision."""
    net = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    for parameter in net.parameters():
        parameter.data *= 2
    return net


def logit_gap(net: nn.Module, z: Tensor, label: int) -> Tensor:
    logits = net(z[None])[0]
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return logits[label] - others.max()


def written_out(net: nn.Module, x: Tensor, label: int, norm: float, steps: int) -> float:
    """Algorithm 1 for one example without a box, L∞ and L2, scalars and loops."""
    delta, eps, best = torch.zeros_like(x), math.inf, math.inf
    for k in range(steps):
        share = (1 + math.cos(math.pi * k / steps)) / 2
        alpha, gamma = 0.01 + 0.99 * share, 0.001 + 0.049 * share
        z = (x + delta).requires_grad_(True)
        gap = logit_gap(net, z, label)
        (slope,) = torch.autograd.grad(gap, z)
        length = float(torch.linalg.vector_norm(delta, norm))
        if gap.item() < 0:
            best = min(best, length)
            eps = min(eps * (1 - gamma), best)
        elif best < math.inf:
            eps = eps * (1 + gamma)
        else:
            dual = float(torch.linalg.vector_norm(slope, DUAL[norm]))
            eps = (length + gap.item() / dual) * (1 + gamma)
        delta = delta - alpha * slope / slope.norm()
        if norm == math.inf:
            delta = delta.clamp(-eps, eps)
        elif float(delta.norm()) > eps:
            delta = delta * eps / delta.norm()
    if logit_gap(net, x + delta, label).item() < 0:
        best = min(best, float(torch.linalg.vector_norm(delta, norm)))
    return best


@pytest.mark.parametrize("norm", [math.inf, 2.0])
def test_against_the_paper_written_out(net: nn.Module, norm: float) -> None:
    """The batched attack finds what the algorithm finds for each example alone."""
    x = torch.rand(6, 10).double()
    y = net(x).argmax(1)
    _, distance = FMN(eps=0.1, norm=norm, steps=40).minimum(LossModel(net), x, y)
    expected = [written_out(net, x[i], int(y[i]), norm, 40) for i in range(6)]
    assert distance.tolist() == pytest.approx(expected, rel=1e-6)


@every_norm
def test_on_a_linear_model_the_distance_is_the_margin(norm: float) -> None:
    """Two classes without a box: gap over the dual norm of the difference of the rows."""
    linear = nn.Linear(10, 2).double()
    x = torch.rand(20, 10).double()
    y = linear(x).argmax(1)
    x_adv, distance = FMN(eps=0.1, norm=norm, steps=300).minimum(LossModel(linear), x, y)
    w = (linear.weight[1] - linear.weight[0]).detach()
    gap = linear(x).detach().diff(dim=1).squeeze(1).abs()
    exact = gap / torch.linalg.vector_norm(w, DUAL[norm])
    assert (distance >= exact * (1 - 1e-9)).all()
    assert distance.tolist() == pytest.approx(exact.tolist(), rel=5e-3)
    measured = torch.linalg.vector_norm(x_adv - x, norm, dim=1)
    assert torch.allclose(measured, distance)
    assert (linear(x_adv).argmax(1) != y).all()


@every_norm
def test_box_and_mask_are_kept(net: nn.Module, norm: float) -> None:
    """Nothing leaves the range of valid inputs, and masked features do not move at all."""
    x = torch.rand(8, 10).double()
    y = net(x).argmax(1)
    mask = torch.ones(10).double()
    mask[:4] = 0
    space = InputSpace(0.0, 1.0, mask)
    x_adv, distance = FMN(eps=0.1, norm=norm).minimum(LossModel(net), x, y, space=space)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert torch.equal(x_adv[:, :4], x[:, :4])
    met = distance.isfinite()
    assert (net(x_adv).argmax(1) != y)[met].all()


def test_wrong_already_is_zero_and_hopeless_is_infinite(net: nn.Module) -> None:
    """A misclassified input needs no perturbation; a constant model has no mistake."""
    x = torch.rand(5, 10).double()
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    _, distance = FMN(eps=0.1).minimum(LossModel(net), x, y)
    assert distance[0] == 0 and (distance[1:] > 0).all()
    flat = nn.Linear(10, 4).double()
    flat.weight.data.zero_()
    flat.bias.data = torch.tensor([1.0, 0, 0, 0]).double()
    _, distance = FMN(eps=0.1).minimum(LossModel(flat), x, torch.zeros(5, dtype=torch.long))
    assert distance.isinf().all()


@every_norm
def test_as_an_attack_it_stays_in_its_ball(net: nn.Module, norm: float) -> None:
    """Mistakes beyond the radius are pulled back to it, nearer ones are kept as they are."""
    x = torch.rand(8, 10).double()
    y = net(x).argmax(1)
    attack = FMN(eps=0.1, norm=norm)
    nearest, distance = attack.minimum(LossModel(net), x, y)
    x_adv = attack(LossModel(net), x, y)
    length = torch.linalg.vector_norm(x_adv - x, norm, dim=1)
    assert (length <= 0.1 * (1 + 1e-6)).all()
    near = distance <= 0.1
    assert torch.allclose(x_adv[near], nearest[near])
    assert attack.with_eps(2.0).eps == 0.2


def test_refusals(net: nn.Module) -> None:
    """No inner loss, no regression, no radius per feature, no silly settings."""
    x, y = torch.rand(2, 10).double(), torch.tensor([0, 1])
    with pytest.raises(ConfigurationError, match="climbs no other loss"):
        FMN(eps=0.1)(LossModel(net), x, y, inner=lambda *_: lambda z: z.sum(1))
    with pytest.raises(ConfigurationError, match="needs class logits"):
        FMN(eps=0.1)(LossModel(net, task_for(nn.MSELoss())), x, y)
    with pytest.raises(ConfigurationError, match="same for every feature"):
        FMN(eps=torch.full((2, 10), 0.1))(LossModel(net), x, y)
    assert FMN(eps=0.1).climbs_own
    with pytest.raises(ConfigurationError, match="gamma must lie in"):
        FMN(eps=0.1, gamma=0.0)
    with pytest.raises(ConfigurationError, match="step_size"):
        FMN(eps=0.1, step_size=0.0)
