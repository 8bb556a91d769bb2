"""What predictions and targets mean: the loss, what counts as right, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import ConfigurationError, UnsupportedEstimatorError
from artplus.registry import Registry
from artplus.tree import Tree

Gap = Literal["kl", "probabilities", "logits"]
"""Which divergence: of distributions, squared of probabilities, squared of logits."""

T = TypeVar("T", bound=type["Task"])


@dataclass(frozen=True)
class Metric:
    """A figure over many examples, from a few numbers of each.

    Attributes:
        statistics: ``(predictions, targets) -> (batch, k)``: what an example contributes.
        compute: ``(n, k) -> float``: the figure of n examples.
        larger_is_better: Which way is up.
    """

    statistics: Callable[[Any, Any], Tensor]
    compute: Callable[[Tensor], float]
    larger_is_better: bool = True


def ratio(rows: Tensor) -> float:
    """The sum of the first column over that of the second: a metric's usual ``compute``."""
    total = rows.double().sum(0)
    return float(total[0] / total[1].clamp_min(1e-12))


@dataclass(frozen=True)
class Task:
    """The only place that looks inside predictions and targets, beside the spaces.

    A task of your own is a subclass with at least :meth:`loss`; registered, its name works as
    ``task=`` everywhere. What has no meaning for it stays as it is here.

    Attributes:
        criterion: The model's own loss.
        classes: Number of classes, where there are some and they are known.
    """

    name: ClassVar[str] = ""
    over_classes: ClassVar[bool] = False
    """True if predictions are logits ``(batch, classes)`` and each example has one label: what
    attacks on class margins and objectives that look a label up need."""
    shown: ClassVar[bool] = False
    """True if a report can show an example with its :meth:`answers`: a class, a few numbers."""
    in_model: ClassVar[bool] = False
    """True if the model computes the loss itself and is given the targets as an input."""

    criterion: Criterion = as_criterion()
    classes: int | None = None

    @property
    def per_example(self) -> bool:
        """Whether :meth:`loss` gives each example's own; else all get the mean of the batch."""
        return self.criterion.per_example

    @property
    def soft(self) -> bool:
        """Whether targets may be rows of class probabilities."""
        return self.criterion.soft

    def predictions(self, outputs: Any, inputs: Tree, module: nn.Module) -> Tree:
        """What a module returned, as this task's predictions: by default its logits.

        Raises:
            UnsupportedEstimatorError: if there are none.
        """
        return logits_of(outputs)

    def calling(self, module: nn.Module) -> AbstractContextManager[Any] | None:
        """Entered around each forward pass; ``None`` if nothing need be done."""
        return None

    def loss(self, predictions: Tree, targets: Tree) -> Tensor:
        """The loss of each example, ``(batch,)``."""
        return self.criterion(predictions, targets)

    def weights(self, targets: Tree) -> Tensor | None:
        """What each example weighs in the batch's mean, ``(batch,)``; ``None`` if all alike.

        Sequences weigh by their tokens where the model's own loss is a mean over tokens.
        """
        return self.criterion.weights(targets)

    def correct(self, predictions: Tree, targets: Tree) -> Tensor | None:
        """Which examples are right, ``(batch,)`` booleans; ``None`` if none is right or wrong."""
        return None

    def margin(self, predictions: Tree, targets: Tree) -> Tensor | None:
        """How far each example is from wrong, ``(batch,)``, positive where right."""
        return None

    def divergence(
        self, reference: Tree, predictions: Tree, targets: Tree, *, of: Gap = "kl"
    ) -> Tensor:
        """How far predictions are from the reference, ``(batch,)``; gradients flow through both.

        Args:
            reference: Predictions for clean inputs.
            predictions: Predictions to be compared with them.
            targets: Say only which tokens or pixels count.
            of: KL of distributions, or squared gap of probabilities or of logits; for numbers all
                are the squared gap.

        Raises:
            ConfigurationError: if the task has no divergence.
        """
        raise ConfigurationError(
            f"task {self.name!r} has no divergence between predictions, which this loss needs; use "
            "'at' or 'mix', which need the model's own loss alone"
        )

    def bind(self, predictions: Tree, targets: Tree) -> Task:
        """The same task with what the first predictions show, such as the number of classes.

        Raises:
            UnsupportedEstimatorError: for predictions that are not this task's.
        """
        return self

    def check_targets(self, targets: Tree) -> None:
        """Refuse targets that cannot be meant.

        Raises:
            DataError: with the first reason found.
        """

    def metrics(self) -> Mapping[str, Metric]:
        """What is measured beside loss and accuracy, by name."""
        return {}

    def answers(self, predictions: Tree) -> Tensor:
        """What a report keeps of each prediction, ``(batch, ...)``: a class number, a number."""
        if isinstance(predictions, Tensor):
            return predictions
        return torch.zeros(0)

    def labels(self, targets: Tree) -> Tree:
        """Targets as a report shows them."""
        return targets


def logits_of(outputs: Any) -> Tensor:
    """The logits in what a module returned: the tensor itself, or its ``logits``.

    Raises:
        UnsupportedEstimatorError: if there are none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    logits = getattr(outputs, "logits", None) if logits is None else logits
    if isinstance(logits, Tensor):
        return logits
    raise UnsupportedEstimatorError(
        f"the model must return a tensor, or an output with logits, got {type(outputs).__name__}. "
        "Wrap it in a module whose forward returns the logits, such as output.logits."
    )


tasks: Registry[Task] = Registry("task", "artplus.tasks")


def register_task(name: str) -> Callable[[T], T]:
    """Register a subclass of :class:`Task` under ``name``.

    The class is called with ``criterion=`` (and further options of its own).

    Raises:
        ConfigurationError: if the name is taken.

    Example:
        >>> @register_task("doctest_task")
        ... class Angles(Task):
        ...     def loss(self, predictions, targets):
        ...         return 1 - (predictions - targets).cos()
        >>> make_task("doctest_task").loss(torch.tensor([0.0]), torch.tensor([torch.pi]))
        tensor([2.])
    """

    def decorate(kind: T) -> T:
        tasks.register(name)(kind)
        kind.name = name
        return kind

    return decorate


def list_tasks() -> list[str]:
    """Names of every registered task, entry points of other packages included."""
    return tasks.names()


def make_task(task: str | Task, criterion: Any = None, **options: Any) -> Task:
    """A task from its registered name (or a task, as it is) and the model's own loss.

    Args:
        task: Registered name or task.
        criterion: A torch loss or a callable ``(predictions, targets) -> Tensor``; ``None`` is the
            task's usual one.
        options: Further arguments of the named task.

    Raises:
        UnknownNameError: if no task has this name.
        ConfigurationError: for an argument that the task does not know, or a criterion beside a
            ready task.

    Example:
        >>> import torch
        >>> make_task("regression", torch.nn.L1Loss()).loss(torch.ones(2, 1), torch.zeros(2))
        tensor([1., 1.])
    """
    if isinstance(task, Task):
        if criterion is not None or options:
            raise ConfigurationError(
                "a ready task has its own criterion and options; leave out criterion="
            )
        return task
    if not isinstance(task, str):
        raise ConfigurationError(
            f"task must be one of {', '.join(list_tasks())} or a Task, got {task!r}"
        )
    if criterion is not None:
        ready = isinstance(criterion, Criterion)
        options["criterion"] = criterion if ready else as_criterion(criterion)
    return tasks.make(task, **options)
