"""A module and its loss as one thing: all that objectives and attacks ever see of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from artplus import modes
from artplus.criterion import Criterion, criterion
from artplus.errors import ConfigurationError
from artplus.functional import class_index


@dataclass(frozen=True)
class LossModel:
    r"""A differentiable map from raw inputs to predictions, with the loss it is trained on.

    Attributes:
        module: Holds the parameters, buffers and train/eval flags.
        criterion: The loss :math:`l(f(x), y)`, per example.
        forward: Raw inputs to predictions; ``None`` is ``module`` itself. The bridge to ART puts
            differentiable preprocessing here.
        classes: Number of classes, where known.

    Example:
        >>> import torch
        >>> model = LossModel(torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 4), torch.tensor([0, 2])
        >>> model.loss(model(x), y).shape
        torch.Size([2])
    """

    module: nn.Module
    criterion: Criterion = criterion()
    forward: Callable[[Tensor], Tensor] | None = None
    classes: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Predictions for ``x``; logits ``(batch, classes)`` in classification."""
        return (self.module if self.forward is None else self.forward)(x)

    def loss(self, predictions: Tensor, y: Tensor) -> Tensor:
        """The loss of each example, ``(batch,)``."""
        return self.criterion(predictions, y)

    def pair(self, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions for ``x`` and for ``x_adv``, as two views of one network.

        Both passes draw the same dropout masks, so their difference is the perturbation's alone.
        Running batch statistics and the random stream move with ``x`` only: with the second term
        weighted by zero, training is plain training to the last bit.
        """
        if not any(child.training for child in self.module.modules()):
            return self(x), self(x_adv)
        stream = modes.RandomState(x.device)
        before = stream.get()
        clean = self(x)
        after = stream.get()
        stream.set(before)
        with modes.frozen_batchnorm_stats(self.module):
            adversarial = self(x_adv)
        stream.set(after)
        return clean, adversarial

    def wrong(self, predictions: Tensor, y: Tensor) -> Tensor:
        """Which examples are misclassified, ``(batch,)`` booleans; classification only."""
        return predictions.argmax(1) != class_index(y)


def as_loss_model(
    model: nn.Module | LossModel, loss: Callable[..., Tensor] | None = None
) -> LossModel:
    """Return ``model`` as a :class:`LossModel`, with cross-entropy unless ``loss`` is given.

    Raises:
        ConfigurationError: if ``model`` is no module, or is a :class:`LossModel` and ``loss`` is
            given too.
    """
    if isinstance(model, LossModel):
        if loss is not None:
            raise ConfigurationError("this model already has a loss; leave out loss=")
        return model
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. For an ART estimator "
            "use AdversarialTrainerPlus(estimator)."
        )
    return LossModel(model, criterion(loss))


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lives; the CPU if it has none."""
    tensor: Tensor | None = next(module.parameters(), None)
    if tensor is None:
        tensor = next(module.buffers(), None)
    return torch.device("cpu") if tensor is None else tensor.device
