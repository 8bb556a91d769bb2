"""A faster input gradient, on a CPU, of convolutions with one input channel.

The first layer of a network for grey images, spectrograms or X-rays has one input channel. For it,
oneDNN's input gradient takes two to four times as long as the forward pass; a matrix product and a
``fold`` take a half to a fifth of that. Attacks spend most of their time in this gradient.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENOUGH = 0.75
"""Least ratio of output channels to the kernel's area. Measured with one and two threads: from 0.8
on, the product is 1.3 to 4.7 times as fast; at 0.25 and below it takes twice the time."""

_allowed: ContextVar[bool] = ContextVar("one-channel convolutions", default=True)


@contextmanager
def left_alone() -> Iterator[None]:
    """Inside, :func:`one_channel` does nothing; for compilers, which need unchanged modules."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


@contextmanager
def one_channel(module: nn.Module) -> Iterator[None]:
    r"""Inside, convolutions of one channel in ``module`` have a faster input gradient.

    .. math:: \nabla_x L = \mathrm{fold}(W^T \, \nabla_y L)

    It equals torch's up to rounding. Forward passes are torch's, and so is everything on other
    devices, in other dtypes and under autocast. **Gradients by these layers' weights are not
    computed**; attacks do not need them.

    Each such layer gets an instance attribute ``forward``, which is removed afterwards. Private
    parts of torch are not used.
    """
    layers = [child for child in module.modules() if _fits(child)] if _allowed.get() else []
    if layers and any(hasattr(child, "_orig_mod") for child in module.modules()):
        layers = []  # compiled by the user
    for layer in layers:
        layer.__dict__["forward"] = types.MethodType(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _fits(child: nn.Module) -> bool:
    return (
        type(child) is nn.Conv2d
        and child.in_channels == 1
        and child.groups == 1
        and child.dilation == (1, 1)
        and child.padding_mode == "zeros"
        and isinstance(child.padding, tuple)
        and child.out_channels >= ENOUGH * child.kernel_size[0] * child.kernel_size[1]
        and child.weight.device.type == "cpu"
        and child.weight.dtype == torch.float32
        and "forward" not in child.__dict__  # set by us or by another library
    )


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    """``nn.Conv2d.forward``, with the faster gradient where the input needs one."""
    torch_gradient = not (torch.is_grad_enabled() and x.requires_grad) or torch.is_autocast_enabled(
        "cpu"
    )
    if torch_gradient or x.ndim != 4 or x.dtype != torch.float32:
        return nn.Conv2d.forward(self, x)
    bias = None if self.bias is None else self.bias.detach()
    # torch does not annotate Function.apply
    outputs: Tensor = _OneChannel.apply(x, self.weight.detach(), bias, self.stride, self.padding)  # type: ignore[no-untyped-call]
    return outputs


class _OneChannel(torch.autograd.Function):
    """A convolution that is differentiable only by its input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.stride, ctx.padding = x.shape[-2:], stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        columns = weight.flatten(1).t() @ grads.flatten(2)
        return (
            F.fold(
                columns,
                ctx.size,
                weight.shape[-2:],
                stride=ctx.stride,
                padding=ctx.padding,
            ),
            *(None,) * 4,
        )
