"""An ART estimator as training needs it: a loss model, bounds, and checked inputs and labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.hugging_face import HuggingFaceClassifierPyTorch
from art.estimators.pytorch import PyTorchEstimator
from art.estimators.regression.pytorch import PyTorchRegressor
from torch import Tensor, nn

from artplus import _checks
from artplus.bridge import certified
from artplus.bridge.text import TextClassifier
from artplus.criterion import Criterion, LossFunction, criterion
from artplus.errors import ConversionWarning, DataError, UnsupportedEstimatorError
from artplus.keras_modules import as_torch
from artplus.mapped import Inputs, Rows, is_mapped
from artplus.model import LossModel
from artplus.spaces import EmbeddingSpace, InputSpace
from artplus.tasks import Classification, Multilabel, Regression, Task
from artplus.tree import Tree, size


@dataclass(frozen=True)
class EstimatorView:
    """An ART estimator as the rest of artplus sees it.

    Attributes:
        estimator: The estimator itself, unchanged.
        model: Maps raw inputs, in the range of ``clip_values``, to predictions, differentiably
            through the estimator's preprocessing. It has the estimator's loss per example.
        space: The box of ``clip_values``; of a text classifier its embeddings.
        input_shape: Shape of one input.
        nb_classes: Number of classes; ``None`` for a regressor.
    """

    estimator: Any
    model: LossModel
    space: InputSpace | EmbeddingSpace
    input_shape: tuple[int, ...]
    nb_classes: int | None

    def inputs(self, x: Any, name: str = "x") -> Tree:
        """``x`` as a checked float32 tensor ``(batch, *input_shape)``, or rows of a memory map.

        Of a text classifier columns of token ids, each ``(batch, tokens)``.

        Raises:
            DataError: for a wrong shape or dtype, NaN, or values outside ``clip_values``.
        """
        tensor = self.shaped(x, name)
        if isinstance(self.space, InputSpace):
            _checks.inputs(tensor, low=self.space.low, high=self.space.high, name=name)
        return tensor

    def shaped(self, x: Any, name: str = "x") -> Tree:
        """``x`` as from :meth:`inputs`, but without a check of its values.

        Raises:
            DataError: for a wrong shape or dtype.
        """
        if isinstance(self.estimator, TextClassifier):
            return self.estimator.embedded.columns_of(x)
        tensor = _float32(x, name)
        _checks.input_shape(tensor, self.input_shape, name)
        return tensor

    def labels(self, y: Any, n: int, name: str = "y", *, unlabelled: bool = False) -> Tensor:
        """``y`` as class numbers, soft rows, or regression targets.

        Class labels may be whole numbers ``(n,)`` or ``(n, 1)``, one-hot or soft rows
        ``(n, classes)``; regression targets are floats ``(n,)``.

        Raises:
            DataError: for a wrong count, shape, range, or NaN.
        """
        if y is None:
            raise DataError(f"{name} is missing: training needs labels beside x")
        tensor = as_numbers(y, name)
        if self.nb_classes is None:
            return _targets(tensor, n, name)
        if not self.model.task.over_classes:
            return _multi_hot(tensor, n, self.nb_classes, name)
        tensor = _class_numbers(tensor, self.nb_classes)
        _checks.class_labels(tensor, n=n, classes=self.nb_classes, name=name, unlabelled=unlabelled)
        return tensor

    def prepare(self, x: Any, y: Any) -> tuple[Tree, Tensor]:
        """Checked inputs and labels of an array or batch."""
        inputs = self.inputs(x)
        # Whether the loss has a use for examples without a label is checked before training.
        return inputs, self.labels(y, size(inputs), unlabelled=True)


def view(estimator: Any) -> EstimatorView:
    """Return the :class:`EstimatorView` of an ART estimator that holds a torch module.

    Supported are ``PyTorchClassifier`` and subclasses, ``HuggingFaceClassifierPyTorch``,
    :class:`~artplus.bridge.text.TextClassifier`, ``PyTorchRegressor``, and the predictions of ART's
    certified estimators for points (:mod:`artplus.bridge.certified`). In evaluation mode,
    predictions equal the estimator's own without its postprocessing. Preprocessing is applied as
    in ART: the steps for fitting in train mode, the steps for prediction in evaluation mode and
    therefore in attacks.

    Raises:
        UnsupportedEstimatorError: for an estimator without a torch module, of another type, with
            preprocessing that torch cannot differentiate, or around a ``Sequential`` subclass
            that overrides ``forward``, which ART ignores.
    """
    if not isinstance(estimator, PyTorchEstimator):
        raise UnsupportedEstimatorError(
            "hardening needs an ART estimator that holds a torch module, such as "
            f"PyTorchClassifier, got {type(estimator).__name__}. "
            "artplus.wrap(model, x, y, optimizer=...) makes one from a torch model; "
            "artplus.evaluate also takes estimators that only predict."
        )
    if not isinstance(estimator, (PyTorchClassifier, PyTorchRegressor)):
        raise UnsupportedEstimatorError(
            f"{type(estimator).__name__} is not supported yet; supported are PyTorchClassifier, "
            "HuggingFaceClassifierPyTorch, their subclasses, and PyTorchRegressor"
        )
    classes = getattr(estimator, "nb_classes", None)
    text = isinstance(estimator, TextClassifier)
    module = estimator.embedded.module if text else as_torch(estimator.model)
    _refuse_overridden_sequential(module)
    forward = None if text else _forward(estimator, module)
    if classes is None:
        task: Task = Regression(criterion(estimator.loss))
    else:
        forward, task = _as_classifier(estimator, forward, classes)
    return EstimatorView(
        estimator=estimator,
        model=LossModel(module, task, forward),
        space=_space(estimator),
        input_shape=tuple(estimator.input_shape),
        nb_classes=classes,
    )


def _refuse_overridden_sequential(module: nn.Module) -> None:
    if isinstance(module, nn.Sequential) and type(module).forward is not nn.Sequential.forward:
        raise UnsupportedEstimatorError(
            f"{type(module).__name__} subclasses nn.Sequential and overrides forward, but ART runs "
            "the children one after the other and never calls it: it would train and attack "
            "another function than yours. Derive the class from nn.Module instead."
        )


def _forward(estimator: Any, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The function from raw inputs to predictions; ``None`` if it is the module itself."""
    points = certified.layers(module)
    predict = module if points is None else points
    hugging_face = isinstance(estimator, HuggingFaceClassifierPyTorch)
    operations = [op for op in estimator.preprocessing_operations if not _is_identity(op)]
    if not operations and not (hugging_face and estimator.processor is not None):
        return points
    if not estimator.all_framework_preprocessing:
        names = ", ".join(type(op).__name__ for op in operations)
        raise UnsupportedEstimatorError(
            f"the preprocessing ({names}) is not written in torch, so no gradient passes through "
            "it and training on it would be training against a weaker attack. Use the PyTorch "
            "version of the defence, or apply it to the data beforehand."
        )

    def preprocessed(x: Tensor) -> Tensor:
        inputs, _ = estimator._apply_preprocessing(x, None, fit=module.training, no_grad=False)
        if len(inputs) != len(x):
            raise UnsupportedEstimatorError(
                f"the preprocessing turned {len(x)} examples into {len(inputs)} while training; "
                "augment in the data loader instead, or construct it with augmentation=False"
            )
        outputs: Tensor = estimator._model(inputs)[-1] if hugging_face else predict(inputs)
        return outputs

    return preprocessed


