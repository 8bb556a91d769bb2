"""Checks before the first step, of everything that would fail later or silently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import _checks, modes
from artplus.attacks import Attack, members
from artplus.attacks._problem import ball_of
from artplus.errors import ArtplusError, ConfigurationError, DataError
from artplus.functional import labelled
from artplus.losses import Objective
from artplus.model import LossModel
from artplus.spaces import Space, attached
from artplus.spaces.hidden import Hooks, output_shapes
from artplus.tasks import Task, make_task
from artplus.tasks._infer import is_detection, refine
from artplus.training.data import Arrays, Batch, Loaded
from artplus.training.method import Method
from artplus.tree import Tree, describe, device_of, size, take

LOOK = 32
"""Examples used: enough to tell probabilities from logits."""


def infer_task(model: LossModel, batch: Batch) -> LossModel:
    """The model with the task that its first outputs and targets imply."""
    if is_detection(model.module, batch.y) and not model.task.in_model:
        return model.with_task(make_task("detection"))
    if model.task.in_model:
        return model
    rows = slice(0, LOOK)
    x, y = take(batch.x, rows), take(batch.y, rows)
    with modes.attack_mode(model.module), torch.no_grad(), _fitting(x):
        outputs = model.outputs(x)
    return model.with_task(refine(model.task, model.module, x, outputs, y))


def probe(model: LossModel, source: Arrays | Loaded, method: Method) -> LossModel:
    """Try the model and the method on a few examples; return the model with its classes known.

    The pass runs in evaluation mode without gradients, and the random streams are restored.

    Raises:
        UnsupportedEstimatorError: if the model's output does not fit the task.
        DataError: if the data is empty, or targets do not fit the model's output.
        ConfigurationError: if the method does not work with this task.
    """
    batch = first(source)
    rows = slice(0, LOOK)
    x, y = take(batch.x, rows), take(batch.y, rows)
    streams = modes.RandomState(device_of(x), model.module)
    before = streams.get()
    with modes.attack_mode(model.module), torch.no_grad():
        with _fitting(x):
            predictions = model(x)
        if method.attack is not None and method.space is not None and method.space.hidden:
            _check_sites(model, method.space, members(method.attack, 0), x)
    if source.ends_alone:
        _try_one(model, take(x, slice(0, 1)))
    streams.set(before)
    model = model.with_task(model.task.bind(predictions, y))
    if method.objective.supervised:
        check_labels(model, source, batch, unlabelled=method.objective.unlabelled)
    _refuse_method(model, method)
    if method.objective.supervised:
        numbers = model.task.over_classes and labelled(y) is not None
        losses = model.loss(predictions, y.clamp_min(0) if numbers else y)
        _check_losses(losses, size(x))
    if method.objective.divergent:
        model.task.divergence(predictions, predictions, y)  # raises if the task has none
    if method.objective.second_order:
        _try_second_order(model, method, take(x, slice(0, 2)), take(y, slice(0, 2)))
        streams.set(before)
    return model


def probe_held_out(model: LossModel, source: Arrays | Loaded) -> None:
    """Try the model on held-out data, and check its targets, before any step."""
    check_labels(model, source)
    x = take(first(source).x, slice(0, LOOK))
    with modes.attack_mode(model.module), torch.no_grad(), _fitting(x, "validation inputs"):
        model(x)


@contextmanager
def _fitting(x: Tree, what: str = "inputs") -> Iterator[None]:
    """Say whose shapes they were that the model could not take."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, TypeError) as error:
        if isinstance(error, ArtplusError):
            raise
        raise DataError(
            f"the model cannot take {what} of shape {describe(x)}: {error}."
            + _checks.channels_hint(x)
        ) from error


def _try_one(model: LossModel, x: Tree) -> None:
    """Refuse a last batch of one example where batch statistics cannot be made of it."""
    flags = modes.flags(model.module)
    try:
        modes.begin_training(model.module)
        with modes.frozen_batchnorm_stats(model.module), torch.no_grad():
            model(x)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataError(
            "the last batch holds one example, of which BatchNorm has no statistics. Drop it "
            "(DataLoader(..., drop_last=True)), or take another batch size"
        ) from error
    finally:
        modes.restore(flags)


