"""One step of the weights in parts: the batches of an accumulation, in all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from artplus import distributed
from artplus.errors import ConfigurationError
from artplus.losses import Terms
from artplus.model import LossModel
from artplus.training.method import NO_EMPHASIS, NO_EXTRAS, Emphasis, Method
from artplus.training.state import Meter
from artplus.tree import Tree, size


@dataclass
class Accumulation:
    r"""What the examples of each batch weigh, so that a step is the mean over all of them.

    .. math:: \nabla_\theta L = \sum_b \frac{W_b}{\sum_c W_c} \nabla_\theta L_b

    with :math:`L_b` the weighted mean over batch b in all processes. A mean of the means would
    weigh a token of a batch of short sentences more than one of long sentences.

    Attributes:
        sums: ``(batches, 3)``: what weigh all examples of a batch, those that the fixed term counts
            and those that the scaled term counts, over all processes.
        batch: Number of the present batch.
        meter: Gets each batch's share of both terms.
        batches: Batches since the last log.
        steps: Steps of the weights since the last log.
    """

    sums: Tensor = field(default_factory=lambda: torch.ones(1, 3))
    batch: int = 0
    meter: Meter = field(default_factory=Meter)
    batches: int = 0
    steps: int = 0

    def open(self, method: Method, model: LossModel, labels: Sequence[Tree]) -> None:
        """Begin a step of the weights.

        Args:
            method: Says what the terms count.
            model: Its task says what examples weigh.
            labels: The targets of each batch.

        Raises:
            ConfigurationError: for a random share of examples that a term counts by itself, of
                which later batches are not drawn yet.
        """
        if len(labels) > 1 and method.objective.counts is not None and method.attack_share < 1:
            raise ConfigurationError(
                f"loss {method.objective.name!r} counts the examples of each term, and "
                "attack_share draws from them batch by batch, so their number in an accumulation "
                "is not known; use gradient_accumulation_steps=1, or leave out attack_share"
            )
        sums = torch.stack([_sums(method, model, y) for y in labels])
        self.sums = distributed.all_reduce(sums)
        self.steps += 1

    def enter(self, batch: int) -> None:
        """Begin a batch of the step."""
        self.batch = batch
        self.batches += 1

    @property
    def share(self) -> Tensor | None:
        """What the present batch weighs among all; ``None`` if it is the only one."""
        return None if len(self.sums) == 1 else self.sums[self.batch, 0] / self.sums[:, 0].sum()

    def record(self, name: str, term: Tensor | None, weights: Tensor | None) -> None:
        """Add this process's part of the step's mean of a term."""
        if term is None:
            return
        weighted = term.detach() if weights is None else term.detach() * weights.to(term)
        scale = distributed.world_size() / self.sums[:, 0].sum()
        self.meter.add(name, weighted.sum().reshape(1) * scale)


@dataclass(frozen=True, kw_only=True)
class AccumulatedMethod(Method):
    """A method whose terms are means over all batches of an accumulation.

    Attributes:
        accumulation: The present step of the weights.
    """

    accumulation: Accumulation

    def emphasis(
        self,
        model: LossModel,
        y: Tree,
        rows: Tensor | None,
        pool: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> Emphasis:
        """As the method's, with sums over all batches of the step."""
        sums = self.accumulation.sums
        return super().emphasis(model, y, rows, pool if len(sums) == 1 else lambda _: sums.sum(0))

    def terms(
        self,
        model: LossModel,
        x: Tree,
        x_advs: Sequence[Tree],
        y: Tree,
        emphasis: Emphasis = NO_EMPHASIS,
        *,
        progress: float = 0.0,
        extras: Mapping[str, Tree] = NO_EXTRAS,
    ) -> Terms:
        """As the method's, recorded for the log."""
        terms = super().terms(model, x, x_advs, y, emphasis, progress=progress, extras=extras)
        weights = self.weights(model, y)
        self.accumulation.record("fixed_loss", terms.fixed, weights)
        self.accumulation.record("scaled_loss", terms.scaled, weights)
        return terms


def accumulated(method: Method, accumulation: Accumulation) -> AccumulatedMethod:
    """The method over an accumulation."""
    settings: dict[str, Any] = {name: getattr(method, name) for name in method.__dataclass_fields__}
    return AccumulatedMethod(**settings, accumulation=accumulation)


def _sums(method: Method, model: LossModel, y: Tree) -> Tensor:
    """What the examples of a batch weigh: all, those of the fixed and those of the scaled term."""
    weights = method.weights(model, y)
    total = torch.tensor(float(size(y))) if weights is None else weights.sum().float()
    sums = [total.expand(3)]

    def keep(counted: Tensor) -> Tensor:
        sums.append(counted)
        return counted

    Method.emphasis(method, model, y, None, keep)  # of this batch alone
    return sums[-1]
