"""The parts of every step: craft, accumulate gradients part by part, move, measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import distributed, modes
from artplus.functional import labelled
from artplus.training.data import Batch
from artplus.training.profiling import region
from artplus.training.state import State
from artplus.tree import Tree, concat, detach, device_of, take

Gradients = Callable[[], None]
"""Called between backward pass and optimizer step, where callbacks clip or inspect gradients."""

Step = Callable[[State, Batch, Gradients], None]
"""Updates the weights on one batch."""

CLEAN_EVERY = 10
"""Steps between measurements of clean accuracy, for objectives without predictions for ``x``."""


@dataclass(frozen=True)
class Crafted:
    """Adversarial examples for a batch.

    Attributes:
        x_advs: One tree for each attack whose turn it is.
        rows: Indices of the attacked examples; ``None`` is all. The others are as in the batch.
        attacked: Whether these are adversarial examples that count: not the clean ones at λ = 0,
            nor the one that stands in where the scaled term counts none.
        share: Share of this pass in the gradient of the step, for steps of several passes.
        last: Whether no further pass of the step follows, so that processes may exchange gradients.
    """

    x_advs: tuple[Tree, ...]
    rows: Tensor | None = None
    attacked: bool = True
    share: float = 1.0
    last: bool = True

    def count(self, n: int) -> int:
        """Number of adversarial examples for a batch of ``n``."""
        return len(self.x_advs) * (n if self.rows is None else len(self.rows)) * self.attacked


@dataclass(frozen=True)
class StepOutput:
    """Detached results of the pass that computed the gradients.

    Attributes:
        loss: The objective on this process's examples, weighted as in the whole batch.
        clean: Predictions for ``x``, if the objective made them, else ``None``.
        adversarial: Predictions for the first ``x_adv``, likewise.
        rows: Indices of the attacked examples; ``None`` is all.
        attacked: Number of adversarial examples that the gradient was taken at.
    """

    loss: Tensor
    clean: Tree
    adversarial: Tree
    rows: Tensor | None
    attacked: int = 0


def craft(state: State, batch: Batch) -> Crafted:
    """Attack the batch, or the share of it that the method asks for."""
    method, size, starts = state.method, state.micro_batch, state.starts
    if size is not None and (method.slice_size is None or size < method.slice_size):
        method = replace(method, slice_size=size)
    with region("artplus: attack"), state.engine.attacking():
        rows = method.chosen(batch.x, batch.y, state.generator)
        x_advs = method.craft(
            state.engine.attacked,
            batch.x,
            batch.y,
            rows=rows,
            start=None if starts is None else starts.first(state, batch),
            step=state.step,
            progress=state.progress,
            generator=state.generator,
        )
    if starts is not None:
        starts.found(state, batch, x_advs[0], rows)
    return Crafted(x_advs, rows, attacked=method.attacks(state.progress) and method.scales(batch.y))


def descend(state: State, batch: Batch, crafted: Crafted) -> StepOutput:
    """Fill ``.grad`` by :func:`add_gradient`, or as a step that wraps this one does it."""
    return (state.descend or add_gradient)(state, batch, crafted)


def add_gradient(state: State, batch: Batch, crafted: Crafted) -> StepOutput:
    r"""Add the gradient of the objective on the whole batch to ``.grad``.

    .. math:: \sum_{p} \nabla_\theta \sum_{i \in p} w_i L_i \Big/ \sum_i w_i

    over parts p of at most ``state.micro_batch`` examples and over all processes, so that their
    number changes only rounding, and BatchNorm, which normalises each part by itself. It is
    multiplied by the pass's share of the step.
    """
    method, engine, n = state.method, state.engine, len(batch)
    count, x_advs, attacked = parts(state, n), crafted.x_advs, crafted.count(n)
    emphasis = method.emphasis(engine.trained, batch.y, crafted.rows, distributed.all_reduce)
    if count == 1 and distributed.world_size() == 1:
        with region("artplus: terms"):
            terms = method.terms(
                engine.trained,
                batch.x,
                x_advs,
                batch.y,
                emphasis,
                progress=state.progress,
                extras=state.extras,
            )
            loss = method.reduce(engine.trained, terms, batch.y, state.progress)
        with region("artplus: backward"):
            engine.backward(loss if crafted.share == 1 else loss * crafted.share)
        predictions = detach(terms.clean), detach(terms.adversarial)
        return StepOutput(loss.detach(), *predictions, crafted.rows, attacked)
    weights = method.weights(engine.trained, batch.y)
    count_here = torch.tensor(float(n), device=device_of(batch.x))
    weight = count_here if weights is None else weights.sum().to(count_here)
    total_weight, examples = distributed.all_reduce(torch.stack([weight, count_here]))
    # Data parallelism averages the processes' gradients, so each is multiplied by their number.
    share = distributed.world_size() / total_weight
    loss, clean, adversarial = torch.zeros_like(share), [], []
    for k in range(count):
        rows = distributed.part(n, k, count)
        last, second = crafted.last and k == count - 1, method.objective.second_order
        extras = {name: take(value, rows) for name, value in state.extras.items()}
        with engine.accumulating(last=last, second_order=second):
            x, y = take(batch.x, rows), take(batch.y, rows)
            part = tuple(take(x_adv, rows) for x_adv in x_advs)
            with region("artplus: terms"):
                terms = method.terms(
                    engine.trained,
                    x,
                    part,
                    y,
                    emphasis.take(rows),
                    progress=state.progress,
                    extras=extras,
                )
                summed = method.total(engine.trained, terms, y, state.progress) * share
            with region("artplus: backward"):
                engine.backward(summed if crafted.share == 1 else summed * crafted.share)
        loss += summed.detach()
        clean.append(detach(terms.clean))
        adversarial.append(detach(terms.adversarial))
    # The meter counts examples: a process with fewer of them gets a larger loss for each.
    loss *= examples / (distributed.world_size() * n)
    return StepOutput(loss, _concat(clean), _concat(adversarial), crafted.rows, attacked)


def parts(state: State, n: int) -> int:
    """Number of parts that a batch of ``n`` is split into, each of at least two examples."""
    count = state.engine.accumulation
    if state.micro_batch is not None:
        count = max(count, -(-n // state.micro_batch))
    return max(1, min(count, n // 2))


def move(state: State, gradients: Gradients) -> None:
    """Take the optimizer's step, after the callbacks have seen the gradients."""
    with region("artplus: optimizer"):
        state.engine.unscale(state.optimizer)
        gradients()
        # Counted before the step: an optimizer that fails has already moved some weights.
        state.moves += 1
        state.engine.step(state.optimizer)


