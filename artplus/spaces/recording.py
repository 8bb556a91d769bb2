"""Hidden states of a forward pass, recorded by hooks that are set for that pass alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.spaces.hidden import states_of
from artplus.spaces.latent import layers_of

Layer = str | int
"""A layer by name or number, as in :class:`~artplus.spaces.LatentSpace`."""


@contextmanager
def recording(module: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[Layer, Tensor]]:
    """Record the outputs of layers in the forward pass that runs inside; gradients flow.

    The hooks are removed at the end, also after an exception. What a layer gives first counts:
    gradient checkpointing computes it again in the backward pass. A perturbation of the same layer
    (:class:`~artplus.spaces.LatentSpace`) is included.

    A compiled model does not run hooks that are set after its compilation, so an objective that
    records says ``Objective(..., records=True)`` and is refused under ``compile=``.

    Args:
        module: What the pass goes through; wrappers such as DDP's and PEFT's may surround it.
        layers: Names or numbers of layers, as in :class:`~artplus.spaces.LatentSpace`.

    Yields:
        A mapping from the names and numbers in ``layers`` to outputs ``(batch, ...)``, filled by
        the pass.

    Raises:
        ConfigurationError: for a layer that does not exist, does not run in the pass, or returns no
            hidden states.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with recording(net, ["1"]) as states:
        ...     outputs = net(torch.rand(3, 4))
        >>> states["1"].shape, states["1"].requires_grad
        (torch.Size([3, 8]), True)
    """
    states: dict[Layer, Tensor] = {}
    handles = []
    try:
        for layer, site in zip(layers, layers_of(module, layers), strict=True):
            handles.append(site.register_forward_hook(_keep(states, layer)))
        yield states
    finally:
        for handle in handles:
            handle.remove()
    missing = [layer for layer in layers if layer not in states]
    if missing:
        raise ConfigurationError(
            f"layer {missing[0]!r} did not run in the forward pass, so it has no hidden states; "
            "choose one that does. A compiled model runs no hooks: leave out compile=."
        )


def _keep(states: dict[Layer, Tensor], layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if layer not in states:
            states[layer] = states_of(output)

    return keep
