"""Train and eval flags, batch statistics and dropout draws: entered, used, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from artplus import convolution

Flags = list[tuple[nn.Module, bool]]


def flags(module: nn.Module) -> Flags:
    """The train/eval flag of every sub-module, to be put back by :func:`restore`."""
    return [(child, child.training) for child in module.modules()]


def restore(saved: Flags) -> None:
    """Put back every flag saved by :func:`flags`, each sub-module its own."""
    for child, training in saved:
        if child.training is not training:  # setting an attribute of a module takes a while
            child.training = training


@contextmanager
def attack_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode while examples are crafted; every sub-module's own flag afterwards.

    So dropout is off and batch statistics stand still in the attack, and a layer that the user
    froze (``bn.eval()``) is still frozen afterwards. Recurrent layers on CUDA keep train mode,
    which cuDNN needs for gradients, with their dropout off meanwhile. Gradients are meant to be
    taken by the input alone: see :mod:`artplus.convolution`.
    """
    saved = flags(module)
    recurrent = [
        (child, child.dropout)
        for child, _ in saved
        if isinstance(child, nn.RNNBase) and any(p.is_cuda for p in child.parameters())
    ]
    try:
        if any(training for _, training in saved):
            module.eval()
        for layer, _ in recurrent:
            layer.training, layer.dropout = True, 0.0
        with convolution.one_channel(module):
            yield
    finally:
        restore(saved)
        for layer, dropout in recurrent:
            layer.dropout = dropout


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; each its own flag afterwards."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def frozen_batchnorm_stats(module: nn.Module) -> Iterator[None]:
    """Forward passes inside use batch statistics as in training but leave running ones alone."""
    tracking = [
        child
        for child in module.modules()
        if isinstance(child, _NormBase) and child.training and child.track_running_stats
    ]
    # Instance norms update what they hold whatever the flag says, so theirs are taken away.
    held = [
        (child, child.running_mean, child.running_var)
        for child in tracking
        if isinstance(child, _InstanceNorm)
    ]
    try:
        for child in tracking:
            child.track_running_stats = False
        for child, _, _ in held:
            child.running_mean = child.running_var = None
        yield
    finally:
        for child in tracking:
            child.track_running_stats = True
        for child, average, variance in held:
            child.running_mean, child.running_var = average, variance


def begin_training(module: nn.Module) -> None:
    """Set train mode, but leave in eval what the user froze.

    A module in train mode is left exactly as it is: its sub-modules' flags are the user's. A
    module in eval mode (ART's ``predict`` leaves it so, whatever it was) is set to train, except
    layers whose own parameters are all frozen (``requires_grad_(False)``).
    """
    if module.training:
        return
    module.train()
    for child in module.modules():
        own = list(child.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            child.eval()


class RandomState:
    """The random streams a forward pass draws from, to be rewound: dropout's and the CPU's.

    Some layers draw on the CPU wherever they run (a layer dropped as a whole), so a device's
    state is the CPU's stream and its own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def get(self) -> tuple[torch.Tensor, ...]:
        """The present state."""
        if self._device.type == "cuda":
            return torch.get_rng_state(), torch.cuda.get_rng_state(self._device)
        return (torch.get_rng_state(),)

    def set(self, state: tuple[torch.Tensor, ...]) -> None:
        """Go back (or forward) to ``state``."""
        torch.set_rng_state(state[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state[1], self._device)
