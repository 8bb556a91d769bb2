"""Boxes: models that are given the targets and return their losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from artplus.criterion import Criterion
from artplus.errors import ConfigurationError, DataError, UnsupportedEstimatorError
from artplus.modes import unwrapped
from artplus.tasks._base import Task, register_task
from artplus.tree import Tree, device_of, size


@dataclass(frozen=True)
class _Summed:
    """The sum of some of a model's losses."""

    names: tuple[str, ...] | None = None

    def __call__(self, predictions: Tree, targets: Tree) -> Tensor:
        chosen = predictions if self.names is None else {k: predictions[k] for k in self.names}
        return torch.stack([value.sum() for value in chosen.values()]).sum()


@register_task("detection")
@dataclass(frozen=True)
class Detection(Task):
    """The model computes its losses: ``model(images, targets)`` returns them by name.

    torchvision's form (a list of images, a list of ``{"boxes", "labels"}``, a dictionary of losses
    in train mode) and Transformers' (``pixel_values``, ``labels``, an output with ``loss``). Losses
    are of a batch, so every example sees the batch's; there is nothing that is right or wrong.

    Attributes:
        criterion: The sum of the losses.
        losses: Names of the losses to sum, such as ``("loss_classifier",)``; ``None`` is all.
        normalised_by: What the model's losses are a mean over: ``"images"`` or ``"boxes"``. Parts
            of a batch, and processes, are weighed by their number, so that they add up to the
            whole. DETR's and YOLOS's losses are means over one and the other, so there parts add
            up nearly: leave out ``micro_batch`` where that matters.
    """

    in_model: ClassVar[bool] = True
    criterion: Criterion = Criterion(_Summed(), per_example=False, over_classes=False, soft=False)
    losses: tuple[str, ...] | None = None
    normalised_by: Literal["images", "boxes"] = "images"

    def __post_init__(self) -> None:
        if self.normalised_by not in ("images", "boxes"):
            raise ConfigurationError(
                f"normalised_by must be 'images' or 'boxes', got {self.normalised_by!r}"
            )
        if self.losses is not None:
            object.__setattr__(self, "losses", tuple(self.losses))
            summed = Criterion(
                _Summed(self.losses), per_example=False, over_classes=False, soft=False
            )
            object.__setattr__(self, "criterion", summed)

    def predictions(self, outputs: Any, inputs: Tree, module: nn.Module) -> dict[str, Tensor]:
        """The losses by name."""
        parts: Any = outputs
        if isinstance(outputs, Tensor):
            parts = {"loss": outputs}
        elif isinstance(loss := getattr(outputs, "loss", None), Tensor):
            named = getattr(outputs, "loss_dict", None)
            parts = {"loss": loss} if self.losses is None or named is None else named
        tensors = isinstance(parts, Mapping) and [v for v in parts.values() if _is_loss(v)]
        if not tensors or len(tensors) < len(parts):
            raise UnsupportedEstimatorError(
                "a detector must return its losses when it is given targets: a dictionary of "
                f"scalars, or an output with .loss; got {type(outputs).__name__}. Must it be told "
                "its targets in another way, or is it in a mode in which it only predicts?"
            )
        if self.losses is not None and not set(self.losses) <= set(parts):
            raise ConfigurationError(
                f"losses {', '.join(self.losses)}: the model gives {', '.join(parts)}"
            )
        return dict(parts)

    def calling(self, module: nn.Module) -> AbstractContextManager[Any] | None:
        """Torchvision's detectors give losses in train mode only."""
        ready = module.training or any(hasattr(child, "config") for child in unwrapped(module))
        return None if ready else _losses_in_eval(module)

    def weights(self, targets: Tree) -> Tensor | None:
        """Number of boxes of each image, if the losses are means over boxes.

        Models divide by one where there is no box at all.
        """
        if self.normalised_by == "images":
            return None
        counts = [len(row["boxes"] if "boxes" in row else row["class_labels"]) for row in targets]
        weights = torch.tensor(counts, dtype=torch.float32, device=device_of(targets))
        return weights if any(counts) else weights + 1 / len(counts)

    def loss(self, predictions: Tree, targets: Tree) -> Tensor:
        """The batch's loss, for every example."""
        return self.criterion.function(predictions, targets).expand(size(targets))

    def check_targets(self, targets: Tree) -> None:
        """A list of mappings, one an image."""
        if not isinstance(targets, list) or not all(isinstance(row, Mapping) for row in targets):
            raise DataError(
                "targets of a detector must be a list of mappings, one an image, with 'boxes' and "
                f"'labels'; got {type(targets).__name__}"
            )

    def answers(self, predictions: Tree) -> Tensor:
        """Nothing that a table of examples could hold."""
        return torch.zeros(0)


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() == 1


@contextmanager
def _losses_in_eval(module: nn.Module) -> Iterator[None]:
    """Train mode for everything that neither drops out nor keeps batch statistics."""
    changed = [
        child
        for child in module.modules()
        if not child.training and not isinstance(child, (_NormBase, _DropoutNd))
    ]
    try:
        for child in changed:
            child.training = True
        yield
    finally:
        for child in changed:
            child.training = False
