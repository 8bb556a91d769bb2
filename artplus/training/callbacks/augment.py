"""Random augmentation of training inputs, by batches, on the model's device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from artplus.errors import ConfigurationError, DataError
from artplus.seeding import derived, seeded
from artplus.spaces import InputSpace
from artplus.training.callbacks._base import Callback
from artplus.training.data import Batch
from artplus.training.state import State

Transform = Callable[[Tensor], Tensor]
"""Transforms a batch ``(batch, *input)``, each example by itself, without a gradient."""


class Augment(Callback):
    r"""Change each training batch at random before it is attacked.

    .. math:: \min_\theta \mathbb{E}_t \max_{\|x' - t(x)\| \le \epsilon} L(x', y)

    The attack's ball is around the changed input, and clean terms use it too. Validation data is
    not changed. A transform draws from torch's, numpy's or Python's global generator, as
    torchvision's and Kornia's do. These are seeded for each batch by the run's seed and the number
    of the step, and restored afterwards. So every epoch differs, a resumed run draws what the run
    without interruption did, and the random numbers of attack and dropout do not depend on the
    transforms. The result is clipped to the bounds of valid inputs.

    Args:
        transforms: Applied in order, each from a batch to a batch of as many examples.

    Raises:
        ConfigurationError: without a transform, or for one that cannot be called.
        DataError: during training, if a transform returns anything else.

    Example:
        >>> import torch, artplus
        >>> from artplus.training import random_crop, random_flip
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 10))
        >>> data = torch.rand(16, 3, 8, 8), torch.randint(10, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = artplus.fit(model, data, optimizer, eps=0.03, epochs=1, progress=False,
        ...                       callbacks=[Augment(random_crop, random_flip)])
    """

    def __init__(self, *transforms: Transform) -> None:
        if not transforms:
            raise ConfigurationError("Augment needs at least one transform, such as random_flip")
        for transform in transforms:
            if not callable(transform):
                raise ConfigurationError(
                    f"a transform must be called as transform(x) on a batch, got {transform!r}"
                )
            if isinstance(transform, type):
                raise ConfigurationError(
                    f"transform is the class {transform.__name__}; pass an object, "
                    f"{transform.__name__}(...)"
                )
        self.transforms = transforms

    def on_batch(self, state: State, batch: Batch) -> Batch:
        # This seed depends on run and process, and checkpoints restore it.
        seed = derived(state.generator.initial_seed(), f"augment {state.step}")
        space = state.method.bound(batch.x)
        if not isinstance(space, InputSpace):
            raise ConfigurationError(
                "Augment changes inputs that are floats; in an embedding or latent space leave it "
                "out, or change the data in its loader"
            )
        column = space.floats(batch.x)
        if not isinstance(column, Tensor):
            raise ConfigurationError(
                "Augment changes a tensor of inputs, got a list of images; change them in the "
                "data set"
            )
        x = column
        with seeded(seed), torch.no_grad():
            for transform in self.transforms:
                x = _checked(transform(x), column, transform)
        return replace(batch, x=space.clipped(space.replaced(batch.x, x)))


def _checked(x: Any, before: Tensor, transform: Transform) -> Tensor:
    """Refuse a result unlike the batch ``before``; only the shape of an input may differ."""
    if isinstance(x, Tensor) and x.ndim == before.ndim and len(x) == len(before):
        if x.dtype == before.dtype and x.device == before.device:
            return x
    named = getattr(transform, "__name__", type(transform).__name__)
    got = type(x).__name__
    if isinstance(x, Tensor):
        got = f"{tuple(x.shape)} {x.dtype} on {x.device}"
    raise DataError(
        f"the transform {named} must give a batch of as many examples, {len(before)}, of the same "
        f"dtype and device as it got, {before.dtype} on {before.device}; it gave {got}. Is it one "
        "for single examples? Those belong in the data set: columns(..., transform=...)."
    )
