"""What every step is made of: craft, add up gradients part by part, move, measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import distributed, modes
from artplus.training.data import Batch
from artplus.training.profiling import region
from artplus.training.state import State

Gradients = Callable[[], None]
"""Called between the backward pass and the optimizer: callbacks clip or inspect gradients."""

Step = Callable[[State, Batch, Gradients], None]
"""Moves the weights on one batch."""

CLEAN_EVERY = 10
"""Steps between measurements of clean accuracy, for objectives that never look at ``x``."""


@dataclass(frozen=True)
class Crafted:
    """Adversarial examples for a batch.

    Attributes:
        x_advs: One tensor for each attack whose turn it is.
        rows: Numbers of the attacked examples; ``None`` is all. The rest is as in the batch.
    """

    x_advs: tuple[Tensor, ...]
    rows: Tensor | None = None


@dataclass(frozen=True)
class StepOutput:
    """What passed by while gradients were computed, detached.

    Attributes:
        loss: The objective on this process's examples, weighed as in the whole batch.
        clean: Predictions for ``x``, where the objective made some.
        adversarial: Predictions for the first ``x_adv``, likewise.
        rows: Numbers of the attacked examples; ``None`` is all.
    """

    loss: Tensor
    clean: Tensor | None
    adversarial: Tensor | None
    rows: Tensor | None


def craft(state: State, batch: Batch) -> Crafted:
    """Attack the batch, or the share of it that the method asks for."""
    method, size, starts = state.method, state.micro_batch, state.starts
    if size is not None and (method.slice_size is None or size < method.slice_size):
        method = replace(method, slice_size=size)
    with region("artplus: attack"), state.engine.attacking():
        rows = method.chosen(batch.x, state.generator)
        x_advs = method.craft(
            state.engine.attacked,
            batch.x,
            batch.y,
            rows=rows,
            start=None if starts is None else starts.first(state, batch),
            step=state.step,
            generator=state.generator,
        )
    if starts is not None:
        starts.found(batch, x_advs[0], rows)
    return Crafted(x_advs, rows)


def descend(state: State, batch: Batch, crafted: Crafted) -> StepOutput:
    r"""Add the gradient of the objective on the whole batch to ``.grad``.

    .. math:: \sum_{p} \nabla_\theta \sum_{i \in p} w_i L_i \Big/ \sum_i w_i

    over parts p of at most ``state.micro_batch`` examples and over all processes, so that their
    number changes nothing but rounding. BatchNorm alone sees parts: it normalises by each.
    """
    method, engine, n = state.method, state.engine, len(batch.x)
    count, x_advs = parts(state, n), crafted.x_advs
    emphasis = method.emphasis(batch.x, crafted.rows)
    if count == 1 and distributed.world_size() == 1:
        with region("artplus: terms"):
            terms = method.terms(engine.trained, batch.x, x_advs, batch.y, emphasis)
            loss = method.reduce(engine.trained, terms, batch.y, state.progress)
        with region("artplus: backward"):
            engine.backward(loss)
        return StepOutput(
            loss.detach(), _detached(terms.clean), _detached(terms.adversarial), crafted.rows
        )
    weights = method.weights(engine.trained, batch.y)
    size = batch.x.new_tensor(float(n))
    own = size if weights is None else weights.sum().to(size)
    whole, examples = distributed.all_reduce(torch.stack([own, size]))
    # Data parallelism averages the processes' gradients, so each is multiplied by their number.
    share = distributed.world_size() / whole
    loss, clean, adversarial = torch.zeros_like(share), [], []
    for k in range(count):
        rows = distributed.part(n, k, count)
        last, second = k == count - 1, method.objective.second_order
        with engine.accumulating(last=last, second_order=second):
            y, part = batch.y[rows], tuple(x_adv[rows] for x_adv in x_advs)
            own_emphasis = None if emphasis is None else emphasis[rows]
            with region("artplus: terms"):
                terms = method.terms(engine.trained, batch.x[rows], part, y, own_emphasis)
                summed = method.total(engine.trained, terms, y, state.progress) * share
            with region("artplus: backward"):
                engine.backward(summed)
        loss += summed.detach()
        clean.append(_detached(terms.clean))
        adversarial.append(_detached(terms.adversarial))
    # The meter weighs by examples: a process with fewer of them has a larger loss for each.
    loss *= examples / (distributed.world_size() * n)
    return StepOutput(loss, _joined(clean), _joined(adversarial), crafted.rows)


def parts(state: State, n: int) -> int:
    """Into how many parts a batch of ``n`` is split, each of two examples at least."""
    wanted = state.engine.accumulation
    if state.micro_batch is not None:
        wanted = max(wanted, -(-n // state.micro_batch))
    return max(1, min(wanted, n // 2))


def move(state: State, gradients: Gradients) -> None:
    """Take the optimizer's step, after the callbacks have seen the gradients."""
    with region("artplus: optimizer"):
        state.engine.unscale(state.optimizer)
        gradients()
        # Before: an optimizer that fails on its way has moved some of the weights.
        state.moves += 1
        state.engine.step(state.optimizer)


def measure(state: State, batch: Batch, seen: StepOutput) -> None:
    """Live figures from predictions that are there anyway; a clean pass now and then if not."""
    meter, model = state.meter, state.model
    meter.add("loss", seen.loss.expand(len(batch.x)))
    if not model.criterion.over_classes:
        return
    with torch.no_grad():
        clean = seen.clean
        if clean is None and ("clean_accuracy" not in meter or state.step % CLEAN_EVERY == 0):
            with state.engine.attacking(), modes.attack_mode(model.module):
                clean = state.engine.attacked(batch.x)
        if clean is not None:
            meter.add("clean_accuracy", ~model.wrong(clean, batch.y))
        if seen.adversarial is not None:
            attacked = slice(None) if seen.rows is None else seen.rows
            wrong = model.wrong(seen.adversarial[attacked], batch.y[attacked])
            meter.add("adversarial_accuracy", ~wrong)


def _detached(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach()


def _joined(found: list[Tensor | None]) -> Tensor | None:
    present = [values for values in found if values is not None]
    return torch.cat(present) if present else None
