"""Builds the right ART estimator from a torch model and a few samples."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.hugging_face import HuggingFaceClassifierPyTorch
from art.estimators.regression.pytorch import PyTorchRegressor
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import _checks, modes
from artplus.bounds import parse_bounds
from artplus.bridge.estimator import as_numbers, view
from artplus.bridge.text import TextClassifier, is_text
from artplus.errors import ConfigurationError, DataError, UnsupportedEstimatorError
from artplus.functional import are_probabilities
from artplus.keras_modules import as_torch
from artplus.mapped import Inputs, Rows, is_mapped
from artplus.model import device_of
from artplus.spaces import InputSpace
from artplus.spaces.embedding import IDS
from artplus.training.probe import check_optimizer
from artplus.tree import size

logger = logging.getLogger(__name__)

HEAD = 64
"""Largest number of examples that the model is run on."""


def wrap(
    model: nn.Module,
    x: Any,
    y: Any = None,
    *,
    optimizer: Optimizer | None = None,
    criterion: Callable[..., Tensor] | None = None,
    clip_values: tuple[Any, Any] | None = None,
    preprocessing: tuple[Any, Any] | None = None,
    verbose: bool = True,
) -> Any:
    """Build the ART estimator that fits a torch model, and report what was inferred.

    Whole-number labels or one-hot rows give a classifier, float targets a regressor, and a
    ``transformers`` model gives a ``HuggingFaceClassifierPyTorch``. Token ids (a mapping, or whole
    numbers for a model with an embedding) give a :class:`~artplus.bridge.text.TextClassifier`.
    Input shape, number of classes
    and device are read from the model and the samples.

    Args:
        model: Maps ``(batch, *input)`` floats to logits or, for a regression, to one value each.
            Stays on the device it is on.
        x: A few typical raw inputs, in the range of ``clip_values`` and before normalisation. The
            model is run on the first 64. A memory map is checked in parts, never read whole.
        y: Their labels or targets. Without them a model with one output is a regression, with
            several outputs a classifier.
        optimizer: Optimizer of the model's parameters; required for training only.
        criterion: The model's own loss. Default: cross-entropy; binary cross-entropy on logits if
            the model has one output and two classes; squared error for a regression.
        clip_values: Least and greatest valid input. ``None`` is unbounded, which the report line
            says; bounds are never guessed from the samples.
        preprocessing: ``(mean, std)`` to normalise by, numbers or one per channel.
        verbose: Write a line about what was inferred to standard error (it is always logged at
            INFO).

    Returns:
        A ``PyTorchClassifier``, ``HuggingFaceClassifierPyTorch``, ``TextClassifier`` or
        ``PyTorchRegressor``.

    Raises:
        UnsupportedEstimatorError: for a model that ART would fail on or change: a ``Sequential``
            subclass that overrides ``forward``, or outputs that are no tensor or are probabilities.
        DataError: for samples that do not fit the model, ``clip_values`` or each other.
        ConfigurationError: for an optimizer without this model's parameters.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3)
        >>> x, y = torch.rand(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
        >>> classifier = wrap(model, x, y, clip_values=(0.0, 1.0), verbose=False)
        >>> classifier.nb_classes, classifier.input_shape
        (3, (4,))
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedEstimatorError(f"wrap takes a torch.nn.Module, got {type(model).__name__}")
    model = as_torch(model)
    if optimizer is not None:
        check_optimizer(model, optimizer)
    if is_text(model, x):
        return _text(model, x, y, optimizer, criterion, clip_values or preprocessing, verbose)
    _checks.flag("verbose", verbose)
    if criterion is not None and not callable(criterion):
        raise ConfigurationError(
            f"criterion must be a loss such as nn.CrossEntropyLoss(), got {criterion!r}"
        )
    parse_bounds(clip_values, "clip_values")
    samples = _samples(x)
    targets = None if y is None else as_numbers(y, "y")
    head = samples[:HEAD].clone()  # a module may work in place
    outputs = _outputs(model, head, preprocessing)
    task = _task(outputs, targets, criterion)
    common = {
        "model": model,
        "optimizer": optimizer,
        "input_shape": tuple(samples.shape[1:]),
        "clip_values": clip_values,
        "preprocessing": _columns(preprocessing, samples),
        "device_type": "gpu" if device_of(model).type == "cuda" else "cpu",
    }
    with modes.attack_mode(model):  # ART's constructors may run the model or switch its mode
        if task == "regression":
            estimator = PyTorchRegressor(loss=criterion or nn.MSELoss(), **common)
            description = "a regression"
        else:
            binary = outputs.shape[1] == 1
            classes = 2 if binary else outputs.shape[1]
            default = nn.BCEWithLogitsLoss() if binary else nn.CrossEntropyLoss()
            estimator_type = (
                HuggingFaceClassifierPyTorch if _hugging_face(model) else PyTorchClassifier
            )
            estimator = estimator_type(loss=criterion or default, nb_classes=classes, **common)
            description = f"a classifier of {classes} classes"
    estimator_view = view(estimator)
    space = estimator_view.space
    assert isinstance(space, InputSpace)  # only of text it is another
    low, high = space.low, space.high
    _checks.inputs(samples, shape=estimator_view.input_shape, low=low, high=high)
    if targets is not None:
        estimator_view.labels(targets, len(samples))
    _say(estimator, description, clip_values, verbose)
    return estimator


def _text(
    model: nn.Module,
    x: Any,
    y: Any,
    optimizer: Optimizer | None,
    criterion: Callable[..., Tensor] | None,
    of_floats: Any,
    verbose: bool,
) -> TextClassifier:
    """A text classifier whose arrays are as long as the samples."""
    if of_floats is not None:
        raise ConfigurationError(
            "clip_values and preprocessing are for floats, and these samples are token ids"
        )
    ids = next(x[name] for name in IDS if name in x) if isinstance(x, Mapping) else x
    tokens = int(torch.as_tensor(ids).shape[1])
    estimator = TextClassifier(model, tokens=tokens, optimizer=optimizer, loss=criterion)
    inputs = view(estimator).inputs(x)
    if y is not None:
        view(estimator).labels(as_numbers(y, "y"), size(inputs))
    _say(estimator, f"a classifier of texts in {estimator.nb_classes} classes", None, verbose)
    return estimator


def _samples(x: Any) -> Inputs:
    tensor = Rows(x) if is_mapped(x) else as_numbers(x, "x")
    if tensor.ndim < 2 or len(tensor) == 0:
        raise DataError(
            f"x must be a batch of inputs (batch, *input), got shape {tuple(tensor.shape)}; "
            "one input alone is x[None]"
        )
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise DataError(f"x must be real numbers, got {tensor.dtype}")
    return tensor.to(torch.float32)


def _outputs(model: nn.Module, x: Tensor, preprocessing: tuple[Any, Any] | None) -> Tensor:
    """The model's outputs for the samples, computed as ART does."""
    with modes.attack_mode(model), torch.no_grad():
        mean, std = _columns(preprocessing, x)
        normalised = (
            ((x - torch.as_tensor(mean)) / torch.as_tensor(std)).float().to(device_of(model))
        )
        try:
            outputs = model(normalised)
        except Exception as error:  # a user's forward may raise anything; it is kept as the cause
            raise DataError(
                f"the model failed on inputs of shape {tuple(x.shape)}: {error}"
            ) from error
    outputs = getattr(outputs, "logits", outputs) if _hugging_face(model) else outputs
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != len(x):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UnsupportedEstimatorError(
            f"the model must return a tensor with one row per input ({len(x)}), got {got}. Wrap "
            "it in a module whose forward returns the logits."
        )
    return outputs.cpu()


def _task(outputs: Tensor, y: Tensor | None, criterion: Any) -> str:
    """``"classification"`` or ``"regression"``, by the criterion, else by the labels."""
    one_output = outputs.ndim == 1 or outputs.shape[1] == 1
    if isinstance(criterion, (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)):
        return "regression"
    whole_numbers = y is None or not y.is_floating_point() or bool((y == y.round()).all())
    rows = y is not None and y.ndim == 2 and y.shape[1] > 1
    if (
        one_output
        and criterion is None
        and (y is None or (y.is_floating_point() and not _binary(y)))
    ):
        return "regression"
    if outputs.ndim != 2:
        raise UnsupportedEstimatorError(
            f"a classifier must return logits (batch, classes), got {tuple(outputs.shape)}"
        )
    if not whole_numbers and not rows:
        raise DataError(
            f"float targets beside a model with {outputs.shape[1]} outputs: is it a classifier "
            "(then y must hold class numbers) or a regression (then it needs one output)?"
        )
    if not one_output and are_probabilities(outputs):
        raise UnsupportedEstimatorError(
            "the model returns probabilities (a softmax at its end), but cross-entropy and "
            "attacks expect logits: gradients vanish, and robustness is overestimated. Leave out "
            "the softmax."
        )
    return "classification"


def _binary(y: Tensor) -> bool:
    return bool(((y == 0) | (y == 1)).all())


def _columns(preprocessing: tuple[Any, Any] | None, x: Inputs) -> tuple[Any, Any]:
    """Mean and std as numbers or as arrays that broadcast over channels-first inputs."""
    if preprocessing is None:
        return 0.0, 1.0
    if not isinstance(preprocessing, (tuple, list)) or len(preprocessing) != 2:
        raise ConfigurationError(f"preprocessing must be a pair (mean, std), got {preprocessing!r}")

    def column(value: Any) -> Any:
        array = np.asarray(value, dtype=np.float32)
        if array.ndim == 1 and x.ndim > 2 and len(array) == x.shape[1]:
            return array.reshape(-1, *(1,) * (x.ndim - 2))
        return float(array) if array.ndim == 0 else array

    mean, std = (column(v) for v in preprocessing)
    if not np.isfinite(np.asarray(mean)).all():
        raise ConfigurationError(f"preprocessing mean must be finite, got {preprocessing[0]!r}")
    if not (np.isfinite(np.asarray(std)) & (np.asarray(std) > 0)).all():
        raise ConfigurationError(
            f"preprocessing std must be finite and > 0, got {preprocessing[1]!r}"
        )
    return mean, std


def _hugging_face(model: nn.Module) -> bool:
    """Whether it is a ``transformers`` model, without importing that package."""
    return any(c.__module__.startswith("transformers.") for c in type(model).__mro__)


def _say(estimator: Any, description: str, clip_values: Any, verbose: bool) -> None:
    box = "unbounded inputs (no clip_values)" if clip_values is None else f"inputs in {clip_values}"
    message = (
        f"artplus.wrap: {type(estimator).__name__}, {description}, input {estimator.input_shape}, "
        f"{box}, loss {type(estimator.loss).__name__}, on {estimator.device}"
    )
    logger.info(message)
    if verbose:
        sys.stderr.write(message + "\n")
