"""A model and its loss as one thing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from artplus.errors import ConfigurationError
from artplus.model import LossModel, as_loss_model, device_of, in_float32
from artplus.spaces import LatentSpace, attached
from artplus.tasks import task_for


def test_predictions_come_from_the_module_or_its_forward(tiny_net, toy_batch):
    """``forward`` stands before the module where it is given, as preprocessing does."""
    net, (x, _) = tiny_net(), toy_batch()
    assert torch.equal(LossModel(net)(x), net(x))
    model = LossModel(net, forward=lambda v: net(2 * v - 1))
    assert torch.equal(model(x), net(2 * x - 1))


def test_loss_is_cross_entropy_unless_told_otherwise(tiny_net, toy_batch):
    """The default loss is cross-entropy, per example."""
    net, (x, y) = tiny_net(), toy_batch()
    expected = nn.functional.cross_entropy(net(x), y, reduction="none")
    torch.testing.assert_close(LossModel(net).loss(net(x), y), expected)
    margins = LossModel(net, task_for(nn.MultiMarginLoss())).loss(net(x), y)
    expected = nn.functional.multi_margin_loss(net(x), y, reduction="none")
    torch.testing.assert_close(margins, expected)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_pair_moves_statistics_and_stream_as_one_clean_pass(kind, device, tiny_net, toy_batch):
    """Buffers and random draws afterwards are those of one pass over the clean batch."""
    net = tiny_net(kind, batch_norm=True, dropout=0.5).to(device)
    twin = copy.deepcopy(net)
    x = toy_batch(kind)[0].to(device)
    torch.manual_seed(1)
    clean, _ = LossModel(net).pair(x, x + 1)
    drawn = torch.rand(2), torch.rand(2, device=device)
    torch.manual_seed(1)
    assert torch.equal(clean, twin(x))
    assert torch.equal(torch.rand(2), drawn[0])
    assert torch.equal(torch.rand(2, device=device), drawn[1])
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))


def test_pair_shares_dropout_masks(tiny_net, toy_batch):
    """Equal inputs give equal predictions; with masks of their own they would not."""
    net, (x, _) = tiny_net(dropout=0.5), toy_batch()
    clean, adversarial = LossModel(net).pair(x, x)
    assert torch.equal(clean, adversarial)
    assert not torch.equal(net(x), net(x))


def test_pair_rewinds_draws_made_on_the_cpu(toy_batch):
    """A layer that draws on the CPU wherever it runs is the same in both passes too."""

    class Coin(nn.Module):
        def forward(self, x):
            return x * torch.rand(())

    x, _ = toy_batch()
    clean, adversarial = LossModel(Coin()).pair(x, x)
    assert torch.equal(clean, adversarial)


def test_pair_leaves_the_stream_where_the_clean_pass_did(toy_batch):
    """A net that draws more for the attacked batch leaves no trace of it."""

    class Greedy(nn.Module):
        def forward(self, x):
            torch.rand(9 if x.mean() > 1 else 1)
            return x

    x, _ = toy_batch()
    torch.manual_seed(1)
    torch.rand(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    LossModel(Greedy()).pair(x, x + 9)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("part", ["all", "body"])
def test_pair_in_evaluation_mode(part, tiny_net, toy_batch):
    """Nothing moves; and where only a part still trains, its statistics move once."""
    net, (x, _) = tiny_net(batch_norm=True), toy_batch()
    net.eval()
    if part == "body":
        net[1].train()
    twin = copy.deepcopy(net)
    clean, adversarial = LossModel(net).pair(x, x + 1)
    assert torch.equal(clean, twin(x))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))
    assert torch.equal(adversarial, twin(x + 1))


def test_wrong_is_misclassification(toy_batch):
    """Against class numbers and rows alike."""
    model = LossModel(nn.Identity())
    z = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    assert model.task.correct(z, torch.tensor([0, 0])).tolist() == [True, False]
    assert model.task.correct(z, torch.tensor([[0.9, 0.1], [0.6, 0.4]])).tolist() == [True, False]


def test_as_loss_model_wraps_modules_once(tiny_net):
    """A module gets its loss; a ready model passes through; a second loss is refused."""
    net = tiny_net()
    model = as_loss_model(net, nn.MultiMarginLoss())
    assert model.module is net and not model.task.soft
    assert as_loss_model(net).task.soft
    assert as_loss_model(model) is model
    with pytest.raises(
        ConfigurationError, match="already has a task and a loss; leave out criterion="
    ):
        as_loss_model(model, nn.CrossEntropyLoss())
    with pytest.raises(ConfigurationError, match="must be a torch.nn.Module, got str"):
        as_loss_model("net")


def test_device_of_parameters_buffers_or_nothing():
    """The first parameter counts, then the first buffer, then the CPU."""
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights_take_and_give_float32(tiny_net, toy_batch, dtype):
    """The same module at rounded inputs; the gradient by the unrounded ones; nothing twice."""
    net, (x, y) = tiny_net().eval().to(dtype), toy_batch()
    model = in_float32(LossModel(net))
    x = x.clone().requires_grad_()
    predictions = model(x)
    assert predictions.dtype == torch.float32
    assert torch.equal(predictions, net(x.to(dtype)).float())
    (slope,) = torch.autograd.grad(model.loss(predictions, y).sum(), x)
    assert slope.dtype == torch.float32 and slope.any()
    assert in_float32(model) is model
    whole = LossModel(tiny_net())
    assert in_float32(whole) is whole


def test_a_perturbation_inside_half_precision_is_not_rounded_on_the_way():
    """The inputs are, and integers are left alone."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).bfloat16()
    model, space = in_float32(LossModel(net)), LatentSpace("0")
    x = torch.rand(5, 3)
    with attached(net, space):
        z = torch.full_like(space.lift(model, x), 1 / 3)
        perturbed = space.insert(x, z)
        states = net[0](x.bfloat16()).float() + 1 / 3
        assert torch.equal(model(perturbed), net[1](states.bfloat16()).float())
