"""What ART's attacks need around a call, and what each makes of ``y``: facts of ART 1.20."""

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

# ``y`` is the class to reach, although ``attack.targeted`` does not say so.
TAKES_TARGETS = frozenset(
    {"SaliencyMapMethod", "LowProFool", "TargetedUniversalPerturbation", "ShadowAttack"}
)
# ``targeted=True`` means "targets of its own besides": ``y`` stays the true label.
TAKES_TRUE_LABELS = frozenset({"AutoAttack"})
# ``y`` is an input whose inner features are imitated.
TAKES_GUIDES = frozenset({"FeatureAdversariesNumpy", "FeatureAdversariesPyTorch"})
# Accepts a batch of one only.
TAKES_ONE = frozenset({"ShadowAttack"})
# ``batch_size`` counts noisy copies, or has sized a buffer at construction.
KEEPS_BATCH_SIZE = frozenset({"ShadowAttack", "ZooAttack"})
# Draws from a generator of its own, seeded by the operating system.
DRAWS_UNSEEDED = frozenset({"BoundaryAttack", "BrendelBethgeAttack", "HopSkipJump"})
# ``generate`` reads ``mask=``; the others would ignore it without a word.
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
# Norm of attacks that have no parameter of that name; any other counts as L-infinity.
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
# What goes as far as it must and makes its norm small on the way; another attack without a radius
# (a rotation, few features, NewtonFool's steps past the boundary) just ends somewhere.
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
# Their ``eps`` is no radius of a norm ball: a transport cost, a threshold.
NO_RADIUS = frozenset({"Wasserstein", "GRAPHITEWhiteboxPyTorch", "GRAPHITEBlackbox"})
# What an attack found for one batch and would apply to every later one.
CACHES = {"SpatialTransformation": ("attack_trans_x", "attack_trans_y", "attack_rot")}


def parts(attack: EvasionAttack) -> list[EvasionAttack]:
    """The attack and the attacks inside it (the one behind a dispatcher, those of an ensemble)."""
    found = [attack]
    for value in vars(attack).values():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, EvasionAttack) and item is not attack:
                found += parts(item)
    return found


@contextmanager
def settings(attack: EvasionAttack, batch_size: int, scale: float) -> Iterator[None]:
    """Quiet, on whole batches, with scaled radii and empty caches; everything back afterwards.

    ART's attacks keep results and change parameters while they run (``random_eps`` shrinks
    ``eps``, ``AutoAttack`` flips ``targeted``, ``ShadowAttack`` sets it), so every attribute is put
    back, not only those set here.
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
    name, own = type(part).__name__, vars(part)
    if "verbose" in own:
        own["verbose"] = False
    if "batch_size" in own and name not in KEEPS_BATCH_SIZE:
        own["batch_size"] = batch_size
    for key in CACHES.get(name, ()):
        own[key] = None
    if scale != 1:
        for key in {radius_name(part), "eps_step"} & own.keys():
            own[key] = own[key] * scale


def radius_name(attack: EvasionAttack) -> str | None:
    """The attribute that holds the radius; ``None`` for attacks that go as far as they must."""
    name = type(attack).__name__
    if name in TAKES_GUIDES:
        return "delta"
    return "eps" if hasattr(attack, "eps") and name not in NO_RADIUS else None


@contextmanager
def float32(attack: EvasionAttack) -> Iterator[None]:
    """Cast what reaches the network to the dtype of its weights.

    Under NumPy 2 several attacks (HopSkipJump, Boundary, Carlini L0) compute in float64. The hook
    sits on ART's wrapper around the module, since for ``nn.Sequential`` ART never calls the module
    itself.
    """
    with ExitStack() as stack:
        for wrapper in wrappers(attack):
            stack.callback(wrapper.register_forward_pre_hook(_cast).remove)
        yield


def wrappers(attack: EvasionAttack) -> list[nn.Module]:
    """ART's own modules around the attacked one, through which its estimators predict."""
    found = {getattr(part.estimator, "_model", None): None for part in parts(attack)}
    return [wrapper for wrapper in found if isinstance(wrapper, nn.Module)]


def _cast(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    dtype = torch.float32 if weight is None else weight.dtype
    return tuple(
        arg.to(dtype) if isinstance(arg, Tensor) and arg.is_floating_point() else arg
        for arg in args
    )


@contextmanager
def weights_aside(module: nn.Module) -> Iterator[None]:
    """Parameters ask for no gradient meanwhile, and have their ``.grad`` back afterwards.

    ART calls ``.backward()``, which would compute every parameter's gradient and add it to the
    ``.grad`` that the training step is about to use, and ``zero_grad()``, which drops it.
    """
    saved = [(weight, weight.requires_grad, weight.grad) for weight in module.parameters()]
    try:
        for weight, _, _ in saved:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, asked, grad in saved:
            weight.requires_grad_(asked)
            weight.grad = grad


@contextmanager
def numpy_patched(attack: EvasionAttack) -> Iterator[None]:
    """What some attacks want of numpy, while they run.

    GeoDA calls ``numpy.mat``, which NumPy 2 dropped. HopSkipJump, Boundary and Brendel-Bethge make
    a ``RandomState()`` without a seed, so that no two runs are alike: it is seeded here from
    numpy's global generator. GeoDA also leaves a file in the working folder, and reads one it finds
    there: it is sent to a folder of its own.
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
    """A ``RandomState`` that without a seed takes one from numpy's global generator."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**31) if seed is None else seed)
