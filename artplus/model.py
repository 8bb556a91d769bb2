"""A module with its task and loss: all that objectives and attacks ever see of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from artplus import modes
from artplus.errors import ConfigurationError
from artplus.keras_modules import as_torch
from artplus.spaces import Perturbed, run
from artplus.tasks import Classification, Task, make_task
from artplus.tasks._infer import task_of
from artplus.tree import Tree, map_tensors
from artplus.tree import device_of as tree_device

HALF = (torch.bfloat16, torch.float16)
"""Number types of half precision."""


@dataclass(frozen=True)
class LossModel:
    r"""A differentiable map from inputs to predictions, with the task it is trained on.

    Attributes:
        module: Holds the parameters, buffers and train/eval flags.
        task: What predictions and targets mean, and the loss :math:`l(f(x), y)`, per example.
        forward: Inputs to the module's outputs; ``None`` is ``module`` itself. The bridge to ART
            puts differentiable preprocessing here.

    Example:
        >>> import torch
        >>> model = LossModel(torch.nn.Linear(4, 3))
        >>> x, y = torch.zeros(2, 4), torch.tensor([0, 2])
        >>> model.loss(model(x), y).shape
        torch.Size([2])
    """

    module: nn.Module
    task: Task = Classification()
    forward: Callable[[Any], Any] | None = None

    def __call__(self, x: Tree) -> Tree:
        """Predictions for ``x``; logits ``(batch, classes)`` in classification."""
        return self.task.predictions(self.outputs(x), x, self.module)

    def outputs(self, x: Tree) -> Any:
        """What the module returns for ``x``."""
        calling = self.task.calling(self.module)
        if calling is None:
            return run(self.module, x) if self.forward is None else self.forward(x)
        with calling:
            return run(self.module, x) if self.forward is None else self.forward(x)

    @property
    def classes(self) -> int | None:
        """Number of classes, where there are some and they are known."""
        return self.task.classes

    def with_task(self, task: Task) -> LossModel:
        """The same model for another task."""
        return replace(self, task=task)

    def loss(self, predictions: Tree, y: Tree) -> Tensor:
        """The loss of each example, ``(batch,)``."""
        return self.task.loss(predictions, y)

    def pair(self, x: Tree, x_adv: Tree) -> tuple[Tree, Tree]:
        """Predictions for ``x`` and for ``x_adv``, as two views of one network.

        Both passes draw the same dropout masks, so their difference is the perturbation's alone.
        Running batch statistics and the random stream move with ``x`` only: with the second term
        weighted by zero, training is plain training to the last bit; ``x_adv`` is then ``x`` itself
        and costs nothing.
        """
        if x_adv is x:
            clean = self(x)
            return clean, clean
        if not any(child.training for child in self.module.modules()):
            return self(x), self(x_adv)
        stream = modes.RandomState(tree_device(x), self.module)
        before = stream.get()
        clean = self(x)
        after = stream.get()
        stream.set(before)
        with modes.frozen_batchnorm_stats(self.module):
            adversarial = self(x_adv)
        stream.set(after)
        return clean, adversarial


def as_loss_model(
    model: nn.Module | LossModel, criterion: Any = None, task: str | Task = "auto"
) -> LossModel:
    """Return ``model`` as a :class:`LossModel`; a Keras model follows its mode as torch's do.

    Args:
        model: A module, or a :class:`LossModel` as it is.
        criterion: The model's own loss; ``None`` is the task's usual one.
        task: A registered name or a task; ``"auto"`` tells it from the model's class and its loss,
            and is a classification otherwise.

    Raises:
        ConfigurationError: if ``model`` is no module, or is a :class:`LossModel` and a criterion or
            task is given too.
    """
    if isinstance(model, LossModel):
        if criterion is not None or not (isinstance(task, str) and task == "auto"):
            raise ConfigurationError(
                "this model already has a task and a loss; leave out criterion= and task="
            )
        return model
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. For an ART estimator "
            "use AdversarialTrainerPlus(estimator)."
        )
    model = as_torch(model)
    if isinstance(criterion, Task):
        raise ConfigurationError("give a task as task=, and the model's own loss as criterion=")
    if isinstance(task, str) and task == "auto":
        return LossModel(model, task_of(model, criterion))
    return LossModel(model, make_task(task, criterion))


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lives; the CPU if it has none."""
    tensor: Tensor | None = next(module.parameters(), None)
    if tensor is None:
        tensor = next(module.buffers(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Dtype of the module's weights; float32 if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def in_float32(model: LossModel) -> LossModel:
    """The model as one of float32 inputs and predictions, where its weights are in half precision.

    Inputs are rounded as they enter and predictions converted as they leave; what the module
    computes stays the same. An attack then works in float32. In bfloat16 the distance of
    neighbouring numbers below one is 1/256, so that a point on the surface of a ball of radius
    8/255 would be rounded to one outside.

    Example:
        >>> model = in_float32(LossModel(nn.Linear(4, 3).bfloat16()))
        >>> model(torch.zeros(2, 4)).dtype
        torch.float32
    """
    dtype = dtype_of(model.module)
    if dtype not in HALF or isinstance(model.forward, _Rounding):
        return model
    return replace(model, forward=_Rounding(model, dtype))


@dataclass(frozen=True)
class _Rounding:
    """A model's forward pass in half precision, on inputs and with outputs in float32."""

    model: LossModel
    dtype: torch.dtype

    def __call__(self, x: Tree) -> Any:
        if isinstance(x, Perturbed):  # what is added inside is float32 and is rounded there
            x = replace(x, inputs=map_tensors(self._rounded, x.inputs))
        else:
            x = map_tensors(self._rounded, x)
        return map_tensors(_single, self.model.outputs(x))

    def _rounded(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value


def _single(value: Tensor) -> Tensor:
    return value.float() if value.dtype in HALF else value
