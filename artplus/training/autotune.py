"""Which arithmetic is fastest here: a short trial on the first batch, before training."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from artplus import modes
from artplus.attacks import members
from artplus.attacks._base import look, own_loss
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.training.data import Batch
from artplus.training.engines import Engine
from artplus.training.method import Method
from artplus.training.numerics import Numerics, Precision
from artplus.tree import device_of, leaves

_log = logging.getLogger(__name__)

GAIN = 1.05
"""How much faster than fp32 a setting must be to be taken: less is within the noise of a trial."""

ROUNDS = 3
"""Measurements of each setting, alternating; the median counts."""

PATIENCE = 20.0
"""Seconds after which no further round is begun."""

EARN = 3.0
"""Compilation is tried if the training is at least so many times as long as it takes, by guess, and
taken if what it saves over the training exceeds what it took."""

COMPILATION = 40.0
"""Seconds that compilation takes, by guess: two graphs, on a processor."""

STEPS = 10
"""Gradient steps of an attack that does not say how many it takes."""

LOSS_TOLERANCE = 0.02
"""Largest relative difference of the mean loss that a lower precision may make on the batch."""

ALIGNMENT = 0.99
"""Least cosine between the input gradients in a lower precision and in fp32, over the batch."""


@dataclass(frozen=True)
class Measurement:
    """One setting as measured.

    Attributes:
        numerics: The setting.
        seconds: One training step: the attack's gradients and the weights' pass; NaN if it failed.
        reason: Why it was not admitted; empty if it was.
    """

    numerics: Numerics
    seconds: float
    reason: str = ""

    def __str__(self) -> str:
        took = "" if math.isnan(self.seconds) else f" {self.seconds * 1e3:.3g} ms"
        return f"{self.numerics}{took}{self.reason and f' ({self.reason})'}"


def choose_precision(
    engine: Engine,
    model: LossModel,
    method: Method,
    batch: Batch,
    *,
    steps: int | None,
) -> str:
    """Fix what ``engine`` was told to choose by itself; return what was chosen, in words.

    The settings: fp32, channels last (if inputs are images), bf16, on a GPU fp16, and each with
    channels last; then, if the training is long enough, the fastest of them compiled. A lower
    precision is admitted if mean loss and input gradients on the batch are those of fp32 within
    :data:`LOSS_TOLERANCE` and :data:`ALIGNMENT`; one that fails here is left out, and the note says
    why. Torch's compiler has no second derivatives, so objectives that take them stay uncompiled.
    The choice depends on the machine and its load, so two runs may differ; a resumed run keeps that
    of its beginning. Weights, buffers and random streams stay untouched.

    Args:
        engine: Unprepared, with something to choose.
        model: Not wrapped.
        method: Says how many gradients the attack takes to one pass of the weights.
        batch: As large as those of the training.
        steps: Planned steps of the weights; ``None`` if unknown, then nothing is compiled.
    """
    requested = engine.requested
    attack = _attack(method)
    fixed = replace(requested, compile=False) if requested.compile == "auto" else requested
    measurements = _measure(model, batch, _candidates(fixed, batch), attack)
    best = _fastest(measurements)
    second = requested.compile == "auto" and method.objective.second_order
    if requested.compile == "auto" and not second:
        planned = 0.0 if steps is None else steps * best.seconds
        best = _compiled(model, batch, best, attack, planned, measurements)
    engine.numerics = best.numerics
    told = "; ".join(str(trial) for trial in measurements)
    note = f"arithmetic: {best.numerics}, by a trial of one step each: {told}"
    if second:
        note += (
            f"; compilation not tried, as loss {method.objective.name!r} takes second derivatives"
        )
    _log.info(note)
    return note


def _candidates(requested: Numerics, batch: Batch) -> list[Numerics]:
    """fp32 first, which the others must beat."""
    if requested.precision != "auto":
        return [requested]
    layouts: list[bool | None] = [requested.channels_last]
    if requested.channels_last is None:
        images = any(leaf.ndim == 4 for leaf in leaves(batch.x))
        layouts = [False, True] if images else [False]
    precisions: list[Precision] = ["fp32", "bf16"]
    if device_of(batch.x).type == "cuda":  # processors compute it by detours
        precisions.append("fp16")
    return [
        replace(requested, precision=precision, channels_last=layout)
        for precision in precisions
        for layout in layouts
    ]


@dataclass(frozen=True)
class _Attack:
    """What one step of the weights asks of the attack.

    Attributes:
        gradients: How many gradients it takes.
        space: By what they are taken.
    """

    gradients: int
    space: Space


def _attack(method: Method) -> _Attack:
    space = method.space or InputSpace()
    if method.attack is None or not method.objective.attacked:
        return _Attack(0, space)
    first = members(method.attack, 0)[0]
    steps = getattr(getattr(first, "attack", first), "steps", STEPS)
    return _Attack(steps if isinstance(steps, int) else STEPS, space)


def _fastest(measurements: list[Measurement]) -> Measurement:
    """The fastest that was admitted, if it beats the first by more than noise."""
    first, admitted = measurements[0], [trial for trial in measurements if not trial.reason]
    best = min(admitted, key=lambda trial: trial.seconds)
    return best if best.seconds * GAIN < first.seconds else first


def _compiled(
    model: LossModel,
    batch: Batch,
    best: Measurement,
    attack: _Attack,
    planned: float,
    measurements: list[Measurement],
) -> Measurement:
    if planned < EARN * COMPILATION:
        return best
    numerics = replace(best.numerics, compile=True)
    begin = time.perf_counter()
    plain, found = _measure(model, batch, [best.numerics, numerics], attack)
    took = time.perf_counter() - begin
    saves = planned * (1 - found.seconds / plain.seconds)
    worth = found.seconds * GAIN < plain.seconds and saves > took
    measurements.append(found if worth or found.reason else replace(found, reason="not worth it"))
    return found if worth and not found.reason else best


def _measure(
    model: LossModel, batch: Batch, candidates: list[Numerics], attack: _Attack
) -> list[Measurement]:
    """Each candidate's time and whether its results are those of the first.

    An error of the first is raised; training can do without the others.
    """
    module = model.module
    flags, streams = modes.flags(module), modes.RandomState(device_of(batch.x), module)
    before = streams.get()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    held = [None if p.grad is None else p.grad.detach().clone() for p in module.parameters()]
    seconds: dict[Numerics, list[float]] = {numerics: [] for numerics in candidates}
    reasons: dict[Numerics, str] = {}
    first: tuple[Tensor, Tensor] | None = None
    begin = time.perf_counter()
    try:
        modes.begin_training(module)
        with modes.frozen_batchnorm_stats(module):
            for turn in range(1 + ROUNDS):  # the first one warms up, and compiles
                if turn > 1 and time.perf_counter() - begin > PATIENCE:
                    break
                for numerics in [n for n in candidates if n in seconds]:
                    try:
                        found, took = _step(model, batch, numerics, optimizer, attack)
                    except Exception as error:  # whatever a compiler or a missing kernel raises
                        if numerics == candidates[0]:
                            raise
                        del seconds[numerics]
                        reasons[numerics] = _failure(error)
                        continue
                    if turn > 0:
                        seconds[numerics].append(took)
                        continue
                    first = first or found
                    reasons[numerics] = _reason(first, found)
    finally:
        streams.set(before)
        modes.restore(flags)
        for parameter, grad in zip(module.parameters(), held, strict=True):
            parameter.grad = grad
    return [
        Measurement(
            numerics, statistics.median(seconds.get(numerics, [math.nan])), reasons[numerics]
        )
        for numerics in candidates
    ]


def _step(
    model: LossModel,
    batch: Batch,
    numerics: Numerics,
    optimizer: torch.optim.Optimizer,
    attack: _Attack,
) -> tuple[tuple[Tensor, Tensor], float]:
    """Loss and input gradient under ``numerics``, and what a training step would take."""
    engine = Engine()
    engine.numerics = numerics
    engine.prepare(model, optimizer)
    try:
        x, y, device = engine.place(batch.x), batch.y, device_of(batch.x)
        spent = 0.0

        def climb_once() -> tuple[Tensor, Tensor]:
            with engine.attacking(), modes.attack_mode(model.module):
                climb, space = own_loss(engine.attacked, x, y), attack.space
                z0 = space.lift(engine.attacked, x)
                values, _, slope = look(lambda z: (climb(space.insert(x, z)), z), z0)
                return values.mean(), slope

        def descend() -> None:
            optimizer.zero_grad(set_to_none=True)
            engine.backward(engine.trained.loss(engine.trained(x), y).mean())
            engine.unscale(optimizer)

        found, took = _timed(climb_once, device)
        spent += attack.gradients * took
        _, took = _timed(descend, device)
        return found, spent + took
    finally:
        engine.release(model.module)


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    _wait(device)
    begin = time.perf_counter()
    found = work()
    _wait(device)
    return found, time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _failure(error: Exception) -> str:
    """What went wrong, without what would help those who asked for the setting by name."""
    what = (str(error).splitlines() or [""])[0].partition(";")[0]
    return f"failed: {type(error).__name__}: {what}" if what else f"failed: {type(error).__name__}"


def _reason(first: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> str:
    """Why results differ too much from the first; empty if they do not."""
    (loss, slope), (own_value, own_slope) = first, own
    difference = float((own_value - loss).abs() / loss.abs().clamp_min(1e-12))
    if not difference <= LOSS_TOLERANCE:
        return f"loss differs by {difference:.1%}"
    cosine = float(
        torch.nn.functional.cosine_similarity(
            slope.double().flatten(), own_slope.double().flatten(), dim=0
        )
    )
    if not cosine >= ALIGNMENT and float(slope.norm()) > 0:
        return f"input gradients align by {cosine:.3f} only"
    return ""
