"""Model, data and attacks checked against each other, before anything costs time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artplus import _checks, modes
from artplus.attacks._base import Attack
from artplus.bounds import check_range
from artplus.errors import ConfigurationError, ConversionWarning, DataError
from artplus.evaluation import wording
from artplus.evaluation.data import EvaluationData
from artplus.mapped import Inputs, Rows, as_inputs, as_tensor
from artplus.model import HALF, LossModel, dtype_of, in_float32
from artplus.spaces import InputSpace, Space
from artplus.tasks import Regression
from artplus.tree import Tree, copied, describe, map_tensors, size

Values = Tensor | NDArray[Any]


def make_data(
    model: LossModel,
    x: Values | Rows | Tree,
    y: Values | Tree,
    space: Space,
    batch_size: int,
    device: torch.device,
) -> EvaluationData:
    """Model and data, checked against each other.

    Raises:
        DataError: for inputs or labels that cannot be meant.
        ConfigurationError: for a mask that does not fit.
        UnsupportedEstimatorError: for a model whose output is not its task's.
    """
    model, x, y = in_float32(model), _inputs(x, model.module, space), _targets(y)
    if isinstance(space, InputSpace):
        _range(space, x)
    if size(y) != size(x):
        raise DataError(f"y must have one label per input: {size(x)} inputs, y {describe(y)}")
    outputs = _probe(model, copied(x, slice(0, 1), device))
    task = model.task
    if task.over_classes:
        if outputs.ndim != 2:
            raise DataError(
                f"a classifier must predict (batch, classes), got {tuple(outputs.shape)} for one "
                "example. Give the model the loss it was trained on if it is no classifier."
            )
        _checks.several_logits(outputs)
        _checks.class_labels(y, n=size(x), classes=outputs.shape[1])
        y = y.long() if y.ndim == 1 else y.to(outputs.dtype)
        model = model.with_task(replace(task, classes=int(outputs.shape[1])))
        return EvaluationData(model, x, y, space, batch_size, device, int(outputs.shape[1]))
    if isinstance(task, Regression):
        y = _numbers(y, outputs)
    model = model.with_task(task.bind(outputs, copied(y, slice(0, 1), device)))
    model.task.check_targets(y)
    return EvaluationData(model, x, y, space, batch_size, device, None)


def _inputs(x: Any, module: nn.Module, space: Space) -> Tree:
    """Inputs as tensors; those of floats in the module's own precision, and at least float32."""
    if isinstance(x, (Mapping, tuple, list)):
        return map_tensors(lambda leaf: _floats(leaf, module), x)
    inputs = as_inputs(x)
    if isinstance(space, InputSpace) and not inputs.dtype.is_floating_point:
        raise DataError(
            f"x must be floats in the range of the model's inputs, got {inputs.dtype}; "
            "x.float() / 255 makes images of bytes. Token ids are perturbed behind the "
            "embedding: space=EmbeddingSpace()."
        )
    return _floats(inputs, module)


def _floats(x: Inputs, module: nn.Module) -> Inputs:
    x = x.detach() if isinstance(x, Tensor) else x
    if not x.dtype.is_floating_point:
        return x
    weights = dtype_of(module)
    dtype = torch.float32 if weights in HALF else weights
    if x.dtype not in (dtype, weights):
        warnings.warn(
            f"x is {x.dtype}, the model {weights}: x was converted", ConversionWarning, stacklevel=5
        )
    return x if x.dtype == dtype else x.to(dtype)


def _targets(y: Any) -> Tree:
    if isinstance(y, (Mapping, tuple, list)):
        return map_tensors(Tensor.detach, y)
    targets = as_tensor(y).detach()
    if targets.ndim == 0:
        raise DataError("y must have one label per input, got a single number")
    return targets


def _range(space: InputSpace, x: Tree) -> None:
    """Finite inputs in the range, in its own units, and a mask that fits them."""
    column = space.floats(x)
    check_range(x, space)
    if not isinstance(column, list):
        _mask(space, column)


def _mask(space: InputSpace, x: Inputs) -> None:
    if space.mask is None:
        return
    per_example = space.mask.ndim == x.ndim and len(space.mask) > 1
    try:
        space.mask.expand(x.shape if per_example else (1, *x.shape[1:]))
    except RuntimeError:
        raise ConfigurationError(
            f"mask of shape {tuple(space.mask.shape)} does not broadcast over inputs "
            f"{tuple(x.shape)}"
        ) from None


def _probe(model: LossModel, x: Tree) -> Tree:
    """Predictions for one example."""
    try:
        with modes.attack_mode(model.module), torch.no_grad():
            outputs = model.outputs(x)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"the model cannot take an input of shape {describe(x)}: {error}"
        ) from error
    if model.task.over_classes and not isinstance(outputs, Tensor) and not _has_logits(outputs):
        raise DataError(
            f"the model must return one tensor of predictions, got {type(outputs).__name__}; wrap "
            "it in a module whose forward returns the logits alone"
        )
    return model.task.predictions(outputs, x, model.module)


def _has_logits(outputs: Any) -> bool:
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    return isinstance(getattr(outputs, "logits", logits), Tensor)


def _numbers(y: Tree, outputs: Tree) -> Tree:
    """Regression targets, shaped as the outputs so that errors are taken element by element."""
    if not isinstance(y, Tensor) or not isinstance(outputs, Tensor) or not y.is_floating_point():
        return y
    if y[0].numel() != outputs[0].numel():
        return y  # the loss knows what to do with it, or says so
    return y.to(outputs.dtype).reshape(len(y), *outputs.shape[1:])


def check_attacks(attacks: Mapping[str, Attack]) -> None:
    """Refuse what is no mapping of names to attacks with a radius.

    Raises:
        ConfigurationError: for the first that cannot be run.
    """
    if not isinstance(attacks, Mapping) or not attacks:
        raise ConfigurationError("attacks must be a mapping name -> attack with at least one entry")
    for name, attack in attacks.items():
        if not isinstance(name, str) or name in {"", wording.CLEAN, wording.WORST}:
            raise ConfigurationError(f"an attack cannot be called {name!r}; choose another name")
        if not isinstance(attack, Attack):
            raise ConfigurationError(
                f"attack {name!r} must be an artplus attack such as PGD(eps=0.1), got "
                f"{type(attack).__name__}. ART's attacks go to artplus.evaluate."
            )
        if isinstance(attack.eps, float) and attack.eps == torch.inf:
            raise ConfigurationError(
                f"attack {name!r} has no radius, so anything would count as fooled; judge it by "
                "one: MinimumNorm(attack, eps=..., norm=...), or evaluate(..., eps=...)"
            )


def check_names(class_names: Sequence[str] | None, data: EvaluationData) -> None:
    """Refuse class names that are not one for each class.

    Raises:
        ConfigurationError: with both numbers, or the first that is no name.
    """
    if class_names is None:
        return
    for name in _checks.several("class_names", class_names, "one name for each class"):
        if not isinstance(name, str):
            raise ConfigurationError(f"class_names must be strings, got {name!r}")
    if data.classes is not None and len(class_names) != data.classes:
        raise ConfigurationError(
            f"class_names must hold {data.classes} names, got {len(class_names)}"
        )
