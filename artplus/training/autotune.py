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
"""Speed-up over fp32 that a setting must reach; smaller ones are within the noise of a trial."""

ROUNDS = 3
"""Timings of each setting, taken in turns; their median is used."""

PATIENCE = 20.0
"""Seconds after which no further round starts."""

EARN = 3.0
"""Compilation is tried if training is at least this many times longer than :data:`COMPILATION`, and
chosen if it saves more time over the training than it took."""

COMPILATION = 40.0
"""Estimated seconds of compilation: two graphs, on a CPU."""

STEPS = 10
"""Assumed gradient steps of an attack without ``steps``."""

LOSS_TOLERANCE = 0.02
"""Largest relative difference of the batch's mean loss between a lower precision and fp32."""

ALIGNMENT = 0.99
"""Least cosine between the input gradients in a lower precision and in fp32, over the batch."""


@dataclass(frozen=True)
class Measurement:
    """One setting as measured.

    Attributes:
        numerics: The setting.
        seconds: One training step: the attack's gradients and the weights' pass; NaN if it failed.
        reason: Why the setting was rejected; empty if it was accepted.
    """

    numerics: Numerics
    seconds: float
    reason: str = ""

    def __str__(self) -> str:
        duration = "" if math.isnan(self.seconds) else f" {self.seconds * 1e3:.3g} ms"
        return f"{self.numerics}{duration}{self.reason and f' ({self.reason})'}"


def choose_precision(
    engine: Engine,
    model: LossModel,
    method: Method,
    batch: Batch,
    *,
    steps: int | None,
) -> str:
    """Choose the settings that are ``"auto"`` in ``engine``; return a note of the choice.

    It tries fp32, bf16 and on a GPU fp16, each also with channels last if inputs are images; then,
    if the training is long enough, the fastest of them compiled. A lower precision is accepted if
    mean loss and input gradients on the batch agree with fp32 within :data:`LOSS_TOLERANCE` and
    :data:`ALIGNMENT`. A setting that raises an error is left out, and the note says why. Torch's
    compiler has no second derivatives, so objectives that take them stay uncompiled. The choice
    depends on the machine and its load, so two runs may differ; a resumed run keeps its first
    choice. Weights, buffers and random streams are left unchanged.

    Args:
        engine: Not prepared, with a setting that is ``"auto"``.
        model: Not wrapped.
        method: Its attack determines the number of input gradients per step of the weights.
        batch: As large as those of the training.
        steps: Planned steps of the weights. ``None`` is unknown; then nothing is compiled.
    """
    requested = engine.requested
    attack = _attack(method)
    fixed = replace(requested, compile=False) if requested.compile == "auto" else requested
    measurements = _measure(model, batch, _candidates(fixed, batch), attack)
    best = _fastest(measurements)
    uncompilable = requested.compile == "auto" and method.objective.second_order
    if requested.compile == "auto" and not uncompilable:
        planned = 0.0 if steps is None else steps * best.seconds
        best = _compiled(model, batch, best, attack, planned, measurements)
    engine.numerics = best.numerics
    trials = "; ".join(map(str, measurements))
    note = f"arithmetic: {best.numerics}, by a trial of one step each: {trials}"
    if uncompilable:
        note += (
            f"; compilation not tried, as loss {method.objective.name!r} takes second derivatives"
        )
    _log.info(note)
    return note


def _candidates(requested: Numerics, batch: Batch) -> list[Numerics]:
    """The settings to try; fp32, which the others must beat, comes first."""
    if requested.precision != "auto":
        return [requested]
    layouts: list[bool | None] = [requested.channels_last]
    if requested.channels_last is None:
        images = any(leaf.ndim == 4 for leaf in leaves(batch.x))
        layouts = [False, True] if images else [False]
    precisions: list[Precision] = ["fp32", "bf16"]
    if device_of(batch.x).type == "cuda":  # CPUs emulate it
        precisions.append("fp16")
    return [
        replace(requested, precision=precision, channels_last=layout)
        for precision in precisions
        for layout in layouts
    ]


