"""Normalised inputs, ranges that are inferred, and padding: radius and bounds in raw units."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import artplus
from artplus.attacks import PGD
from artplus.errors import ArtplusWarning, ConfigurationError
from artplus.model import LossModel
from artplus.spaces import InputSpace
from tests.spaces.models import weights

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


class Normalised(nn.Module):
    """The same network with the normalisation inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(normalise(x))


def normalise(x):
    return (x - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))


def images(n=24):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 6, 6, generator=generator), torch.arange(n) % 3


def fit(model, data, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"eps": 0.1, "epochs": 2, "batch_size": 8, "seed": 0, "progress": False} | options
    return artplus.fit(model, data, optimizer, **settings)


@pytest.mark.parametrize("norm", [2, torch.inf])
def test_an_attack_moves_pixels_as_if_normalisation_were_inside(norm):
    """The same raw images, within the raw radius and range."""
    (x, y), net = images(), network().eval()
    attack = PGD(eps=0.3, norm=norm, steps=5, random_start=False)
    raw = attack(LossModel(Normalised(net)), x, y, space=InputSpace(0.0, 1.0))
    space = InputSpace(0.0, 1.0, normalization=(MEAN, STD))
    found = attack(LossModel(net), normalise(x), y, space=space)
    torch.testing.assert_close(space.lift(None, found), raw, atol=1e-4, rtol=0)
    assert (space.lift(None, found) - x).flatten(1).norm(norm, dim=1).max() > 0.25


@pytest.mark.parametrize("loss", ["mix", "trades", "input_gradient"])
def test_training_is_that_with_the_normalisation_inside(loss):
    """The same weights, to rounding, from normalised data; other ones without normalization=."""
    (x, y), start = images(), network()
    inside, outside, wrong = (copy.deepcopy(start) for _ in range(3))
    options = {"loss": loss} | ({"eps": None} if loss == "input_gradient" else {})
    fit(Normalised(inside), (x, y), bounds=(0.0, 1.0), **options)
    fit(outside, (normalise(x), y), normalization=(MEAN, STD), **options)
    fit(wrong, (normalise(x), y), bounds=None, **options)
    torch.testing.assert_close(weights(outside), weights(inside), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(weights(wrong), weights(inside), atol=1e-3)


def test_bounds_per_channel_are_each_kept():
    """Of images, in training's own space and in an attack."""
    (x, y), net = images(), network().eval()
    low, high = torch.tensor([0.0, 0.1, 0.2]), torch.tensor([1.0, 0.9, 0.8])
    x = x.clamp(low.view(-1, 1, 1), high.view(-1, 1, 1))
    x_adv = PGD(eps=0.5, steps=5)(LossModel(net), x, y, space=InputSpace(low, high))
    least, most = x_adv.amin((0, 2, 3)), x_adv.amax((0, 2, 3))
    assert torch.equal(least, low) and torch.equal(most, high)


def test_every_door_infers_the_same_range_and_says_it():
    """A history note, a report note and a warning; attacks stay inside."""
    (x, y), net = images(), network()
    history = fit(net, (x, y))
    report = artplus.evaluate(net, x, y, eps=0.1, attacks=["fgsm"], progress=False)
    for notes in (history.notes, report.notes):
        assert any("[0, 1], inferred from the data" in note for note in notes)
    with pytest.warns(ArtplusWarning, match=r"\[0, 1\], inferred from the data"):
        method = artplus.make_method("at", eps=0.5)
        method.loss(net, x, y)
    assert (method.bound(x).low, method.bound(x).high) == (0.0, 1.0)


def test_a_radius_of_bytes_on_a_unit_range_is_refused():
    """With the likely meaning, at every door, before any step."""
    (x, y), net = images(), network()
    before = weights(net)
    for call in (
        lambda: fit(net, (x, y), eps=8),
        lambda: fit(net, (normalise(x), y), eps=8, normalization=(MEAN, STD)),
        lambda: artplus.evaluate(net, x, y, eps=8, attacks=["pgd"], progress=False),
        lambda: artplus.make_method("at", eps=8, bounds=(0, 1)).loss(net, x, y),
    ):
        with pytest.raises(ConfigurationError, match="Did you mean 8/255"):
            call()
    assert torch.equal(before, weights(net))


class Averaging(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv1d(1, 3, 5)

    def forward(self, input_values, attention_mask):
        return self.head(input_values[:, None]).mean(2)


@pytest.mark.parametrize("norm", [2, torch.inf])
def test_padding_of_waveforms_is_not_perturbed(norm):
    """Where their attention_mask is zero."""
    torch.manual_seed(0)
    mask = (torch.arange(20) < torch.tensor([[20], [12], [7]])).long()
    inputs = {"input_values": torch.randn(3, 20) * mask, "attention_mask": mask}
    attack = PGD(eps=0.1, norm=norm, steps=3)
    x_adv = attack(LossModel(Averaging()), inputs, torch.tensor([0, 1, 2]))
    moved = x_adv["input_values"] != inputs["input_values"]
    assert not moved[mask == 0].any() and moved[mask == 1].all()
