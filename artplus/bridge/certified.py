"""ART's bound-based certified estimators as plain torch layers that predict points.

``PytorchDeepZ`` and ``PyTorchIBPClassifier`` hold a copy of the network that predicts zonotopes and
boxes. Its mode is at first ``"abstract"``, in which ART's own ``predict`` fails on points. Attacks
are on points, so artplus predicts with the same weights in torch's layers in any mode, and ART's
attacks run in the mode ``"concrete"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from artplus.errors import UnsupportedEstimatorError

_HOME = "art.estimators.certification."


def layers(module: nn.Module) -> nn.Sequential | None:
    """The layers of a converted network, with its weights; ``None`` for any other module.

    Weights are shared, so they follow training. Those of interval convolutions, which ART keeps in
    another shape, share memory but not gradients.
    """
    if not _is_converted(module):
        return None
    converted: Any = module
    plain: list[nn.Module] = []
    for k, layer in enumerate(converted.ops):
        if k == converted.reshape_op_num:
            plain.append(nn.Flatten())
        plain.append(_plain(layer))
    return nn.Sequential(*plain).train(module.training)


@contextmanager
def concrete(module: nn.Module) -> Iterator[None]:
    """Inside, a converted network that ART calls predicts points; its mode is restored.

    The matrices of interval convolutions have a graph to the weights, which ART's ``backward`` can
    use only once. Inside, they are detached from it.
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
    """Refuse estimators whose predictions would not follow training.

    Raises:
        UnsupportedEstimatorError: for interval convolutions.
    """
    module: Any = estimator.model
    if _is_converted(module) and any(map(_is_interval_convolution, module.ops)):
        raise UnsupportedEstimatorError(
            f"{type(estimator).__name__} predicts with matrices made from its convolutions at "
            "construction, which training would not change. Harden the network in a "
            "PyTorchClassifier and construct the certified estimator from it afterwards, or train "
            "with ART's AdversarialTrainerCertifiedIBPPyTorch."
        )


def _plain(layer: Any) -> nn.Module:
    """A layer of ART as a layer of torch."""
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
        f"{type(layer).__module__}.{kind} is a certified layer that is not supported; supported "
        "are those that ART makes of Conv2d, Linear and ReLU. Evaluate the network that the "
        "estimator was made from."
    )


def _convolution(
    sizes: Any, weight: nn.Parameter, bias: nn.Parameter | None, geometry: nn.Conv2d
) -> nn.Conv2d:
    convolution: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d,
        sizes.in_channels,
        sizes.out_channels,
        geometry.kernel_size,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        bias=bias is not None,
    )
    convolution.weight, convolution.bias = weight, bias
    return convolution


def _weight(layer: Any) -> nn.Parameter:
    """The kernels of an interval convolution, which ART stores as separate channels."""
    shape = (layer.out_channels, layer.in_channels, *layer.conv.kernel_size)
    return nn.Parameter(layer.conv.weight.detach().reshape(shape), requires_grad=False)


def _is_converted(module: Any) -> bool:
    return type(module).__name__ == "ConvertedModel" and type(module).__module__.startswith(_HOME)


def _is_interval_convolution(layer: nn.Module) -> bool:
    return type(layer).__name__ == "PyTorchIntervalConv2D"