@dataclass(frozen=True)
class _Attack:
    """The attack's work in one step of the weights.

    Attributes:
        gradients: Number of gradients.
        space: What the gradients are taken by.
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
    """The fastest accepted setting, if it beats the first by more than noise."""
    first, accepted = measurements[0], [trial for trial in measurements if not trial.reason]
    best = min(accepted, key=lambda trial: trial.seconds)
    return best if best.seconds * GAIN < first.seconds else first


def _compiled(
    model: LossModel,
    batch: Batch,
    best: Measurement,
    attack: _Attack,
    planned: float,
    measurements: list[Measurement],
) -> Measurement:
    """``best`` compiled, if that saves time over the ``planned`` seconds of training."""
    if planned < EARN * COMPILATION:
        return best
    numerics = replace(best.numerics, compile=True)
    begin = time.perf_counter()
    plain, compiled = _measure(model, batch, [best.numerics, numerics], attack)
    cost = time.perf_counter() - begin
    saving = planned * (1 - compiled.seconds / plain.seconds)
    pays = compiled.seconds * GAIN < plain.seconds and saving > cost
    if not pays and not compiled.reason:
        compiled = replace(compiled, reason="not worth it")
    measurements.append(compiled)
    return best if compiled.reason else compiled


def _measure(
    model: LossModel, batch: Batch, candidates: list[Numerics], attack: _Attack
) -> list[Measurement]:
    """The time of each candidate, and whether its results agree with those of the first.

    An error in the first is raised; any other candidate is then left out.
    """
    module = model.module
    flags, streams = modes.flags(module), modes.RandomState(device_of(batch.x), module)
    before = streams.get()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    grads = [None if p.grad is None else p.grad.detach().clone() for p in module.parameters()]
    seconds: dict[Numerics, list[float]] = {numerics: [] for numerics in candidates}
    reasons: dict[Numerics, str] = {}
    first: tuple[Tensor, Tensor] | None = None
    begin = time.perf_counter()
    try:
        modes.begin_training(module)
        with modes.frozen_batchnorm_stats(module):
            for turn in range(1 + ROUNDS):  # the first turn warms up and compiles
                if turn > 1 and time.perf_counter() - begin > PATIENCE:
                    break
                for numerics in [n for n in candidates if n in seconds]:
                    try:
                        results, duration = _step(model, batch, numerics, optimizer, attack)
                    except Exception as error:  # whatever a compiler or a missing kernel raises
                        if numerics == candidates[0]:
                            raise
                        del seconds[numerics]
                        reasons[numerics] = _failure(error)
                        continue
                    if turn > 0:
                        seconds[numerics].append(duration)
                        continue
                    first = first or results
                    reasons[numerics] = _reason(first, results)
    finally:
        streams.set(before)
        modes.restore(flags)
        for parameter, grad in zip(module.parameters(), grads, strict=True):
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
    """Loss and input gradient under ``numerics``, and the seconds of a training step."""
    engine = Engine()
    engine.numerics = numerics
    engine.prepare(model, optimizer)
    try:
        x, y, device = engine.place(batch.x), batch.y, device_of(batch.x)

        def gradient_of_attack() -> tuple[Tensor, Tensor]:
            with engine.attacking(), modes.attack_mode(model.module):
                loss, space = own_loss(engine.attacked, x, y), attack.space
                z0 = space.lift(engine.attacked, x)
                losses, _, grad = look(lambda z: (loss(space.insert(x, z)), z), z0)
                return losses.mean(), grad

        def pass_of_weights() -> None:
            optimizer.zero_grad(set_to_none=True)
            engine.backward(engine.trained.loss(engine.trained(x), y).mean())
            engine.unscale(optimizer)

        results, per_gradient = _timed(gradient_of_attack, device)
        _, per_pass = _timed(pass_of_weights, device)
        return results, attack.gradients * per_gradient + per_pass
    finally:
        engine.release(model.module)


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    _wait(device)
    begin = time.perf_counter()
    result = work()
    _wait(device)
    return result, time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _failure(error: Exception) -> str:
    """The error's first line up to a semicolon, after which remedies for explicit settings come."""
    cause = (str(error).splitlines() or [""])[0].partition(";")[0]
    return f"failed: {type(error).__name__}" + (f": {cause}" if cause else "")


def _reason(first: tuple[Tensor, Tensor], results: tuple[Tensor, Tensor]) -> str:
    """How results differ too much from the first; empty if they do not."""
    (first_loss, first_grad), (loss, grad) = first, results
    difference = float((loss - first_loss).abs() / first_loss.abs().clamp_min(1e-12))
    if not difference <= LOSS_TOLERANCE:
        return f"loss differs by {difference:.1%}"
    cosine = float(
        torch.nn.functional.cosine_similarity(
            first_grad.double().flatten(), grad.double().flatten(), dim=0
        )
    )
    if not cosine >= ALIGNMENT and float(first_grad.norm()) > 0:
        return f"input gradients align by {cosine:.3f} only"
    return ""
