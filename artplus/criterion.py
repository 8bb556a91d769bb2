"""Any torch loss as one value per example, whatever its reduction is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.errors import ConfigurationError, DataError
from artplus.functional import weights_by_class

LossFunction = Callable[[Any, Any], Tensor]

# Losses over classes: predictions are logits or scores, one column per class.
_OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_BINARY = (nn.BCELoss, nn.BCEWithLogitsLoss)
_ELEMENTWISE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
)


@dataclass(frozen=True)
class Criterion:
    r"""A loss :math:`l(f(x), y)` per example.

    Attributes:
        function: ``(predictions, y)`` to losses ``(batch,)`` or one loss per element of an example;
            to a scalar mean if ``per_example`` is false.
        per_example: False for a loss that always reduces over the batch.
        over_classes: True if predictions are logits over classes, which accuracy, margins and
            divergences need.
        soft: True if ``y`` may be rows of class probabilities.
        class_weight: The ``weight`` per class of the loss, taken out so that it can weigh whole
            examples; see :meth:`weights`.
        ignore_index: Label of examples (or elements) that the loss ignores.
    """

    function: LossFunction
    per_example: bool = True
    over_classes: bool = True
    soft: bool = True
    class_weight: Tensor | None = None
    ignore_index: int | None = None

    def __call__(self, predictions: Any, y: Any) -> Tensor:
        """The losses, ``(batch,)``; losses of several elements are averaged with their weights."""
        losses = self.function(predictions, y)
        if not isinstance(losses, Tensor):
            raise ConfigurationError(f"the criterion must return a tensor, got {losses!r}")
        if losses.ndim == 0:
            # Every example gets the batch mean, so its mean and gradient equal those of the loss.
            return losses.expand(len(y))
        if losses.ndim == 1:
            return losses
        weights = _element_weights(y, self.class_weight, self.ignore_index)
        if weights is None:
            return losses.flatten(1).mean(1)
        weights = weights.to(losses).flatten(1)
        return _divide((weights * losses.flatten(1)).sum(1), weights.sum(1))

    def weights(self, y: Tensor) -> Tensor | None:
        """Weight of each example in the batch mean, ``(batch,)``; ``None`` if all are equal.

        ``mean(criterion(predictions, y), criterion.weights(y))`` is the original loss, including
        class weights and ignored labels. The weight of a soft row is the expected class weight.
        """
        weights = _element_weights(y, self.class_weight, self.ignore_index)
        return weights if weights is None or weights.ndim == 1 else weights.flatten(1).mean(1)


def criterion(loss: LossFunction | None = None) -> Criterion:
    """Return ``loss`` (default: cross-entropy) as a per-example :class:`Criterion`.

    A ``torch.nn`` loss is evaluated with ``reduction="none"``, whatever its reduction is. Values
    over the other axes of an example (a multi-output regression, a map of labels) are averaged, so
    that the mean over the batch equals the original loss. Of a loss with ``reduction="sum"``, as
    ART's own test classifiers have, it is that loss with ``"mean"`` (of ``KLDivLoss`` with
    ``"batchmean"``): a sum would scale the step with the batch size. A callable without
    ``reduction`` is called directly. It returns one value per example, or a scalar mean, which
    suffices where no weights per example are used.

    Args:
        loss: A ``torch.nn`` loss or any callable ``(predictions, y) -> Tensor``.

    Raises:
        ConfigurationError: if ``loss`` is not callable, or is a class of your own with
            ``reduction="sum"``.

    Example:
        >>> import torch
        >>> mse = criterion(torch.nn.MSELoss())
        >>> mse(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
        tensor([0., 4.])
    """
    if loss is None:
        loss = nn.CrossEntropyLoss()
    if not callable(loss):
        raise ConfigurationError(
            f"loss must be a torch.nn loss or a callable (predictions, y) -> Tensor, got {loss!r}"
        )
    reduction = getattr(loss, "reduction", None)
    if reduction == "sum" and not _is_torchs(loss):
        raise ConfigurationError(
            f"{type(loss).__name__}(reduction='sum') scales the step with the batch size; "
            "use reduction='mean' and raise the learning rate instead"
        )
    if isinstance(loss, nn.CrossEntropyLoss) and _is_exactly(loss, nn.CrossEntropyLoss):
        function = _cross_entropy(loss)
        return Criterion(function, class_weight=loss.weight, ignore_index=loss.ignore_index)
    if isinstance(loss, nn.NLLLoss) and _is_exactly(loss, nn.NLLLoss):
        function = _nll(loss)
        return Criterion(
            function, soft=False, class_weight=loss.weight, ignore_index=loss.ignore_index
        )
    return _unreduced(loss, reduction)


def _unreduced(loss: LossFunction, reduction: object) -> Criterion:
    """Criterion of a loss whose batch mean is unweighted."""
    over_classes = isinstance(loss, _OVER_CLASSES)
    # How a subclass normalises its class weights is unknown.
    weighted = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and loss.weight is not None
    if (
        reduction not in ("mean", "none", "sum", "batchmean")
        or not isinstance(loss, nn.Module)
        or weighted
    ):
        return Criterion(loss, per_example=False, over_classes=over_classes, soft=False)
    unreduced_loss: Any = copy.copy(loss)  # shallow, so that parameters of the loss are shared
    unreduced_loss.reduction = "none"
    if _is_exactly(loss, nn.MultiMarginLoss):
        return Criterion(_on_class_numbers(unreduced_loss), soft=False)
    if _is_exactly(loss, *_BINARY):
        return Criterion(_binary(unreduced_loss), over_classes=False, soft=False)
    if _is_exactly(loss, *_ELEMENTWISE):
        return Criterion(_elementwise(unreduced_loss), over_classes=False, soft=False)
    if reduction == "batchmean" or (reduction == "sum" and isinstance(loss, nn.KLDivLoss)):
        return Criterion(_summed_per_example(unreduced_loss), over_classes=False, soft=False)
    return Criterion(
        unreduced_loss, over_classes=over_classes, soft=isinstance(loss, nn.CrossEntropyLoss)
    )


def mean(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Batch mean; with weights :math:`\sum_i w_i l_i / \sum_i w_i`, as in torch's losses."""
    if weights is None:
        return losses.mean()
    weights = weights.to(losses)
    return (losses * weights).sum() / weights.sum()


def _is_torchs(loss: object) -> bool:
    """Whether ``loss`` is one of torch's, or a subclass that computes the same."""
    return isinstance(loss, nn.Module) and type(loss).forward.__module__ == nn.MSELoss.__module__


def _is_exactly(loss: object, *types: type[nn.Module]) -> bool:
    """Whether ``loss`` computes torch's loss; a subclass that overrides ``forward`` may not."""
    return any(isinstance(loss, k) and type(loss).forward is k.forward for k in types)


def _element_weights(
    y: Tensor, class_weight: Tensor | None, ignore_index: int | None
) -> Tensor | None:
    """Weights shaped like class numbers ``y``, or like rows ``y`` without their class axis.

    ``None`` if all are equal. Whole examples are never padding, so a negative ``ignore_index`` does
    not apply to ``(batch,)`` labels: there -100 marks an example without a label, which weighs one.
    """
    rows = y.is_floating_point()
    if ignore_index is not None and ignore_index < 0 and (rows or y.ndim == 1):
        ignore_index = None
    if class_weight is None and ignore_index is None:
        return None
    if rows:
        per_class = y.new_ones(y.shape[1]) if class_weight is None else class_weight.to(y).clone()
        if ignore_index is not None:
            per_class[ignore_index] = 0
        return y.movedim(1, -1) @ per_class
    valid = torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
    if class_weight is None:
        return valid.float()
    if y.ndim == 1:
        return weights_by_class(torch.where(valid, y, 0), class_weight) * valid
    return class_weight.to(y.device)[torch.where(valid, y, 0)] * valid


def _divide(values: Tensor, weights: Tensor) -> Tensor:
    """``values / weights``, zero where the weight is zero."""
    return values / torch.where(weights > 0, weights, torch.inf)


def _cross_entropy(loss: nn.CrossEntropyLoss) -> LossFunction:
    """Cross-entropy divided by the class weight; a weighted mean then gives torch's value."""

    def unreduced(predictions: Tensor, y: Tensor) -> Tensor:
        weight = loss.weight
        rows = y.ndim == predictions.ndim
        y = y.to(predictions.dtype) if rows else y
        losses = F.cross_entropy(
            predictions,
            y,
            weight=weight,
            ignore_index=-100 if rows else loss.ignore_index,
            reduction="none",
            label_smoothing=loss.label_smoothing,
        )
        if weight is None:
            return losses
        weights = _element_weights(y, weight, loss.ignore_index)
        return losses if weights is None else _divide(losses, weights)

    return unreduced


def _nll(loss: nn.NLLLoss) -> LossFunction:
    """Negative log-likelihood without class weights."""

    def unreduced(predictions: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(
            predictions, _numbers(predictions, y), ignore_index=loss.ignore_index, reduction="none"
        )

    return unreduced


def _numbers(predictions: Tensor, y: Tensor) -> Tensor:
    """Labels as class numbers, from numbers or rows."""
    return y.argmax(1) if y.ndim == predictions.ndim else y


def _on_class_numbers(loss: LossFunction) -> LossFunction:
    """The loss of class numbers, for losses that do not accept rows."""
    return lambda predictions, y: loss(predictions, _numbers(predictions, y))


def _summed_per_example(loss: LossFunction) -> LossFunction:
    """The sum over each example, whose batch mean is torch's ``batchmean``."""
    return lambda predictions, y: loss(predictions, y).flatten(1).sum(1)


def _binary(loss: LossFunction) -> LossFunction:
    """A binary loss, with labels as floats shaped like the predictions."""

    def unreduced(predictions: Tensor, y: Tensor) -> Tensor:
        columns = predictions.shape[1] if predictions.ndim > 1 else 1
        if y.ndim == 1 and columns > 1:
            y = F.one_hot(y.long(), columns)
        if y.ndim == 2 and y.shape[1] == 2 and columns == 1:
            y = y[:, 1]  # rows of two classes, one output: the probability of class 1
        return _same_shape(loss, predictions, y)

    return unreduced


def _elementwise(loss: LossFunction) -> LossFunction:
    """A regression loss without silent broadcasting of (batch, 1) against (batch,)."""
    return lambda predictions, y: _same_shape(loss, predictions, y)


def _same_shape(loss: LossFunction, predictions: Tensor, y: Tensor) -> Tensor:
    """The loss with targets of the shape and dtype of the predictions."""
    if predictions.shape != y.shape and (
        len(predictions) != len(y) or predictions.numel() != y.numel()
    ):
        raise DataError(
            f"targets have shape {tuple(y.shape)} but the model predicts "
            f"{tuple(predictions.shape)}; both need the same number of values per example"
        )
    return loss(predictions, y.to(predictions.dtype).reshape(predictions.shape))
