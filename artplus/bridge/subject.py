"""What is judged: an ART estimator, a torch module or a classifier that only predicts, as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from art.attacks import EvasionAttack
from art.estimators import BaseEstimator
from torch import Tensor, nn

from artplus import _checks, modes
from artplus.bridge import predict_only
from artplus.bridge.attacks import as_attack
from artplus.bridge.estimator import as_numbers, binary_loss, two_logits, view
from artplus.criterion import Criterion
from artplus.errors import ConfigurationError, DataError
from artplus.mapped import Inputs, as_inputs, as_tensor, is_mapped
from artplus.model import LossModel, as_loss_model, device_of
from artplus.spaces import InputSpace


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        model: Inputs to predictions, with the loss.
        x: ``(n, *input)``.
        y: ``(n, ...)``.
        space: Range of valid inputs.
        name: For display.
        translated: An ART attack on this as an attack of artplus; ``None`` refuses ART attacks.
        gradients: False if only predictions can be had.
        estimator: What ART's attacks by name are built on; ``None`` refuses them.
    """

    model: LossModel
    x: Inputs
    y: Tensor
    space: InputSpace
    name: str
    translated: Callable[[EvasionAttack], Any] | None
    gradients: bool = True
    estimator: Any = None

    @property
    def classes(self) -> int | None:
        """Number of classes; ``None`` where the loss is not over classes."""
        return self.model.classes if self.model.criterion.over_classes else None


def subject_of(
    estimator: Any,
    x: Any,
    y: Any,
    loss: Callable[..., Tensor] | None,
    clip_values: tuple[Any, Any] | None,
) -> Subject:
    """The estimator or module with its data, checked and converted where that is needed."""
    if isinstance(estimator, nn.parallel.DistributedDataParallel):
        # Its forward is collective, and the processes' numbers of batches may differ.
        estimator = estimator.module
    if isinstance(estimator, (nn.Module, LossModel)):
        return _module(as_loss_model(estimator, loss), x, y, clip_values, loss)
    for option, value in (("loss", loss), ("clip_values", clip_values)):
        if value is not None:
            raise ConfigurationError(
                f"{option}= is for a torch.nn.Module; this {type(estimator).__name__} has its own"
            )
    if isinstance(estimator, BaseEstimator) and not isinstance(
        getattr(estimator, "model", None), nn.Module
    ):
        inputs = predict_only.inputs(estimator, x)
        predict_only.check_columns(estimator, inputs)
        return Subject(
            predict_only.answers(estimator),
            inputs,
            predict_only.labels(y),
            predict_only.box(estimator),
            type(estimator).__name__,
            lambda attack: predict_only.OwnAttack(attack, estimator=estimator),
            gradients=False,
            estimator=estimator,
        )
    seen = view(estimator)
    inputs, labels = seen.prepare(x, y)
    return Subject(
        seen.model,
        inputs,
        labels,
        seen.space,
        type(seen.model.module).__name__,
        lambda attack: as_attack(attack, estimator),
        estimator=estimator,
    )


def _module(
    model: LossModel,
    x: Any,
    y: Any,
    clip_values: tuple[Any, Any] | None,
    loss: Callable[..., Tensor] | None,
) -> Subject:
    inputs = as_inputs(x if isinstance(x, Tensor) or is_mapped(x) else as_numbers(x, "x"))
    labels = as_tensor(y if isinstance(y, Tensor) or is_mapped(y) else as_numbers(y, "y"))
    space = InputSpace()
    if clip_values is not None:
        low, high = (torch.as_tensor(value, dtype=torch.float32) for value in clip_values)
        if not bool((low < high).all()):
            raise ConfigurationError(f"clip_values must be (low, high), got {clip_values!r}")
        # As float32 has them, since the inputs do; one number stays one, and needs no device.
        least, greatest = (float(v) if v.numel() == 1 else v for v in (low, high))
        space = InputSpace(least, greatest)
    name = type(model.module).__name__
    if type(loss) is nn.BCEWithLogitsLoss and _says_one_of_two(model, inputs, labels, loss):
        labels = labels.reshape(len(labels)).long()
        model = LossModel(model.module, Criterion(binary_loss(loss)), two_logits(model.module), 2)
    elif model.classes is None and model.criterion.over_classes:
        first = _prediction(model, inputs)
        if first is not None:
            _checks.several_logits(first)
        found = None if first is None or first.ndim != 2 else first.shape[1]
        model = replace(model, classes=found)
    return Subject(model, inputs, labels, space, name, None)


def _says_one_of_two(model: LossModel, x: Inputs, y: Tensor, loss: nn.BCEWithLogitsLoss) -> bool:
    """Whether one output an input meets one label of 0 or 1, so that there are two classes."""
    first = _prediction(model, x)
    binary = loss.weight is None and y.ndim > 0 and y.numel() == len(y)
    return binary and first is not None and first.numel() == 1 and bool(((y == 0) | (y == 1)).all())


def _prediction(model: LossModel, x: Inputs) -> Tensor | None:
    """For the first input; ``None`` if the judge will have to say what is wrong with them."""
    parameter = next(model.module.parameters(), None)
    if x.ndim < 2 or len(x) == 0:
        return None
    with modes.attack_mode(model.module), torch.no_grad():
        try:
            dtype = torch.float32 if parameter is None else parameter.dtype
            found = model(x[:1].to(device_of(model.module), dtype))
        except RuntimeError as error:
            raise DataError(
                f"the model cannot take inputs of shape {tuple(x.shape)}: {error}"
            ) from error
    return found if isinstance(found, Tensor) else None
