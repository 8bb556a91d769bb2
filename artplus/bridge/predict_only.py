"""ART estimators that only predict, without a torch module; ART's own attacks can attack them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.estimators.classification import (
    BlackBoxClassifier,
    BlackBoxClassifierNeuralNetwork,
    ClassifierMixin,
)
from torch import Tensor, nn

from artplus import _checks, passes
from artplus.bridge.art_attack import ArtAttack
from artplus.criterion import Criterion
from artplus.errors import ConfigurationError, UnsupportedEstimatorError
from artplus.functional import are_probabilities, cross_entropy
from artplus.mapped import Inputs, as_inputs, as_tensor
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import Classification


@dataclass(frozen=True)
class OwnAttack(ArtAttack):
    """An ART attack on an estimator without a torch module, on which it must have been built.

    Attributes:
        estimator: The attacked estimator.
    """

    estimator: Any = None

    def _count_passes(self) -> AbstractContextManager[None]:
        classes = int(self.estimator.nb_classes)

        def gradients_per_example(x: Any, label: Any = None, **_: Any) -> int:
            return classes if label is None else 1

        methods = {
            "predict": None,
            "loss_gradient": lambda *_, **__: 1,
            "class_gradient": gradients_per_example,
        }
        return passes.asking(self.estimator, methods)

    def _check_call(self, model: LossModel, inner: Any, start: Any, space: InputSpace) -> None:
        if self.attack.estimator is not self.estimator:
            raise ConfigurationError(
                f"ART's {type(self.attack).__name__} attacks another estimator than the one given; "
                f"build it on the same: {type(self.attack).__name__}(estimator, ...)"
            )
        if space.mask is not None:
            raise ConfigurationError("a mask needs an estimator that holds a torch module")


def answers(estimator: Any) -> LossModel:
    """A classifier's ``predict`` as a model without gradients, on the CPU.

    The loss is cross-entropy. Predictions are taken for probabilities if they are, else for logits.

    Raises:
        UnsupportedEstimatorError: if the estimator is not a classifier.
    """
    if not isinstance(estimator, ClassifierMixin):
        raise UnsupportedEstimatorError(
            "without a torch module only ART classifiers can be evaluated, by their predict; got "
            f"{type(estimator).__name__}"
        )

    def forward(x: Tensor) -> Tensor:
        outputs = torch.as_tensor(np.asarray(estimator.predict(x.detach().cpu().numpy()))).float()
        return outputs.clamp_min(1e-12).log() if are_probabilities(outputs) else outputs

    task = Classification(Criterion(cross_entropy), int(estimator.nb_classes))
    return LossModel(nn.Identity(), task, forward)


def box(estimator: Any) -> InputSpace:
    """The range of ``clip_values``; without them it is unbounded."""
    if estimator.clip_values is None:
        return InputSpace()
    low, high = (torch.as_tensor(np.asarray(v, dtype=np.float32)) for v in estimator.clip_values)
    return InputSpace(low, high)


def inputs(estimator: Any, x: Any) -> Inputs:
    """``x`` as a checked float32 tensor; a memory map as :class:`~artplus.mapped.Rows`."""
    tensor = as_inputs(np.asarray(x)).to(torch.float32)
    _checks.inputs(tensor, shape=tuple(estimator.input_shape))
    return tensor


def check_columns(estimator: Any, x: Inputs) -> None:
    """Refuse a black box whose number of columns is not its number of classes.

    ART silently copies a single column to every class, so that all classes tie.

    Raises:
        UnsupportedEstimatorError: with the expected and the actual shape.
    """
    if not isinstance(estimator, (BlackBoxClassifier, BlackBoxClassifierNeuralNetwork)):
        return
    x_first, _ = estimator._apply_preprocessing(x[:1].numpy(), y=None, fit=False)
    shape, classes = np.shape(estimator._predict_fn(x_first)), int(estimator.nb_classes)
    if shape != (1, classes):
        raise UnsupportedEstimatorError(
            f"predict_fn must return a column for each of nb_classes={classes}, "
            f"(batch, {classes}), got {shape} for one input. From one probability p of class 1 "
            "make two columns: numpy.stack([1 - p, p], axis=1)."
        )


def labels(y: Any) -> Tensor:
    """Labels as class numbers, from numbers or one-hot rows."""
    tensor = as_tensor(np.asarray(y))
    return tensor.argmax(1) if tensor.ndim == 2 else tensor.long()
