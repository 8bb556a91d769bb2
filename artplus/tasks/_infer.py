"""Which task a model is for: by its name, its loss, and the first targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import ConfigurationError, UnsupportedEstimatorError
from artplus.mapped import Rows
from artplus.modes import unwrapped
from artplus.tasks._base import Task, logits_of, make_task
from artplus.tasks.causal_lm import CausalLM
from artplus.tasks.classification import Classification
from artplus.tree import Tree, leaves

BY_NAME = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
    "ForAudioClassification": "classification",
    "ForTokenClassification": "segmentation",
    "ForSemanticSegmentation": "segmentation",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForCTC": "ctc",
    "ForObjectDetection": "detection",
    "VisionModel": "features",
    "VisionModelWithProjection": "features",
    "ImageFeatures": "features",
    "ZeroShot": "classification",
}
"""How class names of Transformers and of our encoders end, and what such a model does."""

BY_CRITERION: dict[type[nn.Module], str] = {
    nn.CTCLoss: "ctc",
    nn.BCEWithLogitsLoss: "multilabel",
    nn.BCELoss: "regression",  # on probabilities: neither logits nor a margin
    nn.MSELoss: "regression",
    nn.L1Loss: "regression",
    nn.SmoothL1Loss: "regression",
    nn.HuberLoss: "regression",
    nn.PoissonNLLLoss: "regression",
    nn.SoftMarginLoss: "regression",
}


def task_of(module: nn.Module, criterion: Any = None) -> Task:
    """The task that the model's class name and its loss imply, before any data is read.

    A loss over classes, or none, implies a classification. An unknown loss implies a regression,
    whose predictions are neither right nor wrong.
    """
    for child in unwrapped(module):
        config = getattr(child, "config", None)
        for end, name in BY_NAME.items():
            if type(child).__name__.endswith(end):
                if getattr(config, "problem_type", None) == "regression" or (
                    name == "classification" and getattr(config, "num_labels", 2) == 1
                ):
                    name = "regression"
                elif getattr(config, "problem_type", None) == "multi_label_classification":
                    name = "multilabel"
                options: dict[str, Any] = {}
                if name == "ctc" and criterion is None:
                    options["blank"] = int(getattr(config, "pad_token_id", 0) or 0)
                    options["zero_infinity"] = bool(getattr(config, "ctc_zero_infinity", False))
                elif name == "segmentation":
                    options["classes_last"] = end == "ForTokenClassification"
                    ignored = getattr(config, "semantic_loss_ignore_index", None)
                    if criterion is None and ignored is not None:
                        criterion = nn.CrossEntropyLoss(ignore_index=int(ignored))
                return make_task(name, criterion, **options)
    return task_for(criterion)


def task_for(criterion: Any = None) -> Task:
    """The task that a loss tells, torch's or any callable; without one a classification.

    Example:
        >>> type(task_for(nn.L1Loss())).__name__, type(task_for()).__name__
        ('Regression', 'Classification')
    """
    if criterion is None:
        return Classification()
    for kind, name in BY_CRITERION.items():
        if type(criterion) is kind:
            return make_task(name, criterion)
    ready = criterion if isinstance(criterion, Criterion) else as_criterion(criterion)
    return make_task("classification" if ready.over_classes else "regression", ready)


def refine(task: Task, module: nn.Module, inputs: Tree, outputs: Any, targets: Tree) -> Task:
    """The task in the light of the first predictions and targets.

    Changes a classification that was assumed for want of anything better: class numbers for each
    pixel or token are a segmentation's, or a language model's if they are the token ids themselves;
    rows of zeros and ones that do not sum to one, of several labels; numbers with fractions, a
    regression's. A language model with a mapping of targets is one of preferences.
    """
    if isinstance(task, CausalLM) and isinstance(targets, Mapping):
        return make_task("preference", task.criterion)
    if type(task) is not Classification or not isinstance(targets, Tensor):
        return task
    try:
        logits = logits_of(outputs)
    except UnsupportedEstimatorError:
        return task  # whoever binds the task says what is wrong
    whole = not targets.is_floating_point()
    if whole and targets.ndim > 1 and logits.ndim == targets.ndim + 1:
        next_token = any(_are_ids(leaf, targets) for leaf in leaves(inputs))
        return make_task("causal_lm" if next_token else "segmentation", task.criterion)
    if task.criterion != Classification().criterion:
        return task
    if targets.ndim == 1 or targets.shape[1:] == (1,):
        if whole:
            return task
        fractions = bool((targets != targets.round()).any())
        single = logits.ndim == 1 or logits.shape[1] == 1
        binary = bool(((targets == 0) | (targets == 1)).all())
        return make_task("regression") if fractions or (single and not binary) else task
    if logits.ndim == 2 and targets.shape == logits.shape:
        sums = targets.float().sum(1)
        binary = bool(((targets == 0) | (targets == 1)).all())
        one = torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
        if binary and not one:
            return make_task("multilabel")
        if not binary and not one and not whole:
            return make_task("regression")
    return task


def _are_ids(column: Tensor | Rows, targets: Tensor) -> bool:
    """Whether labels are the token ids of the inputs, but for those that do not count."""
    if not isinstance(column, Tensor) or column.shape != targets.shape:
        return False
    ids = column[targets >= 0]
    same = torch.equal(ids, targets[targets >= 0].to(ids.dtype))
    return same and len(ids.unique()) > 2  # else it may be a mask


def is_detection(module: nn.Module, targets: Tree) -> bool:
    """Whether targets are boxes: a list of mappings, one an image."""
    return (
        isinstance(targets, list)
        and bool(targets)
        and isinstance(targets[0], Mapping)
        and any(key in targets[0] for key in ("boxes", "class_labels"))
    )


def check_name(task: Any) -> None:
    """Refuse what is neither ``"auto"``, a registered name nor a task, before any work."""
    if isinstance(task, Task) or task == "auto":
        return
    if not isinstance(task, str):
        raise ConfigurationError(f"task must be 'auto', a registered name or a Task, got {task!r}")
    make_task(task)
