"""Train and eval flags, batch statistics and random streams: set and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from artplus import convolution, keras_modules

Flags = list[tuple[nn.Module, bool]]

_WRAPPED = ("_orig_mod", "module", "base_model", "model")
"""Attributes under which wrappers hold a module."""


def flags(module: nn.Module) -> Flags:
    """The train/eval flag of every sub-module, for :func:`restore`."""
    return [(child, child.training) for child in module.modules()]


def restore(saved: Flags) -> None:
    """Restore every flag that :func:`flags` returned."""
    for child, training in saved:
        if child.training is not training:  # setting an attribute of a module is slow
            child.training = training


def unwrapped(module: nn.Module) -> Iterator[nn.Module]:
    """The module, then those inside wrappers such as DDP's, PEFT's and ``torch.compile``'s."""
    inner: nn.Module | None = module
    while inner is not None:
        yield inner
        # Registered sub-modules only: PEFT's layers pass attributes of what they wrap on.
        modules = [inner._modules.get(name) for name in _WRAPPED]
        inner = next((m for m in modules if m is not None), None)


@contextmanager
def attack_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards the flag of every sub-module is restored.

    During the attack dropout is off and batch statistics are not updated. A layer that the user
    froze (``bn.eval()``) is still frozen afterwards. Recurrent layers on CUDA keep train mode,
    which cuDNN needs for gradients, with their dropout switched off. So do Transformers' layers
    that recompute activations (gradient checkpointing), which they do in train mode alone; what is
    inside them is in evaluation mode. Only gradients by the input may be taken inside: see
    :mod:`artplus.convolution`.
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
        for child, training in saved:
            if training and _recomputes(child):
                child.training = True
        with convolution.one_channel(module):
            yield
    finally:
        restore(saved)
        for layer, dropout in recurrent:
            layer.dropout = dropout


def _recomputes(module: nn.Module) -> bool:
    """Whether train mode makes a layer recompute activations, and changes nothing else.

    Layers that drop out themselves, by a rate among their attributes, are left in evaluation mode.
    """
    if not getattr(module, "gradient_checkpointing", False):
        return False
    if not hasattr(module, "_gradient_checkpointing_func"):
        return False
    # Encoders of waveforms set their input's flag in train mode, which fails under an attack on it.
    if getattr(module, "_requires_grad", False):
        return False
    rates = (v for k, v in vars(module).items() if "drop" in k and isinstance(v, (int, float)))
    return not any(rates)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside; afterwards the flags are restored."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def frozen_batchnorm_stats(module: nn.Module) -> Iterator[None]:
    """Forward passes inside use batch statistics but do not update running statistics."""
    tracking = [
        child
        for child in module.modules()
        if isinstance(child, _NormBase) and child.training and child.track_running_stats
    ]
    # Keras updates its statistics in every pass in train mode, so their values are restored.
    values = [(statistic, statistic.clone()) for statistic in keras_modules.statistics(module)]
    # Instance norms ignore the flag, so their running statistics are removed.
    instance_norms = [
        (child, child.running_mean, child.running_var)
        for child in tracking
        if isinstance(child, _InstanceNorm)
    ]
    try:
        for child in tracking:
            child.track_running_stats = False
        for child, _, _ in instance_norms:
            child.running_mean = child.running_var = None
        yield
    finally:
        for child in tracking:
            child.track_running_stats = True
        for child, mean, variance in instance_norms:
            child.running_mean, child.running_var = mean, variance
        with torch.no_grad():
            for statistic, value in values:
                statistic.copy_(value)


def begin_training(module: nn.Module) -> str | None:
    """Set train mode, but leave in eval mode what the user froze.

    A module in eval mode (ART's ``predict`` leaves it so) is set to train as a whole.

    A module in train mode keeps the flags of its sub-modules, because the user may have chosen
    them: ``bn.eval()`` is how norms are frozen. The exception is a model that was loaded in eval
    mode and then wrapped: ``from_pretrained`` returns eval mode, while a new head, or PEFT's layers
    around and inside it, begin in train mode. Where more than half of the trainable weights lie
    below sub-modules in eval mode, these sub-modules are set to train.

    In what is set to train, layers whose parameters are all frozen (``requires_grad_(False)``) are
    set to eval, so that the statistics of a frozen norm do not change. A layer is a module without
    sub-modules.

    Returns:
        A note for the history if sub-modules of a module in train mode were set to train.
    """
    if not module.training:
        _train(module)
        return None
    loaded = _loaded_in_eval(module)
    before = sum(not child.training for child in module.modules())
    for child in loaded:
        _train(child)
    changed = before - sum(not child.training for child in module.modules())
    if not changed:
        return None
    return (
        f"{changed} sub-modules were in eval mode with most of the trainable weights inside them, "
        "as from_pretrained leaves a model, and were set to train mode. To train without their "
        "dropout and batch statistics, call model.train() and then eval() on single layers."
    )


def _train(module: nn.Module) -> None:
    """Train mode for all but the layers whose parameters are all frozen."""
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        is_layer = next(child.children(), None) is None
        if is_layer and parameters and not any(p.requires_grad for p in parameters):
            child.eval()


def _loaded_in_eval(module: nn.Module) -> list[nn.Module]:
    """Sub-modules in eval mode above most of the trainable weights; none if there is no majority.

    Tensors are counted, not their elements: the last stage of a ResNet holds most of its elements.
    """
    below: set[nn.Parameter] = set()
    in_eval = []
    for child in module.modules():
        inside = [p for part in child.children() for p in part.parameters() if p.requires_grad]
        if inside and not child.training:
            in_eval.append(child)
            below.update(inside)
    trainable = sum(p.requires_grad for p in module.parameters())
    return in_eval if 2 * len(below) > trainable else []


class RandomState:
    """Saves and restores the random streams that a forward pass draws from.

    Some layers draw on the CPU wherever they run (stochastic depth), so a device's state is the
    CPU's stream and the device's. Keras layers draw from seeds among their parameters.
    """

    def __init__(self, device: torch.device, module: nn.Module) -> None:
        self._device = device
        self._seeds = keras_modules.seeds(module)

    def get(self) -> tuple[torch.Tensor, ...]:
        """The present state."""
        streams = [torch.get_rng_state(), *(seed.detach().clone() for seed in self._seeds)]
        if self._device.type == "cuda":
            streams.append(torch.cuda.get_rng_state(self._device))
        return tuple(streams)

    def set(self, state: tuple[torch.Tensor, ...]) -> None:
        """Return to ``state``."""
        torch.set_rng_state(state[0])
        with torch.no_grad():
            for seed, value in zip(self._seeds, state[1:], strict=False):
                seed.copy_(value)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state[-1], self._device)