def _is_identity(operation: Any) -> bool:
    """Whether an operation subtracts zero and divides by one, as ART's default (0, 1) does."""
    mean, std = getattr(operation, "mean", None), getattr(operation, "std", None)
    if mean is None or std is None:
        return False
    return bool(np.all(np.asarray(mean) == 0.0) and np.all(np.asarray(std) == 1.0))


def _as_classifier(
    estimator: Any, forward: Callable[[Tensor], Tensor] | None, classes: int
) -> tuple[Callable[[Tensor], Tensor] | None, Task]:
    """A classifier's forward function and task, with logits over classes where possible."""
    loss, per_example = estimator.loss, criterion(estimator.loss)
    if type(loss) is nn.BCEWithLogitsLoss and classes == 2 and loss.weight is None:
        return two_logits(forward or estimator.model), Classification(
            Criterion(binary_loss(loss)), classes
        )
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return forward, Multilabel(per_example)
    if isinstance(loss, nn.BCELoss):  # on probabilities, so there are no logits
        return forward, Regression(per_example)
    per_example = replace(per_example, over_classes=True)
    if not estimator._reduce_labels:  # ART gives any other loss one-hot rows
        per_example = replace(per_example, function=_on_rows(per_example.function, classes))
    return forward, Classification(per_example, classes)


