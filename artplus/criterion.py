"""Any torch loss, unreduced: one value per example, whatever its reduction was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.errors import ConfigurationError, DataError

LossFunction = Callable[[Any, Any], Tensor]

# Losses over classes: predictions are logits or scores, one column a class.
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
        function: ``(predictions, y) -> (batch,)`` losses, or one value for each of an example's
            elements; a scalar mean where ``per_example`` is false.
        per_example: False for a user's loss that reduces by itself and offers no ``reduction``.
        over_classes: True if predictions are logits over classes, which accuracy, margins and
            divergences need.
        soft: True if ``y`` may be rows of class probabilities.
        class_weight: The loss's own ``weight`` per class, taken out so that it can weigh whole
            examples; see :meth:`weights`.
        ignore_index: Label of examples (or elements) that the loss leaves out.
    """

    function: LossFunction
    per_example: bool = True
    over_classes: bool = True
    soft: bool = True
    class_weight: Tensor | None = None
    ignore_index: int | None = None

    def __call__(self, predictions: Any, y: Any) -> Tensor:
        """The losses, ``(batch,)``; of several elements an example's (weighted) mean."""
        losses = self.function(predictions, y)
        if losses.ndim == 0:
            # A mean seen by each example: its mean and its gradient are the user's own.
            return losses.expand(len(y))
        if losses.ndim == 1:
            return losses
        weights = _element_weights(y, self.class_weight, self.ignore_index)
        if weights is None:
            return losses.flatten(1).mean(1)
        own = weights.to(losses).flatten(1)
        return _over((own * losses.flatten(1)).sum(1), own.sum(1))

    def weights(self, y: Tensor) -> Tensor | None:
        """What each example weighs in the batch mean, ``(batch,)``; ``None`` if all weigh alike.

        ``mean(criterion(predictions, y), criterion.weights(y))`` is the original loss, its class
        weights and ignored labels included. Soft rows weigh what their classes do on average.
        """
        weights = _element_weights(y, self.class_weight, self.ignore_index)
        return weights if weights is None or weights.ndim == 1 else weights.flatten(1).mean(1)


def criterion(loss: LossFunction | None = None) -> Criterion:
    """Return ``loss`` (default: cross-entropy) as a per-example :class:`Criterion`.

    A ``torch.nn`` loss is evaluated with ``reduction="none"``; values over the other axes of one
    example (a multi-output regression, a map of labels) are averaged, so that the mean over the
    batch equals the original loss. A callable without ``reduction`` is called as it is: one value
    per example, or a scalar mean, with which everything works that needs no weights per example.

    Args:
        loss: A ``torch.nn`` loss or any callable ``(predictions, y) -> Tensor``.

    Raises:
        ConfigurationError: if ``loss`` is not callable or sums over the batch.

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
    if reduction == "sum":
        raise ConfigurationError(
            f"{type(loss).__name__}(reduction='sum') scales the step with the batch size; "
            "use reduction='mean' and raise the learning rate instead"
        )
    if isinstance(loss, nn.CrossEntropyLoss) and _is(loss, nn.CrossEntropyLoss):
        function = _cross_entropy(loss)
        return Criterion(function, class_weight=loss.weight, ignore_index=loss.ignore_index)
    if isinstance(loss, nn.NLLLoss) and _is(loss, nn.NLLLoss):
        function = _nll(loss)
        return Criterion(
            function, soft=False, class_weight=loss.weight, ignore_index=loss.ignore_index
        )
    return _unreduced(loss, reduction)


def _unreduced(loss: LossFunction, reduction: object) -> Criterion:
    """Criterion of a loss whose batch mean is a plain one."""
    over_classes = isinstance(loss, _OVER_CLASSES)
    # A subclass may compute anything with its class weights, so their normaliser is unknown.
    weighs = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and loss.weight is not None
    if reduction not in ("mean", "none", "batchmean") or not isinstance(loss, nn.Module) or weighs:
        return Criterion(loss, per_example=False, over_classes=over_classes, soft=False)
    each: Any = copy.copy(loss)  # shallow: a loss with parameters of its own keeps learning
    each.reduction = "none"
    if _is(loss, nn.MultiMarginLoss):
        return Criterion(_hard(each), soft=False)
    if _is(loss, *_BINARY):
        return Criterion(_binary(each), over_classes=False, soft=False)
    if _is(loss, *_ELEMENTWISE):
        return Criterion(_elementwise(each), over_classes=False, soft=False)
    if reduction == "batchmean":
        return Criterion(_summed(each), over_classes=False, soft=False)
    return Criterion(each, over_classes=over_classes, soft=isinstance(loss, nn.CrossEntropyLoss))


def mean(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Batch mean, or :math:`\sum_i w_i l_i / \sum_i w_i` as torch's own weighted losses."""
    if weights is None:
        return losses.mean()
    weights = weights.to(losses)
    return (losses * weights).sum() / weights.sum()


