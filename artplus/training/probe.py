"""One look before the first step: everything that would only fail later, or silently."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import _checks, modes
from artplus.errors import (
    ArtplusWarning,
    ConfigurationError,
    DataError,
    UnsupportedEstimatorError,
)
from artplus.model import LossModel
from artplus.training.data import Arrays, Batch, Loaded
from artplus.training.method import Method

LOOK = 32
"""Examples looked at: enough to tell probabilities from logits."""


def probe(model: LossModel, source: Arrays | Loaded, method: Method) -> LossModel:
    """Try the model and the method on a few examples; return the model with its classes known.

    Nothing is moved by it: evaluation mode, no gradients kept, the random stream given back.

    Raises:
        UnsupportedEstimatorError: if the model's output is not what the method needs.
        DataError: if the data is empty, or labels do not fit the model's output.
        ConfigurationError: if the method cannot work with this loss.
    """
    batch = first(source)
    x, y = batch.x[:LOOK], batch.y[:LOOK]
    with modes.attack_mode(model.module), torch.no_grad():
        predictions = model(x)
    if not isinstance(predictions, Tensor):
        raise UnsupportedEstimatorError(
            f"the model must return a tensor, got {type(predictions).__name__}. Wrap it in a "
            "module whose forward returns the logits, such as output.logits."
        )
    if model.criterion.over_classes:
        model = _classifier(model, predictions)
        check_labels(model, source, batch)
    elif method.objective.over_classes:
        raise ConfigurationError(
            f"loss {method.objective.name!r} compares class probabilities, but this model's own "
            "loss is not over classes; use 'at', 'mix' or 'input_gradient'"
        )
    _weights(model, method)
    losses = model.loss(predictions, y)
    if losses.shape != (len(x),):
        raise ConfigurationError(
            f"the loss must give one value per example, ({len(x)},), or a scalar mean; it gave "
            f"{tuple(losses.shape)}"
        )
    if not bool(torch.isfinite(losses).all()):
        raise DataError(
            "the loss is already NaN or infinite on the first examples, before any step. Are the "
            "model's weights finite, and the labels in the form that the loss expects?"
        )
    return model


def check_optimizer(module: nn.Module, optimizer: Optimizer) -> None:
    """Refuse an optimizer that is missing or moves none of the model's parameters."""
    if not isinstance(optimizer, Optimizer):
        raise ConfigurationError(
            f"training needs a torch optimizer, got {type(optimizer).__name__}. Give the "
            "estimator one: PyTorchClassifier(..., optimizer=torch.optim.Adam(model.parameters()))"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigurationError(
            "LBFGS evaluates the loss several times a step, each time against other adversarial "
            "examples; use SGD, Adam or another optimizer whose step needs no closure"
        )
    own = {id(p) for p in module.parameters()}
    moved = [p for group in optimizer.param_groups for p in group["params"] if id(p) in own]
    if not moved:
        raise ConfigurationError(
            "the optimizer holds none of this model's parameters, so training would change "
            "nothing. Was the model copied, or replaced, after the optimizer was made?"
        )
    if not any(p.requires_grad for p in moved):
        raise ConfigurationError(
            "every parameter of this model in the optimizer is frozen (requires_grad=False); "
            "unfreeze some"
        )


def first(source: Arrays | Loaded, n: int = LOOK) -> Batch:
    """The first batch, with the order and the random stream as if nobody had looked.

    Of arrays the first ``n`` examples; a loader's batch is as large as it makes them.
    """
    if isinstance(source, Arrays):
        return source.head(n)
    with source.undisturbed():
        batch = next(iter(source), None)
    if batch is None:
        raise DataError("the loader gave no batch; is the data set empty?")
    return batch


def check_labels(model: LossModel, source: Arrays | Loaded, looked_at: Batch | None = None) -> None:
    """Refuse labels that do not fit the model's classes: all of arrays, a loader's first batch.

    Raises:
        DataError: for a wrong shape, dtype or range, or if the data is empty.
    """
    looked_at = looked_at or first(source)
    if not model.criterion.over_classes:
        return
    y = source.y if isinstance(source, Arrays) else looked_at.y
    _checks.class_labels(y, n=len(y), classes=model.classes)
    if y.ndim == 2 and not model.criterion.soft and not _one_hot(y):
        raise DataError("soft labels need a loss that takes them, such as CrossEntropyLoss")


def _classifier(model: LossModel, predictions: Tensor) -> LossModel:
    _checks.several_logits(predictions)
    if predictions.ndim != 2 or predictions.shape[1] < 2:
        raise UnsupportedEstimatorError(
            "a classifier must return logits (batch, classes) with at least two classes, got "
            f"{tuple(predictions.shape)}"
        )
    classes = predictions.shape[1]
    if model.classes is not None and model.classes != classes:
        raise UnsupportedEstimatorError(
            f"the estimator was made for {model.classes} classes, but the model returns {classes} "
            "logits; give nb_classes as the model has outputs"
        )
    rows = predictions.sum(1)
    if bool((predictions >= 0).all()) and torch.allclose(rows, torch.ones_like(rows), atol=1e-4):
        warnings.warn(
            "the model's outputs look like probabilities (non-negative, summing to one), but the "
            "loss expects logits: gradients shrink and training stalls. Leave out the softmax.",
            ArtplusWarning,
            stacklevel=2,
        )
    return replace(model, classes=classes)


def _weights(model: LossModel, method: Method) -> None:
    weighted = method.class_weight is not None
    if weighted and not model.criterion.per_example:
        raise ConfigurationError(
            "class_weight needs a loss per example, but this loss reduces by itself and has no "
            "`reduction` attribute; give it one, or return one value per example"
        )
    if not model.criterion.over_classes and (weighted or method.label_smoothing):
        raise ConfigurationError("label_smoothing and class_weight are for classification")
    if method.label_smoothing and not model.criterion.soft:
        raise ConfigurationError(
            "label_smoothing needs a loss that takes soft labels, such as CrossEntropyLoss"
        )
    if method.class_weight is not None:
        weight = method.class_weight
        sound = bool(((weight >= 0) & weight.isfinite()).all()) and bool(weight.sum() > 0)
        if tuple(weight.shape) != (model.classes,) or not sound:
            raise ConfigurationError(
                f"class_weight must be {model.classes} finite numbers >= 0, not all zero, got "
                f"{weight.tolist()}"
            )


def _one_hot(y: Tensor) -> bool:
    return bool(((y == 0) | (y == 1)).all())