def measure(state: State, batch: Batch, output: StepOutput) -> None:
    """Live figures from the predictions of the step.

    If the step made no clean predictions, every :data:`CLEAN_EVERY` steps one clean pass does.
    """
    meter, model = state.meter, state.model
    meter.add("loss", output.loss.expand(len(batch)))
    # One value a step; the meter averages over processes, and this is their sum.
    total = output.attacked * distributed.world_size()
    meter.add("adversarial_examples", output.loss.new_full((1,), total))
    with torch.no_grad():
        clean = output.clean
        due = "clean_accuracy" not in meter or state.step % CLEAN_EVERY == 0
        if clean is None and due and model.task.over_classes:
            with state.engine.attacking(), modes.attack_mode(model.module):
                clean = state.engine.attacked(batch.x)
        if clean is not None:
            _add(state, "clean_accuracy", clean, batch.y)
        if output.adversarial is not None:
            adversarial, y = output.adversarial, batch.y
            rows = output.rows if output.attacked else slice(0, 0)  # each process adds its figure
            if rows is not None:
                adversarial, y = take(adversarial, rows), take(y, rows)
            _add(state, "adversarial_accuracy", adversarial, y)


def _add(state: State, name: str, predictions: Tree, y: Tree) -> None:
    """Count what is right of the labelled examples, if the task has right and wrong."""
    correct = state.model.task.correct(predictions, y)
    if correct is None:
        return
    classes = state.model.task.over_classes and state.method.objective.unlabelled
    known = labelled(y) if classes else None
    state.meter.add(name, correct if known is None else correct[known])


def _concat(parts: list[Tree]) -> Tree:
    present = [part for part in parts if part is not None]
    return concat(present) if present else None
