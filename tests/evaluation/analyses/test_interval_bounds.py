"""Interval bounds: sound against samples and attacks, exact where they can be, honest refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import APGD, PGD
from artplus.errors import ConfigurationError
from artplus.evaluation.analyses import IntervalBounds
from artplus.evaluation.analyses.interval import certified, certified_kind, exact_layers
from artplus.evaluation.data import EvaluationData
from artplus.interval_bounds import bounds, layers, margins
from artplus.model import LossModel
from artplus.spaces import InputSpace
from tests.evaluation.analyses.subjects import (
    BOX,
    curve,
    distances,
    inside,
    labelled,
    linear,
    looked,
    section,
)


def mixed() -> nn.Sequential:
    """Every kind of layer whose bounds are known, with batch statistics that matter."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Sequential(nn.AvgPool2d(2), nn.Dropout(0.5)), nn.Conv2d(4, 4, 2, bias=False),
        nn.LeakyReLU(0.1), nn.MaxPool2d(2, stride=1), nn.Flatten(), nn.Linear(16, 8),
        nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5),
    )  # fmt: skip
    net.train()
    for _ in range(3):
        net(torch.rand(32, 2, 8, 8))
    for layer in net.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.weight.data = torch.randn_like(layer.weight)  # negative ones too
            layer.bias.data = torch.randn_like(layer.bias)
    return net.eval()


def data(net: nn.Module, x: Tensor, y: Tensor, space: InputSpace = BOX) -> EvaluationData:
    model = LossModel(net)
    return EvaluationData(model, x, y, space, 16, torch.device("cpu"), int(net(x).shape[1]))


def test_bounds_hold_for_every_input_of_the_box() -> None:
    """Samples, corners among them, never leave the bounds, in any layer."""
    net, x = mixed(), torch.rand(1, 2, 8, 8)
    layers = exact_layers(data(net, x, torch.zeros(1, dtype=torch.long)))
    low, high = (x - 0.05).double(), (x + 0.05).double()
    draws = low + (high - low) * torch.rand(400, 2, 8, 8).double().round(decimals=0)
    draws = torch.cat([draws, low + (high - low) * torch.rand(400, 2, 8, 8).double()])
    for k in range(1, len(layers) + 1):
        least, most = bounds(layers[:k], low, high)
        out = draws
        for layer in layers[:k]:
            out = layer(out)
        assert (out >= least - 1e-9).all() and (out <= most + 1e-9).all()


def test_margins_hold_for_every_input_of_the_box() -> None:
    """The lower bound of each difference of logits is below every sampled difference."""
    net, x = mixed(), torch.rand(1, 2, 8, 8)
    y = net(x).argmax(1)
    layers = exact_layers(data(net, x, y))
    low, high = (x - 0.03).double(), (x + 0.03).double()
    least = margins(layers, low, high, y)
    draws = low + (high - low) * torch.rand(500, 2, 8, 8).double()
    out = draws
    for layer in layers:
        out = layer(out)
    differences = out[:, y] - out
    others = torch.arange(5) != y
    assert (differences >= least)[:, others].all()
    assert least[0, y] == math.inf


def test_a_point_is_its_own_bound() -> None:
    """With a radius of zero both bounds are the output."""
    net, x = mixed(), torch.rand(3, 2, 8, 8)
    layers = exact_layers(data(net, x, torch.zeros(3, dtype=torch.long)))
    low, high = bounds(layers, x.double(), x.double())
    assert torch.allclose(low, high)
    assert torch.allclose(low, net(x).double(), atol=1e-4)


