"""ART's certified estimators by bounds: what they say of a point, as plain layers.

``PytorchDeepZ`` and ``PyTorchIBPClassifier`` hold a copy of the network that predicts for zonotopes
and boxes. It has a mode, at first ``"abstract"``, in which ART's own ``predict`` fails: it passes
points. What is attacked are points, so predictions go through the same weights in torch's layers,
whatever the mode, and ART's attacks find the mode ``"concrete"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from artplus.errors import UnsupportedEstimatorError

_HOME = "art.estimators.certification."


def layers(module: nn.Module) -> nn.Sequential | None:
    """The layers of a converted network, with its weights; ``None`` of any other module.

    Weights are shared and so follow training, except those of interval convolutions, which ART
    keeps in another shape: they share memory, not gradients.
    """
    if not _is_converted(module):
        return None
    converted: Any = module
    found: list[nn.Module] = []
    for k, layer in enumerate(converted.ops):
        if k == converted.reshape_op_num:
            found.append(nn.Flatten())
        found.append(_plain(layer))
    return nn.Sequential(*found).train(module.training)


@contextmanager
def concrete(module: nn.Module) -> Iterator[None]:
    """Inside, a converted network called by ART predicts for points; its mode comes back.

    The matrices of interval convolutions carry a graph to the weights, through which ART's
    ``backward`` passes once and no second time; meanwhile they are without it.
    """
    if not _is_converted(module):
        yield
        return
    converted: Any = module
    with ExitStack() as stack:
        stack.callback(converted.set_forward_mode, converted.forward_mode)
        converted.set_forward_mode("concrete")
        for layer in converted.ops:
            if _is_interval_convolution(layer):
                for name in ("dense_weights", "bias"):
                    value = getattr(layer, name)
                    if value is not None:
                        stack.callback(setattr, layer, name, value)
                        setattr(layer, name, value.detach())
        yield


def refuse_training(estimator: Any) -> None:
    """Refuse to harden what would predict by other weights than were trained.

    Raises:
        UnsupportedEstimatorError: for interval convolutions.
    """
    module: Any = estimator.model
    if _is_converted(module) and any(map(_is_interval_convolution, module.ops)):
        raise UnsupportedEstimatorError(
            f"{type(estimator).__name__} predicts by matrices made from its convolutions at "
            "construction, which training would leave behind. Harden the network in a "
            "PyTorchClassifier and construct the certified estimator from it afterwards, or train "
            "with ART's AdversarialTrainerCertifiedIBPPyTorch."
        )


def _plain(layer: Any) -> nn.Module:
    """One layer of ART as torch's."""
    kind = type(layer).__name__
    if kind == "ZonoConv":
        return _convolution(layer.conv, layer.conv.weight, layer.bias, layer.conv)
    if kind == "PyTorchIntervalConv2D":
        return _convolution(layer, _weight(layer), layer.bias_to_grad, layer.conv)
    if kind in ("ZonoDenseLayer", "PyTorchIntervalDense"):
        rows, columns = layer.weight.shape
        dense: nn.Linear = nn.utils.skip_init(nn.Linear, columns, rows)
        dense.weight, dense.bias = layer.weight, layer.bias
        return dense
    if kind in ("ZonoReLU", "PyTorchIntervalReLU"):
        return nn.ReLU()
    raise UnsupportedEstimatorError(
        f"{type(layer).__module__}.{kind} is a certified layer that is not known here; known are "
        "those that ART makes of Conv2d, Linear and ReLU. Evaluate the network that the estimator "
        "was made from."
    )


def _convolution(
    sizes: Any, weight: nn.Parameter, bias: nn.Parameter | None, geometry: nn.Conv2d
) -> nn.Conv2d:
    found: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d,
        sizes.in_channels,
        sizes.out_channels,
        geometry.kernel_size,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        bias=bias is not None,
    )
    found.weight, found.bias = weight, bias
    return found


def _weight(layer: Any) -> nn.Parameter:
    """The kernels of an interval convolution, of which ART makes one channel each."""
    shape = (layer.out_channels, layer.in_channels, *layer.conv.kernel_size)
    return nn.Parameter(layer.conv.weight.detach().reshape(shape), requires_grad=False)


def _is_converted(module: Any) -> bool:
    return type(module).__name__ == "ConvertedModel" and type(module).__module__.startswith(_HOME)


def _is_interval_convolution(layer: nn.Module) -> bool:
    return type(layer).__name__ == "PyTorchIntervalConv2D"
