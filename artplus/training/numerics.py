"""How numbers are computed in training: precision, memory layout, compilation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from artplus import _checks
from artplus.model import LossModel
from artplus.spaces import run
from artplus.tree import Tree, map_tensors

Forward = Callable[[Any], Any]

Precision = Literal["fp32", "bf16", "fp16", "auto"]

Compile = bool | Literal["auto", "reduce-overhead"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

GRADIENT_SCALE = 2.0**12
"""Factor of the input gradient inside the network in fp16, divided out afterwards: gradients of the
loss by the input are often below 6e-8, fp16's smallest number."""


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Settings of the arithmetic. Weights, perturbations and losses always keep the model's dtype.

    Attributes:
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``. The latter two run the network under
            ``torch.autocast`` and convert its outputs to fp32, so that losses, projections and
            perturbations are fp32. ``"auto"`` tries bf16, on a GPU fp16 too, and memory layouts on
            the first batch, and takes the fastest whose results agree with fp32; see
            :mod:`artplus.training.autotune`.
        channels_last: Keep the channels of images last in memory, which makes convolutions faster
            on some processors. ``None`` is off, or tried by ``precision="auto"``.
        compile: Compile the network by ``torch.compile``: once for training, and once for the
            attack with frozen weights, so that their gradients are not computed. ``"auto"`` tries
            it if training is long enough to save more time than compilation takes.
            ``"reduce-overhead"`` is torch's mode of that name, which replays CUDA graphs;
            predictions are copied out of them. Objectives with second derivatives, as
            ``"input_gradient"``, are refused if compiled, and ``"auto"`` leaves them uncompiled.

    Raises:
        ConfigurationError: for another value.
    """

    precision: Precision = "fp32"
    channels_last: bool | None = None
    compile: Compile = False

    def __post_init__(self) -> None:
        _checks.choice("precision", self.precision, ("fp32", "bf16", "fp16", "auto"))
        _checks.choice("channels_last", self.channels_last, (True, False, None))
        _checks.choice("compile", self.compile, (True, False, "auto", "reduce-overhead"))

    @property
    def decided(self) -> bool:
        """Whether no setting is ``"auto"``."""
        return self.precision != "auto" and self.compile != "auto"

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        mode = f" ({self.compile})" if isinstance(self.compile, str) else ""
        return f"{self.precision}{layout}{f', compiled{mode}' if self.compile else ''}"


PLAIN = Numerics()
"""Plain fp32, not compiled: what a torch model does by default."""


class Whole(nn.Module):
    """Everything from inputs to predictions, as one module.

    A :class:`~artplus.model.LossModel` may have preprocessing in front of its module. Compilation
    and data parallelism wrap modules, and must wrap both.
    """

    def __init__(self, model: LossModel) -> None:
        super().__init__()
        self.module = model.module
        self._predict = model.forward

    def forward(self, x: Tree) -> Any:
        """The module's outputs for ``x``."""
        return run(self.module, x) if self._predict is None else self._predict(x)


def compiled(whole: Whole, numerics: Numerics) -> nn.Module:
    """``whole``, compiled if the settings ask for it."""
    if numerics.compile is not True and numerics.compile != "reduce-overhead":
        return whole
    mode = None if numerics.compile is True else numerics.compile
    # torch declares a function, and returns a module for a module
    module: nn.Module = torch.compile(whole, mode=mode)  # type: ignore[assignment]
    return module if mode is None else Copied(module)


class Copied(nn.Module):
    """Copies the outputs of a CUDA graph, whose next replay would overwrite them."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tree) -> Any:
        """A copy of the outputs of ``inside``."""
        return map_tensors(Tensor.clone, self.inside(x))


def low_precision(forward: Forward, numerics: Numerics, device: torch.device) -> Forward:
    """``forward`` in the precision of ``numerics``, with outputs converted to float32."""
    if numerics.precision == "fp32":
        return forward
    dtype = DTYPES[numerics.precision]

    def cast(x: Tree) -> Any:
        with torch.autocast(device.type, dtype):
            return map_tensors(lambda t: t.float() if t.dtype == dtype else t, forward(x))

    return cast


def gradients_scaled(forward: Forward) -> Forward:
    """The same function; its input gradient is scaled up inside the network and down after it."""

    def scaled(x: Tree) -> Any:
        inputs = map_tensors(lambda t: _scaled(t, 1 / GRADIENT_SCALE), x)
        return map_tensors(lambda t: _scaled(t, GRADIENT_SCALE), forward(inputs))

    return scaled


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    """``tensor`` itself, with its gradient multiplied by ``factor``."""
    if not tensor.requires_grad:
        return tensor
    # torch leaves Function.apply without types
    scaled: Tensor = _Scale.apply(tensor, factor)  # type: ignore[no-untyped-call]
    return scaled


class _Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None