def _is(loss: object, *kinds: type[nn.Module]) -> bool:
    """Exactly torch's loss: a subclass with its own ``forward`` may compute anything."""
    return any(isinstance(loss, k) and type(loss).forward is k.forward for k in kinds)


def _element_weights(
    y: Tensor, class_weight: Tensor | None, ignore_index: int | None
) -> Tensor | None:
    """Weights shaped like class numbers ``y``, or like rows ``y`` without their class axis.

    ``None`` if all weigh alike. Negative labels exist only in maps of labels (a whole example
    cannot be padding), so plain class numbers need no comparison.
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
    kept = torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
    if class_weight is None:
        return kept.float()
    return class_weight.to(y.device)[torch.where(kept, y, 0)] * kept


def _over(values: Tensor, weights: Tensor) -> Tensor:
    """``values / weights``, zero where the weight is zero."""
    return values / torch.where(weights > 0, weights, torch.inf)


def _cross_entropy(loss: nn.CrossEntropyLoss) -> LossFunction:
    """Cross-entropy per unit of class weight: weighing examples by theirs gives torch's mean."""

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
        own = _element_weights(y, weight, loss.ignore_index)
        return losses if own is None else _over(losses, own)

    return unreduced


def _nll(loss: nn.NLLLoss) -> LossFunction:
    """Negative log-likelihood, likewise."""

    def unreduced(predictions: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(
            predictions, _numbers(predictions, y), ignore_index=loss.ignore_index, reduction="none"
        )

    return unreduced


def _numbers(predictions: Tensor, y: Tensor) -> Tensor:
    """Class numbers, of labels given as numbers or as rows."""
    return y.argmax(1) if y.ndim == predictions.ndim else y


def _hard(loss: LossFunction) -> LossFunction:
    """Index labels for losses that take no rows."""
    return lambda predictions, y: loss(predictions, _numbers(predictions, y))


def _summed(loss: LossFunction) -> LossFunction:
    """The ``batchmean`` of a divergence: a sum over an example, a mean over the batch."""
    return lambda predictions, y: loss(predictions, y).flatten(1).sum(1)


def _binary(loss: LossFunction) -> LossFunction:
    """Labels of a binary loss as floats, shaped like the predictions."""

    def unreduced(predictions: Tensor, y: Tensor) -> Tensor:
        columns = predictions.shape[1] if predictions.ndim > 1 else 1
        if y.ndim == 1 and columns > 1:
            y = F.one_hot(y.long(), columns)
        if y.ndim == 2 and y.shape[1] == 2 and columns == 1:
            y = y[:, 1]  # rows of two classes against a single output: the second one's probability
        return _aligned(loss, predictions, y)

    return unreduced


def _elementwise(loss: LossFunction) -> LossFunction:
    """A regression loss: (batch, 1) against (batch,) would broadcast silently."""
    return lambda predictions, y: _aligned(loss, predictions, y)


def _aligned(loss: LossFunction, predictions: Tensor, y: Tensor) -> Tensor:
    """The loss with targets shaped and typed like the predictions."""
    if predictions.shape != y.shape and (
        len(predictions) != len(y) or predictions.numel() != y.numel()
    ):
        raise DataError(
            f"targets have shape {tuple(y.shape)} but the model predicts "
            f"{tuple(predictions.shape)}; both need the same number of values per example"
        )
    return loss(predictions, y.to(predictions.dtype).reshape(predictions.shape))
