"""How numbers are computed in training: precision, memory layout, compilation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.spaces import run
from artplus.tree import Tree, map_tensors

Forward = Callable[[Any], Any]

Precision = Literal["fp32", "bf16", "fp16", "auto"]

Compile = bool | Literal["auto", "reduce-overhead"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

GRADIENT_SCALE = 2.0**12
"""In fp16 the gradient is multiplied by this on its way through the network, and divided out of it:
gradients of the loss by the input are often below 6e-8, fp16's smallest number."""


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Settings of the arithmetic; weights, perturbations and losses are always as the model's own.

    Attributes:
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"``: ``torch.autocast`` inside the network,
            its outputs brought back to fp32, so that losses, projections and perturbations are
            fp32. ``"auto"`` tries bf16, on a GPU fp16 too, and the layout on the first batch and
            takes the fastest; see :mod:`artplus.training.autotune`.
        channels_last: Images with their channels last in memory: faster convolutions on some
            processors. ``None`` is off, or part of what ``precision="auto"`` tries.
        compile: ``torch.compile`` of the network, once for the attack with its weights frozen, so
            that no gradient of theirs is computed, and once for training. ``"auto"`` tries it where
            training is long enough to earn the compilation back. ``"reduce-overhead"`` is torch's
            mode of that name, which replays CUDA graphs; predictions are copied out of them. An
            objective of second derivatives, as ``"input_gradient"``, is refused if compiled, and
            ``"auto"`` does not try.

    Raises:
        ConfigurationError: for another value.
    """

    precision: Precision = "fp32"
    channels_last: bool | None = None
    compile: Compile = False

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16", "fp16", "auto"):
            raise ConfigurationError(
                f"precision must be 'fp32', 'bf16', 'fp16' or 'auto', got {self.precision!r}"
            )
        if self.channels_last not in (True, False, None):
            raise ConfigurationError(
                f"channels_last must be True, False or None, got {self.channels_last!r}"
            )
        if self.compile not in (True, False, "auto", "reduce-overhead"):
            raise ConfigurationError(
                f"compile must be True, False, 'auto' or 'reduce-overhead', got {self.compile!r}"
            )

    @property
    def decided(self) -> bool:
        """Whether nothing is left to be tried."""
        return self.precision != "auto" and self.compile != "auto"

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        mode = f" ({self.compile})" if isinstance(self.compile, str) else ""
        return f"{self.precision}{layout}{f', compiled{mode}' if self.compile else ''}"


PLAIN = Numerics()
"""What a torch model does by itself."""


class Whole(nn.Module):
    """All that happens to an input on its way to predictions, as one module.

    A :class:`~artplus.model.LossModel` may have preprocessing in front of its module. What wraps
    modules (compilation, data parallelism) is to see both.
    """

    def __init__(self, model: LossModel) -> None:
        super().__init__()
        self.module = model.module
        self._predict = model.forward

    def forward(self, x: Tree) -> Any:
        """The module's outputs for ``x``."""
        return run(self.module, x) if self._predict is None else self._predict(x)


def compiled(whole: Whole, numerics: Numerics) -> nn.Module:
    """``whole`` as the settings want it compiled."""
    if numerics.compile is not True and numerics.compile != "reduce-overhead":
        return whole
    mode = None if numerics.compile is True else numerics.compile
    # torch declares a function, and returns a module for a module
    found: nn.Module = torch.compile(whole, mode=mode)  # type: ignore[assignment]
    return found if mode is None else Copied(found)


class Copied(nn.Module):
    """Predictions that stay when the graph they came from is replayed for the next ones."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tree) -> Any:
        """A copy of what ``inside`` returns."""
        return map_tensors(Tensor.clone, self.inside(x))


def low_precision(forward: Forward, numerics: Numerics, device: torch.device) -> Forward:
    """``forward`` in the settings' precision: its outputs are brought back to float32."""
    if numerics.precision == "fp32":
        return forward
    dtype = DTYPES[numerics.precision]

    def cast(x: Tree) -> Any:
        with torch.autocast(device.type, dtype):
            return map_tensors(lambda t: t.float() if t.dtype == dtype else t, forward(x))

    return cast


def gradients_scaled(forward: Forward) -> Forward:
    """The same function, whose gradient by the input passes the network at a larger scale."""

    def scaled(x: Tree) -> Any:
        inside = map_tensors(lambda t: _scaled(t, 1 / GRADIENT_SCALE), x)
        return map_tensors(lambda t: _scaled(t, GRADIENT_SCALE), forward(inside))

    return scaled


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    if not tensor.requires_grad:
        return tensor
    # torch leaves Function.apply without types
    same: Tensor = _Scale.apply(tensor, factor)  # type: ignore[no-untyped-call]
    return same


class _Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope * ctx.factor, None
