"""A loss of torch is the same loss whatever its reduction is, wherever a loss is accepted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus import AdversarialTrainerPlus
from artplus.attacks import PGD
from artplus.model import as_loss_model
from artplus.spaces import InputSpace
from tests.toys import arrays, classifier, net, weights

X, Y = arrays()
BOX = InputSpace(0.0, 1.0)


def judged(loss: nn.Module) -> Tensor:
    """Losses in the worst case of a module, and of an ART estimator with the loss."""
    torch.manual_seed(0)
    model = net().eval()
    options: dict[str, Any] = {"eps": 0.1, "attacks": ["pgd"], "progress": False, "checks": False}
    reports = [
        artplus.evaluate(model, X, Y, criterion=loss, bounds=(0.0, 1.0), **options),
        artplus.evaluate(classifier(model, loss=loss), X, Y, **options),
    ]
    return torch.stack([torch.as_tensor(report.attacks[0].losses) for report in reports])


def objective(loss: nn.Module) -> Tensor:
    """The loss of a method on a batch."""
    torch.manual_seed(0)
    model = as_loss_model(net().eval(), loss)
    method = artplus.make_method("trades", attack=PGD(eps=0.1, steps=2), space=BOX)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    return method.loss(model, x, y, generator=torch.Generator().manual_seed(0))


def fitted(loss: nn.Module) -> Tensor:
    """The weights after an epoch of ``fit``."""
    torch.manual_seed(0)
    model = net()
    artplus.fit(
        model, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1), criterion=loss, eps=0.1,
        bounds=(0.0, 1.0), epochs=1, batch_size=16, seed=0, progress=False,
    )  # fmt: skip
    return torch.cat([value.flatten().float() for value in weights(model).values()])


def hardened(loss: nn.Module) -> Tensor:
    """The weights after an epoch of an ART classifier's trainer."""
    torch.manual_seed(0)
    estimator = classifier(loss=loss)
    trainer = AdversarialTrainerPlus(estimator, eps=0.1, verbose=False, seed=0)
    trainer.fit(X, Y, nb_epochs=1, batch_size=16)
    return torch.cat([value.flatten().float() for value in weights(estimator.model).values()])


@pytest.mark.parametrize("door", [judged, objective, fitted, hardened])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_every_door_takes_any_reduction_as_the_mean(
    door: Callable[[nn.Module], Tensor], reduction: str
) -> None:
    """Figures, gradients and weights are those of the mean, to the bit, class weights included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for weight in (None, torch.tensor([1.0, 2.0, 0.5])):
            mean, other = (
                door(nn.CrossEntropyLoss(weight, reduction=r)) for r in ("mean", reduction)
            )
            assert torch.equal(mean, other)
