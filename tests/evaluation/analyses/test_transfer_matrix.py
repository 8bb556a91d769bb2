"""Who fools whom: rows are sources, columns targets, and the diagonal is the white box."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.evaluation.analyses import Transfer
from artplus.model import LossModel
from tests.evaluation.analyses.subjects import inside, labelled, linear, looked, matrix, section

ATTACK = PGD(eps=0.05, steps=10)


def test_entries_are_accuracies_of_the_column_on_the_rows_examples() -> None:
    """Each entry by hand: craft on one, ask the other."""
    models = {"model": linear(), "before": linear(seed=1), "third": linear(seed=2)}
    x = inside(40)
    y = labelled(models["model"], x)
    found = section(
        models["model"], x, y, Transfer(models={"third": models["third"]}, attack=ATTACK),
        before=LossModel(models["before"]),
    )  # fmt: skip
    block = matrix(found)
    assert block.columns == tuple(models) and block.rows == ("no attack", *models)
    from artplus.spaces import InputSpace

    steady = PGD(eps=0.05, steps=10)
    for i, source in enumerate(models.values()):
        x_adv = steady(LossModel(source), x, y, space=InputSpace(0.0, 1.0))
        for j, target in enumerate(models.values()):
            clean = (target(x).argmax(1) == y).float().mean().item()
            assert block.values[0][j] == pytest.approx(clean)
            expected = (target(x_adv).argmax(1) == y).float().mean().item()
            # A linear model's attack ends in one corner, whatever the random start.
            assert block.values[1 + i][j] == pytest.approx(expected, abs=0.03)


def test_masked_gradients_show() -> None:
    """A model that hides its gradients falls to examples of its own open twin."""

    class Staircase(nn.Module):
        """The twin's logits, saturated so that float32 has no gradient left."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.net(x) * 1e4) * 100

    net, x = linear(), inside(60)
    y = labelled(net, x)
    found = section(Staircase(net), x, y, Transfer(models={"twin": net}), eps=0.05)
    figures = dict(found.figures)
    assert figures["best_transfer"] < figures["white_box"] - 0.02
    assert "mislead" in found.notes[-1] and "twin" in found.notes[-1]


def test_the_other_models_are_left_as_they_were() -> None:
    """Flags and gradients of every model come back."""
    net, other, x = linear(), nn.Sequential(nn.Dropout(0.5), linear(seed=1)).train(), inside(10)
    other[1].weight.grad = torch.ones_like(other[1].weight)
    section(net, x, labelled(net, x), Transfer(models={"other": other}))
    assert other.training and other[0].training
    assert torch.equal(other[1].weight.grad, torch.ones_like(other[1].weight))


def test_refusals() -> None:
    """One model makes no matrix; names and kinds are checked."""
    net, x = linear(), inside(5)
    with pytest.raises(ConfigurationError, match="needs another model"):
        looked(net, x, labelled(net, x), "transfer")
    with pytest.raises(ConfigurationError, match="cannot be called 'before'"):
        Transfer(models={"before": net})
    with pytest.raises(ConfigurationError, match="must be a torch.nn.Module"):
        looked(net, x, labelled(net, x), Transfer(models={"other": 3}))
