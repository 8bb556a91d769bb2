r"""Interval bound propagation: what a sequence of layers can output for any input of a box.

With centre :math:`\mu` and radius :math:`r` of the box, an affine layer gives

.. math:: \mu' = W \mu + b, \qquad r' = |W| \, r

and a monotone one is applied to both ends [Gowal18]_. Bounds are differentiable in the weights, so
they serve to certify a network and to train one for them.

References:
    .. [Gowal18] Gowal et al., "On the effectiveness of interval bound propagation for training
       verifiably robust models", 2018, https://arxiv.org/abs/1810.12715
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from artplus.errors import ConfigurationError

_MONOTONE = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.Hardtanh, nn.ReLU6)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_BOX_TO_BOX = (nn.Flatten, nn.Identity, nn.Unflatten, nn.AvgPool1d, nn.AvgPool2d, *_DROPOUT,
               nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.MaxPool1d, nn.MaxPool2d)  # fmt: skip
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, *_BATCH_NORM)


def layers(module: nn.Module) -> list[nn.Module]:
    """The module as a flat sequence of layers whose bounds are known; they share its weights.

    Raises:
        ConfigurationError: naming the first layer whose bounds are not known.
    """
    flat = _flat(module)
    for layer in flat:
        if type(layer) not in (*_MONOTONE, *_BOX_TO_BOX, *_AFFINE):
            raise ConfigurationError(
                f"interval bounds are known here for sequences of Linear, Conv, BatchNorm, "
                f"pooling, flattening and monotone activations, not for {type(layer).__name__}"
            )
        slope = {nn.LeakyReLU: "negative_slope", nn.ELU: "alpha"}.get(type(layer))
        if slope is not None and getattr(layer, slope) < 0:
            raise ConfigurationError("interval bounds need monotone activations")
        if isinstance(layer, _BATCH_NORM) and layer.running_var is None:
            raise ConfigurationError("interval bounds need a BatchNorm with running statistics")
    return flat


def bounds(layers: Sequence[nn.Module], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of what the layers output for any input between ``low`` and ``high``.

    Args:
        layers: As :func:`layers` gives them, with BatchNorm and Dropout in evaluation mode.
        low: ``(batch, *input)``, least values.
        high: Shaped alike, greatest values.

    Returns:
        Least and greatest outputs, ``(batch, ...)``.

    Raises:
        ConfigurationError: if a BatchNorm or Dropout layer is in training mode.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
        >>> _ = nn.init.constant_(net[0].weight, -2.0)
        >>> low, high = bounds(layers(net), torch.tensor([[-1.0]]), torch.tensor([[3.0]]))
        >>> low.item(), high.item()
        (0.0, 2.0)
    """
    for layer in layers:
        if layer.training and isinstance(layer, (*_BATCH_NORM, *_DROPOUT)):
            raise ConfigurationError(
                f"interval bounds need {type(layer).__name__} in evaluation mode: module.eval()"
            )
        if isinstance(layer, _AFFINE):
            centre, radius = layer((low + high) / 2), _spread(layer, (high - low) / 2)
            low, high = centre - radius, centre + radius
        else:
            low, high = layer(low), layer(high)
    return low, high


def margins(
    layers: Sequence[nn.Module], low: Tensor, high: Tensor, y: Tensor, *, rounding: float = 0.0
) -> Tensor:
    """Lower bounds of ``z_y - z_k``, ``(batch, classes)``; infinite for ``k = y``.

    The prediction is ``y`` for every input of the box if all of them are positive. The last linear
    layer is folded into the difference, which is tighter than the difference of two boxes.

    Args:
        layers: As for :func:`bounds`; the last gives class logits.
        low: ``(batch, *input)``, least values.
        high: Shaped alike, greatest values.
        y: ``(batch,)`` class numbers.
        rounding: What the bounds give up, relative to the size of the sums, for a model that rounds
            more than they do.
    """
    *body, last = layers
    if isinstance(last, nn.Linear):
        low, high = bounds(body, low, high)
        weight = last.weight[y][:, None] - last.weight[None]
        centre, radius = (low + high) / 2, (high - low) / 2
        least = torch.einsum("bkf,bf->bk", weight, centre)
        least = least - torch.einsum("bkf,bf->bk", weight.abs(), radius)
        size = torch.einsum("bkf,bf->bk", weight.abs(), centre.abs() + radius)
        if last.bias is not None:
            least = least + last.bias[y][:, None] - last.bias[None]
    else:
        low, high = bounds(layers, low, high)
        least = low.gather(1, y[:, None]) - high
        size = low.abs().amax(1, keepdim=True) + high.abs()
    return (least - rounding * (1 + size)).scatter(1, y[:, None], torch.inf)


def _flat(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [layer for child in module for layer in _flat(child)]
    return [module]


def _spread(layer: nn.Module, radius: Tensor) -> Tensor:
    """How far the outputs move at most: the layer with absolute weights and nothing added."""
    weight = getattr(layer, "weight", None)
    state = {} if weight is None else {"weight": weight.abs()}
    for name in ("bias", "running_mean"):
        added = getattr(layer, name, None)
        if added is not None:
            state[name] = torch.zeros_like(added)
    spread: Tensor = functional_call(layer, state, (radius,))
    return spread
