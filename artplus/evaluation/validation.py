"""What comes in: model, data and attacks checked against each other, before anything costs time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artplus import _checks
from artplus.attacks._base import Attack
from artplus.errors import ConfigurationError, ConversionWarning, DataError
from artplus.evaluation import wording
from artplus.evaluation.data import EvaluationData, Mistakes
from artplus.mapped import Inputs, Rows, as_inputs, as_tensor
from artplus.model import LossModel
from artplus.spaces import InputSpace

Values = Tensor | NDArray[Any]


def make_data(
    model: LossModel,
    x: Values | Rows,
    y: Values,
    space: InputSpace,
    batch_size: int,
    device: torch.device,
    mistakes: Mistakes | None,
) -> EvaluationData:
    """Model and data, checked against each other.

    Raises:
        DataError: for inputs or labels that cannot be meant.
        ConfigurationError: for a mask that does not fit.
        UnsupportedEstimatorError: for a single output under a loss over classes.
    """
    x, y = _floats(as_inputs(x), model.module), as_tensor(y).detach()
    _checks.inputs(x, low=space.low, high=space.high)
    _mask(space, x)
    if y.ndim == 0 or len(y) != len(x):
        raise DataError(f"y must have one label per input: {len(x)} inputs, y {tuple(y.shape)}")
    outputs = _probe(model, x[:1].to(device))
    if not model.criterion.over_classes:
        y = _targets(y, outputs)
        return EvaluationData(model, x, y, space, batch_size, device, mistakes, None)
    if outputs.ndim != 2:
        raise DataError(
            f"a classifier must predict (batch, classes), got {tuple(outputs.shape)} for one "
            "example. Give the model the loss it was trained on if it is no classifier."
        )
    _checks.several_logits(outputs)
    classes = outputs.shape[1]
    _checks.class_labels(y, n=len(x), classes=classes)
    y = y.long() if y.ndim == 1 else y.to(x.dtype)
    return EvaluationData(model, x, y, space, batch_size, device, mistakes or model.wrong, classes)


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


def _floats(x: Inputs, module: nn.Module) -> Inputs:
    """Inputs in the module's own precision."""
    x = x.detach() if isinstance(x, Tensor) else x
    if not x.dtype.is_floating_point:
        raise DataError(
            f"x must be floats in the range of the model's inputs, got {x.dtype}; "
            "x.float() / 255 makes images of bytes"
        )
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    if x.dtype == own:
        return x
    warnings.warn(
        f"x is {x.dtype}, the model {own}: x was converted", ConversionWarning, stacklevel=4
    )
    return x.to(own)


def _probe(model: LossModel, x: Tensor) -> Tensor:
    """Predictions for one example."""
    try:
        with torch.no_grad():
            found: object = model(x)
    except RuntimeError as error:
        raise DataError(
            f"the model cannot take an input of shape {tuple(x.shape)} on {x.device}: {error}"
        ) from error
    if not isinstance(found, Tensor):
        raise DataError(
            f"the model must return one tensor of predictions, got {type(found).__name__}; wrap it "
            "in a module whose forward returns the logits alone"
        )
    return found


def _targets(y: Tensor, outputs: Tensor) -> Tensor:
    """Regression targets, shaped as the outputs so that errors are taken element by element."""
    if not y.is_floating_point():
        return y
    if not bool(torch.isfinite(y).all()):
        raise DataError("y must be finite, but it holds NaN or infinity")
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
        ConfigurationError: with both numbers.
    """
    if class_names is not None and data.classes is not None and len(class_names) != data.classes:
        raise ConfigurationError(
            f"class_names must hold {data.classes} names, got {len(class_names)}"
        )