def two_logits(one_logit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One logit z as two logits (0, z): softmax gives sigmoid(z), and the losses are equal."""

    def forward(x: Tensor) -> Tensor:
        z = one_logit(x)
        if z.numel() != len(x):
            raise UnsupportedEstimatorError(
                f"BCEWithLogitsLoss with nb_classes=2 wants one output per input, got "
                f"{tuple(z.shape)}. Two exclusive classes: use CrossEntropyLoss. Two independent "
                "labels: train in plain torch with artplus.fit(..., loss=BCEWithLogitsLoss())."
            )
        return nn.functional.pad(z.view(len(x), 1), (1, 0))

    return forward


def binary_loss(loss: nn.BCEWithLogitsLoss) -> LossFunction:
    """Binary cross-entropy of two logits (0, z), with ``pos_weight``."""
    positive = loss.pos_weight

    def function(logits: Tensor, y: Tensor) -> Tensor:
        weight = None
        if positive is not None:
            weight = nn.functional.pad(positive.detach().view(1), (1, 0), value=1.0).to(logits)
        return nn.functional.cross_entropy(logits, y, weight=weight, reduction="none")

    return function


def _on_rows(function: LossFunction, classes: int) -> LossFunction:
    def on_rows(predictions: Tensor, y: Tensor) -> Tensor:
        if y.ndim == 1:
            y = nn.functional.one_hot(y, classes).to(predictions.dtype)
        return function(predictions, y)

    return on_rows


def _space(estimator: Any) -> InputSpace | EmbeddingSpace:
    """The box of ``clip_values``; without them it is unbounded. Of text its embeddings."""
    if isinstance(estimator, TextClassifier):
        return estimator.embedded.space
    if estimator.clip_values is None:
        return InputSpace()
    low, high = (_bound(v) for v in estimator.clip_values)
    return InputSpace(low, high)


def _bound(value: Any) -> float | Tensor:
    array = np.asarray(value, dtype=np.float32)
    return float(array) if array.ndim == 0 else torch.from_numpy(array)


def _float32(x: Any, name: str) -> Inputs:
    """Arrays, lists and tensors as float32, with a warning if the dtype changes."""
    mapped = is_mapped(x)
    tensor: Inputs = as_numbers(x[:0] if mapped else x, name)
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise DataError(f"{name} must be real numbers, got {tensor.dtype}")
    if mapped:
        tensor = Rows(x)
    if tensor.dtype != torch.float32:
        warnings.warn(
            f"{name} was converted from {tensor.dtype} to float32, as the model's weights are",
            ConversionWarning,
            stacklevel=5,
        )
        tensor = tensor.to(torch.float32)
    return tensor


def as_numbers(values: Any, name: str) -> Tensor:
    """Anything numeric as a detached tensor of the same values and kind."""
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
    except ValueError as error:  # numpy raises it for ragged lists
        raise DataError(f"{name} must be a rectangular array of numbers: {error}") from None
    if array.dtype.kind not in "fiubc":
        raise DataError(
            f"{name} must be a numeric array, got dtype {array.dtype}. Ragged lists and text "
            "have to be padded or encoded first."
        )
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        array = array.astype(np.float64)  # the longest float of torch
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _class_numbers(y: Tensor, classes: int) -> Tensor:
    """Class numbers, from one-hot rows, single columns and whole floats; soft rows unchanged."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y.squeeze(1)
    if y.ndim == 2 and y.dtype == torch.bool:
        y = y.long()
    hard = y.ndim == 2 and y.shape[1] == classes and bool(((y == 0) | (y == 1)).all())
    if hard and bool((y.sum(1) == 1).all()):
        return y.argmax(1)
    if y.ndim == 1 and y.is_floating_point() and bool((y == y.round()).all()):
        return y.long()
    if y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool:
        return y.long()
    return y.float() if y.ndim == 2 else y


def _multi_hot(y: Tensor, n: int, classes: int, name: str) -> Tensor:
    """Labels of a binary loss: 0 or 1 per output; two classes may have a single output."""
    single = classes == 2 and y.shape in ((n,), (n, 1))
    if not (single or y.shape == (n, classes)) or not bool(((y == 0) | (y == 1)).all()):
        raise DataError(
            f"{name} must be zeros and ones of shape ({n}, {classes}) for a loss per output, got "
            f"shape {tuple(y.shape)}"
        )
    return y.float()


def _targets(y: Tensor, n: int, name: str) -> Tensor:
    """Regression targets ``(n,)``; ART would silently broadcast ``(n, 1)`` against ``(n,)``."""
    if y.shape != (n,):
        raise DataError(
            f"{name} must have shape ({n},) for PyTorchRegressor, got {tuple(y.shape)}. ART "
            "compares flat predictions with it, and a column would broadcast to n x n: pass "
            "y.reshape(-1)."
        )
    if y.is_complex() or y.dtype == torch.bool or not bool(torch.isfinite(y).all()):
        raise DataError(f"{name} must be finite real numbers")
    return y.float()
