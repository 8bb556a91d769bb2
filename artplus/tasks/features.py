"""Feature vectors, as encoders of images give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from artplus.criterion import Criterion
from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.tasks._base import Gap, Metric, Task, register_task
from artplus.tree import Tree

OUTPUTS = ("image_embeds", "pooler_output")
"""Where Transformers' vision models put an image's features: projected, or else pooled."""


def squared_distance(features: Tensor, others: Tensor) -> Tensor:
    r"""The squared distance :math:`\|a - b\|_2^2` of each example's features, ``(batch,)``.

    It is a sum over the features, not their mean.

    Example:
        >>> import torch
        >>> squared_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([25.])
    """
    return (features - others.to(features)).flatten(1).square().sum(1)


@register_task("features")
@dataclass(frozen=True)
class Features(Task):
    """Predictions are features ``(batch, width)``; targets the features that they should be.

    Usually those of the encoder before training. The loss is the squared distance, so that
    ``loss="at"`` keeps features under attack where the targets are, and an evaluation shows how far
    an attack moves them. :func:`~artplus.losses.fare` needs no targets: data may be images alone.

    Transformers' vision models give ``image_embeds``, or else ``pooler_output``; a plain module
    returns a tensor. For a CLIP model with its text encoder see
    :class:`~artplus.encoders.ImageFeatures`.

    Attributes:
        criterion: The squared distance by default, a sum over the features.
        shape: Of one example's features, where known.
    """

    shown: ClassVar[bool] = False
    criterion: Criterion = Criterion(squared_distance, over_classes=False, soft=False)
    shape: tuple[int, ...] = ()

    def predictions(self, outputs: Any, inputs: Tree, module: nn.Module) -> Tensor:
        """The features in what a module returned; see :func:`features_of`."""
        return features_of(outputs)

    def divergence(
        self, reference: Tensor, predictions: Tensor, targets: Tree, *, of: Gap = "kl"
    ) -> Tensor:
        """The squared distance, whatever ``of`` says."""
        return squared_distance(predictions, reference)

    def bind(self, predictions: Tree, targets: Tree) -> Features:
        """With the shape of the features."""
        if not isinstance(predictions, Tensor) or predictions.ndim < 2:
            shape = tuple(getattr(predictions, "shape", ()))
            raise UnsupportedEstimatorError(
                f"an encoder must return features (batch, width), got {shape}"
            )
        return replace(self, shape=tuple(predictions.shape[1:]))

    def check_targets(self, targets: Tree) -> None:
        """Features of the encoder's own shape."""
        fits = isinstance(targets, Tensor) and targets.is_floating_point()
        if fits and (not self.shape or tuple(targets.shape[1:]) == self.shape):
            return
        got = (
            getattr(targets, "dtype", type(targets).__name__),
            tuple(getattr(targets, "shape", ())),
        )
        raise DataError(
            f"targets of task 'features' are the features that an encoder should give, floats "
            f"(batch, {', '.join(map(str, self.shape or ('width',)))}), got {got[0]} {got[1]}. "
            "Encode the images before training: with torch.no_grad(): y = encoder(x). For images "
            "with class numbers put a head on the encoder: artplus.encoders.ZeroShot."
        )

    def metrics(self) -> Mapping[str, Metric]:
        """The mean cosine of the angle between features and targets."""
        return {"cosine": Metric(_cosine, lambda rows: float(rows.double().mean()))}


def features_of(outputs: Any) -> Tensor:
    """The features in what a module returned: the tensor itself, or one of :data:`OUTPUTS`.

    Raises:
        UnsupportedEstimatorError: if there are none; names what there is.
    """
    if isinstance(outputs, Tensor):
        return outputs
    names = list(outputs) if isinstance(outputs, Mapping) else []
    if "logits_per_image" in names:
        raise UnsupportedEstimatorError(
            "this model compares images with texts, and its image_embeds are normalised. Train the "
            "encoder of images: artplus.encoders.ImageFeatures(model)."
        )
    for name in OUTPUTS:
        value = outputs.get(name) if names else getattr(outputs, name, None)
        if isinstance(value, Tensor):
            return value
    holds = f" of {', '.join(map(str, names))}" if names else ""
    raise UnsupportedEstimatorError(
        f"an encoder must return a tensor, or an output with {' or '.join(OUTPUTS)}, got "
        f"{type(outputs).__name__}{holds}. Wrap it "
        "in a module whose forward returns the features, such as "
        "output.last_hidden_state.mean(1)."
    )


def _cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    pair = predictions.flatten(1).double(), targets.flatten(1).double()
    return F.cosine_similarity(*pair)[:, None]
