"""Keras 3 models on its torch backend: modules whose mode is an argument, not a flag.

A Keras layer is a ``torch.nn.Module``, but it never reads ``module.training``: without
``training=True`` in the call, dropout is off and batch statistics do not move, whatever
``model.train()`` said. Keras is recognised by the names of its classes and never imported.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn


class KerasModule(nn.Module):
    """A Keras model that follows ``train()`` and ``eval()`` as torch's modules do.

    Weights are the model's own, so training it trains the model. Keras runs no hooks of torch when
    it is called. Keras layers inside a torch module are called by the module's own code, which must
    pass on the mode: ``self.layer(x, training=self.training)``.

    Args:
        module: A Keras model or layer; the wrapper begins in its mode.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *args: Any, **options: Any) -> Any:
        """The model's outputs, in this wrapper's mode unless ``training`` is given."""
        return self.module(*args, **{"training": self.training, **options})


def is_keras(module: nn.Module) -> bool:
    """Whether the module is a Keras layer or model."""
    return _any_of_keras(type(module).__mro__)


@cache  # asked for every sub-module at every step
def _any_of_keras(classes: tuple[type, ...]) -> bool:
    return any(cls.__module__.partition(".")[0] == "keras" for cls in classes)


def as_torch(module: nn.Module) -> nn.Module:
    """A Keras model as a module that follows its training flag; any other module as it is."""
    return KerasModule(module) if is_keras(module) else module


def statistics(module: nn.Module) -> list[Tensor]:
    """Moving means and the like, which Keras holds as parameters and torch holds as buffers.

    Args:
        module: Any module; Keras layers anywhere inside it count.
    """
    return [v.value for layer in _layers(module) for v in layer._non_trainable_variables]


def seeds(module: nn.Module) -> list[Tensor]:
    """States of the random generators that Keras layers draw from, kept as parameters too."""
    return [g.state.value for layer in _layers(module) for g in layer._seed_generators]


def _layers(module: nn.Module) -> list[Any]:
    """All Keras layers, each once; inside a Keras model they are no sub-modules for torch."""
    roots: list[Any] = [child for child in module.modules() if is_keras(child)]
    layers = (layer for root in roots for layer in root._flatten_layers())
    return list({id(layer): layer for layer in layers}.values())