def _check_losses(losses: Tensor, n: int) -> None:
    """Refuse what is not one finite loss for each of n examples."""
    if losses.shape != (n,):
        raise ConfigurationError(
            f"the loss must give one value per example, ({n},), or a scalar mean; it gave "
            f"{tuple(losses.shape)}"
        )
    if not bool(torch.isfinite(losses).all()):
        raise DataError(
            "the loss is already NaN or infinite on the first examples, before any step. Are the "
            "model's weights finite, and the labels in the form that the loss expects?"
        )


def _check_sites(model: LossModel, space: Space, attacks: Sequence[Attack], x: Tree) -> None:
    """Refuse a space whose sub-modules do not run, run twice, or round perturbations away."""
    with attached(model.module, space) as hooks:
        unit = hooks.unit
        output_shapes(hooks, model, x)
        if hooks.spacing:
            z = space.lift(model, x)
            for attack in attacks:
                _check_spacing(hooks, space, attack, space.unit(model), z)
        hooks.unit = unit  # which is not this pass's to measure


def _check_spacing(hooks: Hooks, space: Space, attack: Attack, unit: float, z: Tensor) -> None:
    """Refuse a radius that half-precision states would round away."""
    eps = attack.eps
    if not isinstance(eps, (int, float)) or eps == 0 or attack.norm == 1:
        return
    entries = z.shape[-1] if space.per == "token" else z[0].numel()
    each = eps * unit / (1 if attack.norm == torch.inf else entries**0.5)
    if each < hooks.spacing:
        raise ConfigurationError(
            f"a radius of {eps:g} per {space.per} is about {each:.1g} for each number, but the "
            f"model's half-precision states would round away anything below {hooks.spacing:.1g}. "
            "Keep the weights in float32 and give precision='bf16', which computes in bf16 and "
            "perturbs in float32; or take a larger radius."
        )


def _try_second_order(model: LossModel, method: Method, x: Tree, y: Tree) -> None:
    """Refuse a model or loss whose second derivative torch cannot compute."""
    weights = [p for p in model.module.parameters() if p.requires_grad]
    try:
        with modes.frozen_batchnorm_stats(model.module):
            terms = method.terms(model, x, (x,), y)
            torch.autograd.grad(terms.total(1.0).sum(), weights, allow_unused=True)
    except RuntimeError as error:
        raise ConfigurationError(
            f"loss {method.objective.name!r} takes the gradient of a gradient, which torch cannot "
            f"take here ({error}). Use a loss of first derivatives, such as 'at' or 'mix'. For a "
            "recurrent network on a GPU switch cuDNN off (torch.backends.cudnn.enabled = False); "
            "for fused attention use another implementation (attn_implementation='eager')."
        ) from error


