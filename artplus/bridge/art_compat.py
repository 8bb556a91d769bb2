"""Peculiarities of the attacks of ART 1.20: their use of ``y``, and fixes around a call."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from art.attacks import EvasionAttack
from torch import Tensor, nn

# ``y`` is the target class, although ``attack.targeted`` is not true.
TAKES_TARGETS = frozenset(
    {"SaliencyMapMethod", "LowProFool", "TargetedUniversalPerturbation", "ShadowAttack"}
)
# ``targeted=True`` adds targeted attacks that choose their targets; ``y`` is the true label.
TAKES_TRUE_LABELS = frozenset({"AutoAttack"})
# ``y`` is a guide input whose hidden features the attack imitates.
TAKES_GUIDES = frozenset({"FeatureAdversariesNumpy", "FeatureAdversariesPyTorch"})
# Accepts only a batch of one.
TAKES_ONE = frozenset({"ShadowAttack"})
# ``batch_size`` is a number of noisy copies, or the size of a buffer made at construction.
KEEPS_BATCH_SIZE = frozenset({"ShadowAttack", "ZooAttack"})
# Draws from its own generator, seeded by the operating system.
DRAWS_UNSEEDED = frozenset({"BoundaryAttack", "BrendelBethgeAttack", "HopSkipJump"})
# ``generate`` reads ``mask=``; other attacks ignore it silently.
TAKES_MASK = frozenset(
    {
        "AutoConjugateGradient",
        "AutoProjectedGradientDescent",
        "BasicIterativeMethod",
        "FastGradientMethod",
        "HopSkipJump",
        "MomentumIterativeMethod",
        "ProjectedGradientDescent",
        "ProjectedGradientDescentNumpy",
        "ProjectedGradientDescentPyTorch",
        "RescalingAutoConjugateGradient",
    }
)
# Norm of attacks without a parameter ``norm``; all others count as L-infinity.
NORMS = {
    "BoundaryAttack": 2.0,
    "CarliniL2Method": 2.0,
    "DeepFool": 2.0,
    "ElasticNet": 1.0,
    "NewtonFool": 2.0,
    "SignOPTAttack": 2.0,
    "SimBA": 2.0,
    "VirtualAdversarialMethod": 2.0,
    "ZooAttack": 2.0,
}
# Attacks without a radius that minimise their norm. Others without a radius (a rotation, few
# features, NewtonFool's steps past the boundary) minimise none.
MINIMISES = frozenset(
    {
        "BoundaryAttack",
        "BrendelBethgeAttack",
        "CarliniL2Method",
        "CarliniLInfMethod",
        "DeepFool",
        "ElasticNet",
        "GeoDA",
        "HopSkipJump",
        "SignOPTAttack",
        "ZooAttack",
    }
)
# Their ``eps`` is a transport cost or a threshold, not the radius of a norm ball.
NO_RADIUS = frozenset({"Wasserstein", "GRAPHITEWhiteboxPyTorch", "GRAPHITEBlackbox"})
# Results for one batch that the attack would apply to all later batches.
CACHES = {"SpatialTransformation": ("attack_trans_x", "attack_trans_y", "attack_rot")}


def parts(attack: EvasionAttack) -> list[EvasionAttack]:
    """The attack and the attacks inside it (behind a dispatcher, or of an ensemble)."""
    attacks = [attack]
    for value in vars(attack).values():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, EvasionAttack) and item is not attack:
                attacks += parts(item)
    return attacks


@contextmanager
def settings(attack: EvasionAttack, batch_size: int, scale: float) -> Iterator[None]:
    """Inside, the attack is quiet, uses whole batches and scaled radii, and has empty caches.

    ART's attacks store results and change parameters while they run (``random_eps`` shrinks
    ``eps``, ``AutoAttack`` flips ``targeted``, ``ShadowAttack`` sets it), so every attribute is
    restored, not only those set here.
    """
    saved = [(part, dict(vars(part))) for part in parts(attack)]
    try:
        for part, _ in saved:
            _apply(part, batch_size, scale)
        yield
    finally:
        for part, attributes in saved:
            vars(part).clear()
            vars(part).update(attributes)


def _apply(part: EvasionAttack, batch_size: int, scale: float) -> None:
    name, attributes = type(part).__name__, vars(part)
    if "verbose" in attributes:
        attributes["verbose"] = False
    if "batch_size" in attributes and name not in KEEPS_BATCH_SIZE:
        attributes["batch_size"] = batch_size
    for key in CACHES.get(name, ()):
        attributes[key] = None
    if scale != 1:
        for key in {radius_name(part), "eps_step"} & attributes.keys():
            attributes[key] = attributes[key] * scale


def radius_name(attack: EvasionAttack) -> str | None:
    """Name of the attribute that holds the radius; ``None`` for attacks without one."""
    name = type(attack).__name__
    if name in TAKES_GUIDES:
        return "delta"
    return "eps" if hasattr(attack, "eps") and name not in NO_RADIUS else None


@contextmanager
def float32(attack: EvasionAttack) -> Iterator[None]:
    """Inside, inputs of the network are cast to the dtype of its weights.

    Under NumPy 2 several attacks (HopSkipJump, Boundary, Carlini L0) compute in float64. The hook
    is on ART's wrapper module, since ART never calls an ``nn.Sequential`` itself.
    """
    with ExitStack() as stack:
        for wrapper in wrappers(attack):
            stack.callback(wrapper.register_forward_pre_hook(_to_weight_dtype).remove)
        yield


def wrappers(attack: EvasionAttack) -> list[nn.Module]:
    """The wrapper modules of ART through which its estimators predict."""
    models = {getattr(part.estimator, "_model", None): None for part in parts(attack)}
    return [model for model in models if isinstance(model, nn.Module)]


def _to_weight_dtype(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    dtype = torch.float32 if weight is None else weight.dtype
    return tuple(
        arg.to(dtype) if isinstance(arg, Tensor) and arg.is_floating_point() else arg
        for arg in args
    )


@contextmanager
def without_weight_gradients(module: nn.Module) -> Iterator[None]:
    """Inside, parameters need no gradient; their flags and ``.grad`` are restored afterwards.

    ART calls ``.backward()``, which would compute every parameter's gradient and add it to the
    ``.grad`` that the training step is about to use, and ``zero_grad()``, which would drop it.
    """
    saved = [(weight, weight.requires_grad, weight.grad) for weight in module.parameters()]
    try:
        for weight, _, _ in saved:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, requires_grad, grad in saved:
            weight.requires_grad_(requires_grad)
            weight.grad = grad


@contextmanager
def patched_numpy(attack: EvasionAttack) -> Iterator[None]:
    """Inside, numpy and the working folder are as some attacks need them.

    GeoDA calls ``numpy.mat``, which NumPy 2 removed. HopSkipJump, Boundary and Brendel-Bethge make
    a ``RandomState()`` without a seed, so that runs differ; here it is seeded from numpy's global
    generator. GeoDA writes a file to the working folder and reads an existing one; it runs in a
    temporary folder here.
    """
    with ExitStack() as stack:
        if any(type(part).__name__ == "GeoDA" for part in parts(attack)):
            stack.callback(os.chdir, os.getcwd())
            os.chdir(stack.enter_context(tempfile.TemporaryDirectory()))
        if "mat" not in vars(np):
            vars(np)["mat"] = np.asmatrix
            stack.callback(vars(np).pop, "mat")
        if any(type(part).__name__ in DRAWS_UNSEEDED for part in parts(attack)):
            stack.callback(setattr, np.random, "RandomState", np.random.RandomState)
            vars(np.random)["RandomState"] = _SeededState
        yield


class _SeededState(np.random.RandomState):
    """A ``RandomState`` whose default seed is drawn from numpy's global generator."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**31) if seed is None else seed)
