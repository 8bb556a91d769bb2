"""What every step is made of: craft, add up gradients part by part, move, measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.profiler import record_function

from artplus import modes, ranks
from artplus.training.data import Batch
from artplus.training.state import State

Gradients = Callable[[], None]
"""Called between the backward pass and the optimizer: callbacks clip or inspect gradients."""

Step = Callable[[State, Batch, Gradients], None]
"""Moves the weights on one batch."""

CLEAN_EVERY = 10
"""Steps between measurements of clean accuracy, for objectives that never look at ``x``."""


@dataclass(frozen=True)
class Seen:
    """What passed by while gradients were computed, detached.

    Attributes:
        loss: The objective on this process's examples, weighed as in the whole batch.
        clean: Predictions for ``x``, where the objective made some.
        adversarial: Predictions for the first ``x_adv``, likewise.
    """

    loss: Tensor
    clean: Tensor | None
    adversarial: Tensor | None


def craft(state: State, batch: Batch) -> tuple[Tensor, ...]:
    """Adversarial examples for the batch: one tensor for each attack whose turn it is."""
    method, size = state.method, state.micro_batch
    if size is not None and (method.slice_size is None or size < method.slice_size):
        method = replace(method, slice_size=size)
    with record_function("artplus: attack"), state.engine.attacking():
        return method.craft(
            state.engine.attacked, batch.x, batch.y, step=state.step, generator=state.generator
        )


def descend(state: State, batch: Batch, x_advs: tuple[Tensor, ...]) -> Seen:
    r"""Add the gradient of the objective on the whole batch to ``.grad``.

    .. math:: \sum_{p} \nabla_\theta \sum_{i \in p} w_i L_i \Big/ \sum_i w_i

    over parts p of at most ``state.micro_batch`` examples and over all processes, so that their
    number changes nothing but rounding. BatchNorm alone sees parts: it normalises by each.
    """
    method, engine, n = state.method, state.engine, len(batch.x)
    count = parts(state, n)
    if count == 1 and ranks.ranks() == 1:
        with record_function("artplus: terms"):
            terms = method.terms(engine.trained, batch.x, x_advs, batch.y)
            loss = method.reduce(engine.trained, terms, batch.y, state.progress)
        with record_function("artplus: backward"):
            engine.backward(loss)
        return Seen(loss.detach(), _detached(terms.clean), _detached(terms.adversarial))
    weights = method.weights(engine.trained, batch.y)
    own = batch.x.new_tensor(float(n)) if weights is None else weights.sum()
    # Data parallelism averages the processes' gradients, so each is multiplied by their number.
    share = ranks.ranks() / ranks.total(own)
    loss, clean, adversarial = torch.zeros_like(share), [], []
    for k in range(count):
        rows = ranks.part(n, k, count)
        with engine.accumulating(last=k == count - 1):
            y, part = batch.y[rows], tuple(x_adv[rows] for x_adv in x_advs)
            with record_function("artplus: terms"):
                terms = method.terms(engine.trained, batch.x[rows], part, y)
                summed = method.total(engine.trained, terms, y, state.progress) * share
            with record_function("artplus: backward"):
                engine.backward(summed)
        loss += summed.detach()
        clean.append(_detached(terms.clean))
        adversarial.append(_detached(terms.adversarial))
    return Seen(loss, _joined(clean), _joined(adversarial))


def parts(state: State, n: int) -> int:
    """Into how many parts a batch of ``n`` is split, each of two examples at least."""
    wanted = state.engine.accumulation
    if state.micro_batch is not None:
        wanted = max(wanted, -(-n // state.micro_batch))
    return max(1, min(wanted, n // 2))


def move(state: State, gradients: Gradients) -> None:
    """Take the optimizer's step, after the callbacks have seen the gradients."""
    with record_function("artplus: optimizer"):
        state.engine.unscale(state.optimizer)
        gradients()
        state.engine.step(state.optimizer)
        state.moves += 1


def measure(state: State, batch: Batch, seen: Seen) -> None:
    """Live figures from predictions that are there anyway; a clean pass now and then if not."""
    meter, model = state.meter, state.model
    meter.add("loss", seen.loss.expand(len(batch.x)))
    if not model.criterion.over_classes:
        return
    with torch.no_grad():
        clean = seen.clean
        if clean is None and ("clean_accuracy" not in meter or state.step % CLEAN_EVERY == 0):
            with modes.crafting(model.module), state.engine.attacking():
                clean = state.engine.attacked(batch.x)
        if clean is not None:
            meter.add("clean_accuracy", ~model.wrong(clean, batch.y))
        if seen.adversarial is not None:
            meter.add("adversarial_accuracy", ~model.wrong(seen.adversarial, batch.y))


def _detached(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach()


def _joined(found: list[Tensor | None]) -> Tensor | None:
    present = [values for values in found if values is not None]
    return torch.cat(present) if present else None