def check_optimizer(module: nn.Module, optimizer: Optimizer) -> None:
    """Refuse an optimizer that is missing or updates none of the model's parameters."""
    if not isinstance(optimizer, Optimizer):
        raise ConfigurationError(
            f"training needs a torch optimizer, got {type(optimizer).__name__}. Give the "
            "estimator one: PyTorchClassifier(..., optimizer=torch.optim.Adam(model.parameters()))"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigurationError(
            "LBFGS evaluates the loss several times a step, each time on other adversarial "
            "examples; use SGD, Adam or another optimizer whose step needs no closure"
        )
    parameters = {id(p) for p in module.parameters()}
    params = (p for group in optimizer.param_groups for p in group["params"])
    optimized = [p for p in params if id(p) in parameters]
    if not optimized:
        raise ConfigurationError(
            "the optimizer holds none of this model's parameters, so training would change "
            "nothing. Was the model copied, or replaced, after the optimizer was made?"
        )
    if not any(p.requires_grad for p in optimized):
        raise ConfigurationError(
            "every parameter of this model in the optimizer is frozen (requires_grad=False); "
            "unfreeze some"
        )


def first(source: Arrays | Loaded, n: int = LOOK) -> Batch:
    """The first batch; the order of epochs and the random streams are left unchanged.

    Arrays give their first ``n`` examples, a loader a batch of its own size.

    Raises:
        DataError: if a loader gives no batch.
    """
    if isinstance(source, Arrays):
        return source.head(n)
    with source.undisturbed():
        batch = next(iter(source), None)
    if batch is None:
        raise DataError("the loader gave no batch; is the data set empty?")
    return batch


def check_labels(
    model: LossModel,
    source: Arrays | Loaded,
    batch: Batch | None = None,
    *,
    unlabelled: bool = False,
) -> None:
    """Refuse targets that do not fit the task: all targets of arrays, or a loader's first batch.

    With ``unlabelled`` examples without a label are left out, but arrays need one label at least.

    Raises:
        DataError: for a wrong shape, dtype or range, or if the data is empty.
    """
    batch = batch or first(source)
    targets = source.y if isinstance(source, Arrays) else batch.y
    if not check_targets(model.task, targets, unlabelled=unlabelled) and isinstance(source, Arrays):
        raise DataError(
            f"none of the {size(targets)} examples has a label (all are -100), so there is "
            "nothing to learn; give at least a few labels"
        )


def check_targets(task: Task, targets: Tree, *, unlabelled: bool) -> bool:
    """Refuse targets that do not fit the task; return whether there is a label among them.

    With ``unlabelled`` examples without a label are left out.
    """
    known = labelled(targets) if unlabelled and task.over_classes else None
    if known is not None and bool((~known).any()):
        if not bool(known.any()):
            return False
        targets = take(targets, known)
    task.check_targets(targets)
    return True


def refuse_task(task: Task, objective: Objective) -> None:
    """Refuse an objective that serves another task alone."""
    if objective.task and objective.task != task.name:
        raise ConfigurationError(
            f"loss {objective.name!r} serves task {objective.task!r} alone, but this model's is "
            f"{task.name!r}; give task={objective.task!r} and data as that task needs it"
        )


def _refuse_method(model: LossModel, method: Method) -> None:
    task, objective, space = model.task, method.objective, method.space
    refuse_task(task, objective)
    if objective.over_classes and not task.over_classes:
        raise ConfigurationError(
            f"loss {objective.name!r} compares class probabilities of one label an example, but "
            f"task {task.name!r} has none (its own loss is not over classes); use 'at', 'mix' or "
            "'input_gradient'"
        )
    if not task.per_example:
        for option, is_used in (
            ("class_weight", method.class_weight is not None),
            ("attack_share", method.attack_share < 1),
        ):
            if is_used:
                raise ConfigurationError(
                    f"{option} needs a loss per example, but this loss reduces by itself and has "
                    "no `reduction` attribute; give it one, or return one value per example"
                )
    if method.attack is not None and space is not None and space.hidden:
        for attack in members(method.attack, 0):
            ball_of(space, attack.eps, attack.norm)
    if task.over_classes:
        if method.label_smoothing and not task.soft:
            raise ConfigurationError(
                "label_smoothing needs a loss that takes soft labels, such as CrossEntropyLoss"
            )
    elif method.class_weight is not None or method.label_smoothing:
        raise ConfigurationError(
            "label_smoothing and class_weight are for classification with one label an example; "
            "give the model's own loss its weight or label_smoothing"
        )
    if method.class_weight is not None:
        weight = method.class_weight
        is_valid = bool(((weight >= 0) & weight.isfinite()).all()) and bool(weight.sum() > 0)
        if tuple(weight.shape) != (model.classes,) or not is_valid:
            raise ConfigurationError(
                f"class_weight must be {model.classes} finite numbers >= 0, not all zero, got "
                f"{weight.tolist()}"
            )
