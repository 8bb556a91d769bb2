"""One form for all evaluated models: ART estimators, torch modules, predict-only classifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from art.attacks import EvasionAttack
from art.estimators import BaseEstimator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from artplus import _checks, modes
from artplus.bounds import UNBOUNDED, Bounds, inferred_space, make_space
from artplus.bridge import predict_only
from artplus.bridge.attacks import as_attack
from artplus.bridge.estimator import as_numbers, binary_loss, two_logits, view
from artplus.bridge.text import TextClassifier
from artplus.criterion import Criterion
from artplus.errors import ConfigurationError, DataError
from artplus.mapped import Rows, as_inputs, as_tensor, is_mapped
from artplus.model import LossModel, as_loss_model, device_of
from artplus.spaces import InputSpace, Space
from artplus.spaces.hidden import parameters
from artplus.tasks import Classification, Task, make_task
from artplus.tasks._infer import is_detection, refine
from artplus.training.columns import PADDING, collate, split, with_targets
from artplus.training.data import map_leaves
from artplus.training.tables import is_table, rows_of
from artplus.tree import Tree, clone, concat, describe, size, take, to


@dataclass(frozen=True)
class Subject:
    """The evaluated model with its data.

    Attributes:
        model: Maps inputs to predictions, with the task.
        x: Inputs of n examples.
        y: Their targets.
        space: What may be perturbed, and its range.
        name: For display.
        translated: Turns an ART attack on this model into an artplus attack; ``None`` refuses ART
            attacks.
        gradients: False if the model only predicts.
        estimator: The estimator to build ART's attacks by name on; ``None`` refuses them.
        notes: Notes for the report.
    """

    model: LossModel
    x: Tree
    y: Tree
    space: Space
    name: str
    translated: Callable[[EvasionAttack], Any] | None
    gradients: bool = True
    estimator: Any = None
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> int | None:
        """Number of classes; ``None`` unless predictions are logits with one label per example."""
        return self.model.classes if self.model.task.over_classes else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one perturbed example; empty if it differs between examples."""
        if not isinstance(self.space, InputSpace):
            return ()
        column = self.space.floats(self.x)
        return () if isinstance(column, list) else tuple(column.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of :func:`artplus.evaluate` for a module; an estimator has its own values.

    Attributes:
        criterion: The model's own loss.
        task: What predictions and targets mean.
        space: What may be perturbed.
        bounds: Least and greatest valid input.
        normalization: ``(mean, std)`` that the inputs have been normalised by.
        mask: Zero where inputs must not change.
    """

    criterion: Callable[..., Tensor] | None = None
    task: str | Task = "auto"
    space: Space | None = None
    bounds: Bounds = "auto"
    normalization: tuple[Any, Any] | None = None
    mask: Any = None

    def refuse_beside(self, estimator: Any) -> None:
        """Refuse options whose values an estimator already has."""
        unused = {
            "criterion": self.criterion,
            "task": None if self.task == "auto" else self.task,
            "space": self.space,
            "bounds": None if isinstance(self.bounds, str) else self.bounds,
            "normalization": self.normalization,
        }
        for option, value in unused.items():
            if value is not None:
                raise ConfigurationError(
                    f"{option}= is for a torch.nn.Module; this {type(estimator).__name__} has its "
                    "own (its loss, its clip_values, its preprocessing)"
                )


def subject_of(estimator: Any, data: Any, y: Any, options: Options) -> Subject:
    """The estimator or module with its data, checked and converted where that is needed."""
    if isinstance(estimator, nn.parallel.DistributedDataParallel):
        # Its forward is collective, but processes may have different numbers of batches.
        estimator = estimator.module
    if isinstance(estimator, (nn.Module, LossModel)):
        model = as_loss_model(estimator, options.criterion, options.task)
        infers = not isinstance(estimator, LossModel) and options.task == "auto"
        x, y = gathered(data, y, parameters(model.module) if model.forward is None else ())
        return _module(model, x, y, options, infers=infers)
    options.refuse_beside(estimator)
    text = isinstance(estimator, TextClassifier)
    x, y = gathered(data, y, parameters(estimator.embedded.module) if text else ())
    if isinstance(estimator, BaseEstimator) and not isinstance(
        getattr(estimator, "model", None), nn.Module
    ):
        inputs = predict_only.inputs(estimator, x)
        predict_only.check_columns(estimator, inputs)
        return _masked(
            Subject(
                predict_only.answers(estimator),
                inputs,
                predict_only.labels(y),
                predict_only.box(estimator),
                type(estimator).__name__,
                lambda attack: predict_only.OwnAttack(attack, estimator=estimator),
                gradients=False,
                estimator=estimator,
            ),
            options.mask,
        )
    estimator_view = view(estimator)
    inputs = estimator_view.shaped(x)  # judge checks their values
    labels = estimator_view.labels(y, size(inputs))
    notes = []
    if isinstance(estimator_view.space, InputSpace) and estimator_view.space.low is None:
        notes.append(
            f"The estimator has no clip_values, so {UNBOUNDED}: attacks are limited by the radius "
            "alone."
        )
    return _masked(
        Subject(
            estimator_view.model,
            inputs,
            labels,
            estimator_view.space,
            type(estimator_view.model.module).__name__,
            lambda attack: as_attack(attack, estimator),
            estimator=estimator,
            notes=notes,
        ),
        options.mask,
    )


def gathered(data: Any, y: Any, arguments: tuple[str, ...]) -> tuple[Any, Any]:
    """All inputs and targets of arrays, a mapping of columns, a ``Dataset`` or a ``DataLoader``.

    Raises:
        DataError: if targets are missing, or given twice.
    """
    loader: Any = None
    if isinstance(data, DataLoader):
        loader = data
    elif is_table(data):
        loader = DataLoader(rows_of(data, arguments), batch_size=256, collate_fn=collate)
    elif isinstance(data, Dataset):
        loader = DataLoader(data, batch_size=256, collate_fn=collate)
    if loader is not None:
        if y is not None:
            raise DataError(f"{type(data).__name__} yields its own labels; leave out y")
        batches = [split(batch, arguments) for batch in loader]
        if not batches:
            raise DataError("the data gave no batch; is it empty?")
        targets = concat([targets for _, targets in batches], padding=PADDING)
        return concat([x for x, _ in batches]), targets
    if y is not None:
        return data, y
    if isinstance(data, Mapping):
        return split(data, arguments)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return data[0], data[1]
    raise DataError(
        "y is missing: give evaluate(model, x, y), or data that holds labels: (x, y), a mapping of "
        "columns, a Dataset or a DataLoader"
    )


def _module(model: LossModel, x: Any, y: Any, options: Options, *, infers: bool) -> Subject:
    inputs = _numbers(x, "x")
    labels = _numbers(y, "y")
    name, criterion = type(model.module).__name__, options.criterion
    hidden = options.space is not None and options.space.hidden
    if not hidden and isinstance(inputs, (Tensor, Rows)) and not inputs.dtype.is_floating_point:
        raise DataError(
            f"x must be floats in the range of the model's inputs, got {inputs.dtype}; "
            "x.float() / 255 makes images of bytes. Token ids are perturbed behind the embedding: "
            "space=EmbeddingSpace()."
        )
    one_of_two = (
        isinstance(criterion, nn.BCEWithLogitsLoss)
        and options.task == "auto"
        and _is_one_of_two(model, inputs, labels, criterion)
    )
    if isinstance(criterion, nn.BCEWithLogitsLoss) and one_of_two:
        labels = labels.reshape(len(labels)).long()
        task: Task = Classification(Criterion(binary_loss(criterion)), 2)
        model = LossModel(model.module, task, two_logits(model.module))
    elif infers:
        model = _inferred(model, inputs, labels)
    if model.task.in_model:
        inputs = with_targets(inputs, labels, parameters(model.module))
    model = _with_classes(model, inputs)
    space = make_space(options.space, options.bounds, options.normalization, options.mask)
    notes: list[str] = []
    if space is None:
        space, explanation = inferred_space(inputs, options.mask)
        notes.append(explanation[0].upper() + explanation[1:] + ".")
    return Subject(model, inputs, labels, space, name, None, notes=notes)


def _numbers(values: Any, name: str) -> Tree:
    """Values of any form as tensors, or rows of a memory map."""

    def number(leaf: Any) -> Any:
        if isinstance(leaf, (Tensor, Rows)) or is_mapped(leaf):
            return as_inputs(leaf) if name == "x" else as_tensor(leaf)
        return as_numbers(leaf, name)

    return map_leaves(number, values)


def _inferred(model: LossModel, x: Tree, y: Tree) -> LossModel:
    """The model with the task inferred from the first outputs and targets."""
    if is_detection(model.module, y):
        return model.with_task(make_task("detection"))
    if model.task.in_model:
        return model
    rows = slice(0, 32)
    device = device_of(model.module)
    head, targets = to(take(x, rows), device), to(take(y, rows), device)
    outputs = _outputs(model, head)
    if outputs is None:
        return model
    return model.with_task(refine(model.task, model.module, head, outputs, targets))


def _with_classes(model: LossModel, x: Tree) -> LossModel:
    """The model with its number of classes, read from its first prediction."""
    if model.classes is not None or not model.task.over_classes:
        return model
    outputs = _outputs(model, to(take(x, slice(0, 1)), device_of(model.module)))
    if not isinstance(outputs, Tensor) and not hasattr(outputs, "logits"):
        return model
    logits = model.task.predictions(outputs, x, model.module)
    _checks.several_logits(logits)
    return (
        model
        if logits.ndim != 2
        else model.with_task(replace(model.task, classes=int(logits.shape[1])))
    )


def _outputs(model: LossModel, x: Tree) -> Any:
    """The module's outputs; ``None`` for an ``x`` that :func:`judge` will refuse."""
    if isinstance(x, Tensor) and (x.ndim < 2 or len(x) == 0):
        return None
    if size(x) == 0:
        return None
    dtype = next((p.dtype for p in model.module.parameters() if p.is_floating_point()), None)
    if isinstance(x, Tensor) and x.is_floating_point() and dtype is not None:
        x = x.to(dtype)
    with modes.attack_mode(model.module), torch.no_grad():
        try:
            return model.outputs(clone(x))  # a module may work in place
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"the model cannot take inputs of shape {describe(x)}: {error}"
            ) from error


def _is_one_of_two(model: LossModel, x: Tree, y: Tree, criterion: Any) -> bool:
    """Whether a model of one output per input, with labels 0 and 1, has two classes."""
    if not isinstance(y, Tensor) or y.ndim == 0 or y.numel() != len(y) or len(y) == 0:
        return False
    first = _outputs(model, to(take(x, slice(0, 1)), device_of(model.module)))
    single = isinstance(first, Tensor) and first.numel() == 1
    return single and criterion.weight is None and bool(((y == 0) | (y == 1)).all())


def _masked(subject: Subject, mask: Any) -> Subject:
    if mask is None:
        return subject
    space = subject.space
    if not isinstance(space, InputSpace):
        raise ConfigurationError("mask= is for inputs; a hidden space masks by the attention mask")
    return replace(subject, space=replace(space, mask=torch.as_tensor(mask).float()))
