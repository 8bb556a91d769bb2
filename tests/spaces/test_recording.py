"""Recorded hidden states: what the layer gave, with gradients, and no hook left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import artplus
from artplus.errors import ConfigurationError
from artplus.losses import Objective, Terms
from artplus.model import LossModel
from artplus.spaces import LatentSpace, recording


class Blocks(nn.Module):
    """Three blocks, computed again in the backward pass if ``again``."""

    def __init__(self, again=False):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(3)
        )
        self.spare, self.again = nn.Linear(4, 4), again

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
        return x


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def hooks(module):
    return sum(len(child._forward_hooks) for child in module.modules())


def test_states_are_what_the_layers_give():
    """By the end of a name and by number, as in LatentSpace."""
    net = Blocks()
    with recording(net, ["blocks.0", "1.1", -1]) as states:
        outputs = net(X)
    first = net.blocks[0](X)
    assert list(states) == ["blocks.0", "1.1", -1]
    assert torch.equal(states["blocks.0"], first)
    assert torch.equal(states["1.1"], net.blocks[1][1](net.blocks[1][0](first)))
    assert torch.equal(states[-1], outputs)
    assert hooks(net) == 0


@pytest.mark.parametrize("layer", ["blocks.1", "blocks.1.0"])
def test_gradients_flow_also_through_checkpoints(layer):
    """A loss of a recorded state has the same gradient when activations are computed again."""
    gradients = []
    for net in (Blocks(), Blocks(again=True)):
        x = X.clone().requires_grad_(True)
        with recording(net, [layer]) as states:
            outputs = net(x)
            loss = states[layer].square().sum() + outputs.sum()
            recorded = states[layer]
            gradients.append(torch.autograd.grad(loss, [x, net.blocks[0][0].weight]))
            assert states[layer] is recorded  # not what the backward pass computed again
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again) and plain.abs().sum() > 0


def test_a_perturbation_of_the_layer_is_included():
    """Hooks of a space come first."""
    net, space = Blocks(), LatentSpace([1])
    model = LossModel(net)
    delta = space.lift(model, X) + 0.5
    with recording(net, [1]) as clean:
        model(X)
    with recording(net, [1]) as perturbed:
        model(space.insert(X, delta))
    assert torch.allclose(perturbed[1], clean[1] + 0.5)


def test_hooks_are_gone_after_an_exception():
    """Both one in the pass and one of a layer that does not exist."""
    net = Blocks()
    with pytest.raises(RuntimeError), recording(net, [0, 1]):
        net(torch.zeros(2, 3))
    assert hooks(net) == 0
    with pytest.raises(ConfigurationError, match="no module called 'nowhere'"):  # noqa: SIM117
        with recording(net, [0, "nowhere"]):
            pass
    assert hooks(net) == 0


def test_a_layer_that_does_not_run_is_refused():
    """Its name is in the message."""
    net = Blocks()
    with pytest.raises(ConfigurationError, match="'spare' did not run"):  # noqa: SIM117
        with recording(net, ["spare"]):
            net(X)


def test_an_objective_that_records_is_refused_under_compile():
    """Before any step, with the reason."""

    def terms(ctx):
        with recording(ctx.model.module, [0]) as states:
            outputs = ctx.model(ctx.x)
        return Terms(fixed=ctx.loss(outputs), scaled=states[0].square().sum(1))

    objective = Objective("recorded", terms, attacked=False, records=True)
    net, y = Blocks(), torch.randint(4, (5,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    options = {"loss": objective, "epochs": 1, "progress": False}
    artplus.fit(net, (X.sigmoid(), y), optimizer, **options)
    with pytest.raises(ConfigurationError, match="'recorded' records hidden states by hooks"):
        artplus.fit(net, (X.sigmoid(), y), optimizer, compile=True, **options)
