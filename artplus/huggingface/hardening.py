"""What happens between the hooks of a Trainer: one batch at a time, and what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from artplus import distributed
from artplus.huggingface.engine import Accumulated, TrainerEngine
from artplus.huggingface.settings import Batches, Settings
from artplus.model import LossModel
from artplus.seeding import derived
from artplus.spaces import attached
from artplus.training.callbacks import default_warmup
from artplus.training.data import Batch
from artplus.training.fit import process_seed
from artplus.training.intake import measure_unit
from artplus.training.method import Method
from artplus.training.probe import probe
from artplus.training.state import Meter, State
from artplus.training.steps._base import Crafted, StepOutput
from artplus.tree import Tree, detach, size

_log = logging.getLogger(__name__)


@dataclass
class TrainerState(State):
    """The state of a step whose progress is the Trainer's.

    Attributes:
        planned: Steps of the weights that the Trainer plans.
    """

    planned: int = field(default=1, kw_only=True)

    @property
    def total_steps(self) -> int:
        """Planned number of steps."""
        return self.planned


class Hardening:
    """A run of a hardened Trainer, from its first batch on; all checks are made then.

    Args:
        trainer: Has prepared its model.
        settings: What the user asked for.
        inputs: The first batch.

    Raises:
        ConfigurationError: for what cannot work.
        DataError: for a batch without labels, or with labels that do not fit.
    """

    def __init__(self, trainer: Any, settings: Settings, inputs: Mapping[str, Any]) -> None:
        self._trainer, self._step = trainer, settings.step
        self._stack = ExitStack()
        self.wrapped = trainer.model_wrapped
        self._group: Sequence[Any] = ()
        self._totals: Tensor | None = None  # weights of the group, once summed
        with ExitStack() as stack:  # hooks are gone if a check fails
            self.state = self._state(stack, settings, inputs)
            self._stack = stack.pop_all()

    def _state(
        self, stack: ExitStack, settings: Settings, inputs: Mapping[str, Any]
    ) -> TrainerState:
        trainer = self._trainer
        engine = TrainerEngine(trainer.accelerator, self.wrapped)
        self._optimizer = Accumulated(trainer.model)
        optimizer = cast(Optimizer, self._optimizer)  # a step only clears gradients through it
        engine.prepare(LossModel(trainer.model), optimizer)
        with engine.gathered():
            self._batches = batches = Batches(settings, trainer.model, inputs)
            method, notes = batches.method, batches.notes
            batches.model = model = probe(batches.model, batches.first, method)
            hooks = None
            if method.space is not None and method.space.hidden:
                hooks = engine.hooks = stack.enter_context(attached(model.module, method.space))
                notes += measure_unit(hooks, model, batches.first, method.space)
        for note in notes:
            _log.info(note)
        engine.prepare(model, optimizer)
        seed = process_seed(derived(settings.seed, "attack"))
        state = TrainerState(
            model=model,
            optimizer=optimizer,
            method=method,
            epochs=trainer.state.num_train_epochs,
            batches_per_epoch=None,
            generator=torch.Generator(trainer.args.device).manual_seed(seed),
            engine=engine,
            hooks=hooks,
            descend=self._add_gradient,
            planned=trainer.state.max_steps,
        )
        self._warmup = settings.warmup or default_warmup(method)
        if self._warmup is not None:
            self._warmup.on_fit_begin(state)
        return state

    def __call__(self, inputs: Mapping[str, Any], group: Sequence[Any]) -> Tensor:
        """Add the gradient of one batch to ``.grad``; returns its share of the step's loss.

        Args:
            inputs: On the device.
            group: All batches of this step of the weights in this process.
        """
        state, trainer = self.state, self._trainer
        state.step, state.epoch = trainer.state.global_step, int(trainer.state.epoch or 0)
        if group is not self._group:
            self._group, self._totals = group, None
        if self._warmup is not None:
            self._warmup.on_step_begin(state)
        self._optimizer.begin(accumulates=len(group) > 1)
        cast(TrainerEngine, state.engine).begin()
        self._step(state, self._batches(inputs), _nothing)
        return self._optimizer.loss

    def _add_gradient(self, state: State, batch: Batch, crafted: Crafted) -> StepOutput:
        r"""The gradient of one batch as a share of the whole step's.

        .. math:: \nabla_\theta \sum_{i \in \text{batch}} w_i L_i
                  \Big/ \sum_{i \in \text{step}} w_i

        A step is all batches of an accumulation in all processes, so that their numbers change
        only rounding, whatever examples weigh.
        """
        method, engine, y = state.method, state.engine, batch.y
        whole, pool = self._weights(method)
        emphasis = method.emphasis(engine.trained, y, crafted.rows, pool)
        share = distributed.world_size() / whole
        second = method.objective.second_order
        with engine.accumulating(last=crafted.last, second_order=second):
            terms = method.terms(
                engine.trained,
                batch.x,
                crafted.x_advs,
                y,
                emphasis,
                progress=state.progress,
                extras=state.extras,
            )
            if len(self._group) == 1 and distributed.world_size() == 1:
                loss = method.reduce(engine.trained, terms, y, state.progress)
            else:
                loss = method.total(engine.trained, terms, y, state.progress) * share
            engine.backward(loss if crafted.share == 1 else loss * crafted.share)
        self._optimizer.loss += loss.detach() * crafted.share
        weights = method.weights(engine.trained, y)
        for name, term in (("fixed_loss", terms.fixed), ("scaled_loss", terms.scaled)):
            if term is not None:
                weighted = term if weights is None else term * weights.to(term)
                # Times the number of batches, so that the meter's mean is that of whole steps.
                value = weighted.detach().sum() * share * len(self._group)
                state.meter.add(name, value.reshape(1))
        predictions = detach(terms.clean), detach(terms.adversarial)
        attacked = crafted.count(len(batch)) * len(self._group)  # as above
        return StepOutput(loss.detach(), *predictions, crafted.rows, attacked)

    def _weights(self, method: Method) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What all examples of the step weigh, and how the emphasis pools its sums over them."""
        model = self.state.model
        if self._totals is None:
            sums = [_sums(method, model, self._batches(inputs).y) for inputs in self._group]
            device = self.state.generator.device
            self._totals = distributed.all_reduce(torch.stack([s.to(device) for s in sums]).sum(0))
        totals = self._totals
        if len(self._group) == 1:
            return totals[0], distributed.all_reduce
        return totals[0], lambda _: totals

    def figures(self) -> dict[str, float]:
        """Means over the steps since the last call, for the log; all processes must call it."""
        state = self.state
        figures = state.meter.pool()
        figures.pop("loss", None)  # which the Trainer logs itself
        state.meter = Meter()
        return figures | {"lam": state.method.objective.weight(state.progress)}

    def state_dict(self) -> dict[str, Any]:
        """What this process needs to continue, as tensors and plain data."""
        hooks = self.state.hooks
        unit = None if hooks is None else hooks.unit
        return {"unit": unit, "local": self.state.local_state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if self.state.hooks is not None:
            self.state.hooks.unit = saved["unit"]  # measured on the initial weights
        self.state.load_local_state_dict(saved["local"])

    def close(self) -> None:
        """Take the hooks away."""
        self._stack.close()


def _nothing() -> None:
    """Clipping is the Trainer's."""


def _sums(method: Method, model: LossModel, y: Tree) -> Tensor:
    """What the examples of a batch weigh: all, those of the fixed and those of the scaled term."""
    weights = method.weights(model, y)
    total = torch.tensor(float(size(y))) if weights is None else weights.sum().float()
    sums = [total.expand(3)]

    def keep(counted: Tensor) -> Tensor:
        sums.append(counted)
        return counted

    method.emphasis(model, y, None, keep)
    return sums[-1]
