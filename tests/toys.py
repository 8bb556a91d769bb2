"""Tiny estimators, data and comparisons for the tests of training and of the bridge."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.estimators.regression.pytorch import PyTorchRegressor
from torch import Tensor, nn

from artplus.model import LossModel


def net(features: int = 6, classes: int = 3, *, dropout: float = 0.0) -> nn.Sequential:
    """A net with batch statistics, and with random draws if ``dropout``."""
    layers: list[nn.Module] = [nn.Linear(features, 8), nn.BatchNorm1d(8), nn.ReLU()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(8, classes))


def cnn(classes: int = 3, channels: int = 1) -> nn.Sequential:
    """Convolution, batch statistics, flattening: the shape that trips ART's TRADES and FBF."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, classes),
    )


def arrays(
    n: int = 48, shape: tuple[int, ...] = (6,), classes: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in [0, 1] and labels that a linear map of them decides."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, *shape)).astype(np.float32)
    y = ((x.reshape(n, -1) - 0.5) @ rng.normal(size=(int(np.prod(shape)), classes))).argmax(1)
    return x, y


def classifier(
    model: nn.Module | None = None,
    *,
    loss: Any = None,
    optimizer: Any = "sgd",
    input_shape: tuple[int, ...] = (6,),
    nb_classes: int = 3,
    clip_values: Any = (0.0, 1.0),
    kind: type = PyTorchClassifier,
    **options: Any,
) -> Any:
    """An ART estimator on the CPU, with SGD unless told otherwise."""
    model = net() if model is None else model
    if optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return kind(
        model=model,
        loss=loss or nn.CrossEntropyLoss(),
        optimizer=optimizer,
        input_shape=input_shape,
        nb_classes=nb_classes,
        clip_values=clip_values,
        device_type="cpu",
        **options,
    )


def regressor(model: nn.Module | None = None, *, lr: float = 0.05) -> Any:
    """An ART regressor of one output on the CPU."""
    model = model or nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    return PyTorchRegressor(
        model=model,
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        input_shape=(6,),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal bit for bit, NaN included."""
    return a.keys() == b.keys() and all(
        torch.equal(torch.nan_to_num(a[k], nan=7.7), torch.nan_to_num(b[k], nan=7.7)) for k in a
    )


def wrong(model: LossModel, predictions: Tensor, y: Tensor) -> Tensor:
    """Which examples are misclassified, ``(batch,)`` booleans."""
    right = model.task.correct(predictions, y)
    assert right is not None
    return ~right