def test_no_attack_breaks_a_certified_example() -> None:
    """Certified is a proof: strong attacks at the same radius turn none of them."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.rand(80, 6)
    y = net(x).argmax(1)
    some = False
    for eps in (0.005, 0.02, 0.05):
        held = torch.from_numpy(certified(data(net, x, y), torch.arange(80), eps))
        some = some or bool(0 < held.sum() < 80)
        for attack in (PGD(eps=eps, steps=20), APGD(eps=eps, steps=30, loss="dlr")):
            x_adv = attack(LossModel(net), x, y, space=BOX)
            turned = net(x_adv).argmax(1) != y
            assert not (turned & held).any()
    assert some


def test_on_a_linear_model_it_is_exact() -> None:
    """With the last layer folded into the difference an affine model is certified to its margin."""
    net, x = linear(), inside(40)
    y = labelled(net, x, wrong=4)
    far = distances(net, x, math.inf)
    far[:4] = 0
    radii = [0.0, 0.01, 0.03, 0.06]
    found = section(net, x, y, IntervalBounds(eps=radii))
    expected = [(far > r).mean() for r in radii]
    assert curve(found, "certified").y == pytest.approx(expected, abs=1 / 40 + 1e-9)
    assert dict(found.figures)["attacked_accuracy"] >= dict(found.figures)["certified_accuracy"]


def test_box_and_mask_make_the_ball_smaller() -> None:
    """What cannot move does not widen the bounds: with everything masked all is certified."""
    net, x = linear(), inside(20)
    y, index = labelled(net, x), torch.arange(20)
    assert not certified(data(net, x, y), index, 0.6).all()
    masked = InputSpace(0.0, 1.0, torch.zeros(12))
    assert certified(data(net, x, y, masked), index, 0.6).all()
    # With every weight of a kind, the way to the boundary ends at the wall that the input is at.
    for sign, wall in ((1.0, InputSpace(low=0.4)), (-1.0, InputSpace(high=0.4))):
        net = nn.Linear(3, 2)
        net.weight.data = sign * torch.tensor([[1.0, 1, 1], [0, 0, 0]])
        net.bias.data = torch.tensor([-sign * 1.2 + 0.3, 0])
        at = torch.full((1, 3), 0.4)
        zero = torch.zeros(1, dtype=torch.long)
        assert certified(data(net, at, zero, wall), torch.arange(1), 0.2).all()
        assert not certified(data(net, at, zero, InputSpace()), torch.arange(1), 0.2).any()


def test_a_last_layer_that_is_not_linear() -> None:
    """Without a linear layer to fold, the boxes of the logits are compared."""
    net = nn.Sequential(linear(), nn.Tanh())
    x = inside(20)
    y = labelled(net, x)
    far = distances(net[0], x, math.inf)
    held = certified(data(net, x, y), torch.arange(20), 0.02)
    assert (far[held] > 0.02).all()
    assert held.any()


class Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(Shifted(), nn.Linear(12, 2)), "not for Shifted"),
        (nn.Sequential(nn.Linear(12, 2), nn.GELU()), "not for GELU"),
        (nn.Sequential(nn.Linear(12, 2), nn.LeakyReLU(-0.5)), "monotone"),
        (
            nn.Sequential(
                nn.Unflatten(1, (1, 12)),
                nn.BatchNorm1d(1, track_running_stats=False),
                nn.Flatten(),
                nn.Linear(12, 2),
            ),
            "running statistics",
        ),
    ],
)
def test_layers_without_known_bounds_are_refused(net: nn.Module, message: str) -> None:
    """No bound is made up: the layer is named, before any attack has run."""
    with pytest.raises(ConfigurationError, match=message):
        looked(net, inside(6), torch.zeros(6, dtype=torch.long), "interval")


def test_a_model_that_does_more_than_its_layers_is_refused() -> None:
    """Preprocessing outside the module is noticed, as bounds of the module alone would be wrong."""
    net, x = linear(), inside(6)
    model = LossModel(net, forward=lambda x: net(2 * x - 1))
    with pytest.raises(ConfigurationError, match="nothing but its layers"):
        looked(model, x, torch.zeros(6, dtype=torch.long), "interval")
    with pytest.raises(ConfigurationError, match="interval bounds are for L∞"):
        looked(net, x, torch.zeros(6, dtype=torch.long), "interval", norm=2.0)
    with pytest.raises(ConfigurationError, match="ascending"):
        IntervalBounds(eps=[0.2, 0.1])


def test_arts_certified_estimators_are_named() -> None:
    """By where their class lives; others are not."""
    kind = type("PyTorchIBPClassifier", (), {"__module__": "art.estimators.certification.interval"})
    assert "ART's certified PyTorchIBPClassifier" in certified_kind(kind())
    assert certified_kind(linear()) == ""


def test_bounds_are_differentiable_in_the_weights() -> None:
    """A step along the gradient of the mean least margin raises it."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.rand(16, 6), torch.arange(16) % 3

    def least() -> Tensor:
        return margins(layers(net), x - 0.02, x + 0.02, y).amin(1).mean()

    before = least()
    grads = torch.autograd.grad(before, list(net.parameters()))
    with torch.no_grad():
        for weight, grad in zip(net.parameters(), grads, strict=True):
            weight += 0.01 * grad
    assert least() > before


def test_layers_that_change_in_training_mode_are_refused() -> None:
    """Batch statistics and random zeros have no bounds; evaluation mode has."""
    x = torch.rand(4, 6)
    for layer in (nn.BatchNorm1d(6), nn.Dropout(0.5)):
        net = nn.Sequential(layer, nn.Linear(6, 2)).train()
        with pytest.raises(ConfigurationError, match=f"{type(layer).__name__} in evaluation mode"):
            bounds(layers(net), x, x)
        low, high = bounds(layers(net.eval()), x, x)
        assert torch.allclose(low, net(x), atol=1e-6) and torch.allclose(low, high)


def test_room_for_rounding_lowers_every_margin() -> None:
    """By its share of the size of the sums; without it bounds are exact."""
    net, x = linear().double(), inside(5).double()
    y = torch.zeros(5, dtype=torch.long)
    exact, roomy = (margins([net], x, x, y, rounding=r) for r in (0.0, 1e-3))
    assert torch.allclose(exact[:, 1], net(x)[:, 0] - net(x)[:, 1])
    assert (roomy[:, 1] < exact[:, 1]).all()
