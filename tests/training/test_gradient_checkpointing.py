"""Models that recompute activations: the same numbers, and a remedy for torch's older form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from artplus import fit
from artplus.attacks import APGD, PGD
from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.training.steps import AWP, Free
from tests.toys import arrays, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))


class Blocks(nn.Module):
    """A net of two blocks with dropout, whose activations are kept or computed again."""

    def __init__(self, reentrant=None):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.2)) for _ in range(2)
        )
        self.head = nn.Linear(6, 3)
        self.reentrant, self.passes = reentrant, 0

    def forward(self, x):
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(self._counted, block, x, use_reentrant=self.reentrant)
        return self.head(x)

    def _counted(self, block, x):
        self.passes += 1
        return block(x)


def train(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    common = {"eps": 0.05, "epochs": 2, "batch_size": 8, "seed": 0, "progress": False}
    fit(model, (X, Y), optimizer, **common | options)
    return weights(model)


@pytest.mark.parametrize("attack", [PGD(eps=0.1, steps=3), APGD(eps=0.1, steps=5)])
def test_attacks_are_those_of_the_plain_model(attack):
    """The same adversarial examples, to the bit, with activations computed twice."""
    plain, again = Blocks(), Blocks(False)
    x_adv, twin = (
        attack(LossModel(m), X, Y, generator=torch.Generator().manual_seed(1))
        for m in (plain, again)
    )
    assert torch.equal(x_adv, twin) and again.passes > 0
    assert all(p.grad is None for p in again.parameters())


@pytest.mark.parametrize("objective", ["at", "trades", "mart", "input_gradient"])
def test_training_is_that_of_the_plain_model(objective):
    """Weights equal to the bit, dropout masks included."""
    eps = None if objective == "input_gradient" else 0.05
    expected = train(Blocks(), loss=objective, eps=eps)
    assert same(train(Blocks(False), loss=objective, eps=eps), expected)


@pytest.mark.parametrize("options", [{"step": AWP()}, {"step": Free(), "attack": PGD(eps=0.05),
                                     "eps": None, "loss": "at"}, {"micro_batch": 4}],
                         ids=["awp", "free", "parts"])  # fmt: skip
def test_other_steps_too(options):
    """Two passes, a perturbation carried along, parts of a batch."""
    assert same(train(Blocks(False), **options), train(Blocks(), **options))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_the_reentrant_form_is_refused_with_its_remedy():
    """Before any weight moves; in an attack by hand as well."""
    model = Blocks(True)
    before = weights(model)
    with pytest.raises(
        ConfigurationError, match=r"re-entrant .* checkpoint\(\.\.\., use_reentrant=F"
    ):
        train(model)
    assert same(weights(model), before)
    with pytest.raises(ConfigurationError, match="re-entrant"):
        PGD(eps=0.1)(LossModel(model), X, Y)


def test_other_errors_of_the_model_pass_through():
    """Only torch's complaint about checkpoints is translated."""

    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            raise RuntimeError("no such gradient")

    class Model(nn.Module):
        def forward(self, x):
            return Odd.apply(x)[:, :3]

    with pytest.raises(RuntimeError, match="no such gradient"):
        PGD(eps=0.1)(LossModel(Model()), X, Y)
