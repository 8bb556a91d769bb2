"""What happens between the hooks of a Trainer: one batch at a time, and what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from artplus.huggingface.accumulation import Accumulation, accumulated
from artplus.huggingface.engine import Gradients, TrainerEngine
from artplus.huggingface.settings import Batches, Settings
from artplus.model import LossModel
from artplus.seeding import derived
from artplus.spaces import attached
from artplus.training.callbacks import default_warmup
from artplus.training.fit import process_seed
from artplus.training.intake import measure_unit
from artplus.training.probe import probe
from artplus.training.state import Meter, State

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
        self._accumulation = Accumulation()
        with ExitStack() as stack:  # hooks are gone if a check fails
            self.state = self._state(stack, settings, inputs)
            self._stack = stack.pop_all()

    def _state(
        self, stack: ExitStack, settings: Settings, inputs: Mapping[str, Any]
    ) -> TrainerState:
        trainer = self._trainer
        self._engine = engine = TrainerEngine(trainer.accelerator, self.wrapped, self._accumulation)
        self._gradients = Gradients(engine, trainer.model)
        optimizer = cast(Optimizer, self._gradients)  # a step only clears gradients through it
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
            method=accumulated(method, self._accumulation),
            epochs=trainer.state.num_train_epochs,
            batches_per_epoch=None,
            generator=torch.Generator(trainer.args.device).manual_seed(seed),
            engine=engine,
            hooks=hooks,
            planned=trainer.state.max_steps,
        )
        self._warmup = settings.warmup or default_warmup(method)
        if self._warmup is not None:
            self._warmup.on_fit_begin(state)
        return state

    def __call__(self, inputs: Mapping[str, Any], position: int, group: Sequence[Any]) -> Tensor:
        """Add the gradient of one batch to ``.grad``; returns its share of the step's loss.

        Args:
            inputs: The batch, on the device.
            position: Its number in the group.
            group: All batches of this step of the weights in this process.
        """
        state, trainer, method = self.state, self._trainer, self.state.method
        state.step, state.epoch = trainer.state.global_step, int(trainer.state.epoch or 0)
        batch = self._batches(inputs)
        if group is not self._group:
            others = [one for k, one in enumerate(group) if k != position]
            labels = [self._batches(trainer._prepare_inputs(one)).y for one in others]
            labels.insert(position, batch.y)
            self._accumulation.open(method, state.model, labels)
            self._group = group
        self._accumulation.enter(position)
        if self._warmup is not None:
            self._warmup.on_step_begin(state)
        self._engine.begin()
        self._gradients.begin(accumulates=len(group) > 1)
        self._step(state, batch, _nothing)
        return self._engine.loss

    def figures(self) -> dict[str, float]:
        """Means over the steps since the last call, for the log; all processes must call it."""
        accumulation = self._accumulation
        figures = self.state.meter.pool() | accumulation.meter.pool()
        figures.pop("loss", None)  # which the Trainer logs itself
        for name in ("fixed_loss", "scaled_loss", "adversarial_examples"):
            if name in figures:  # means over batches of what adds up over a step
                figures[name] *= accumulation.batches / accumulation.steps
        self.state.meter, accumulation.meter = Meter(), Meter()
        accumulation.batches = accumulation.steps = 0
        return figures | {"lam": self.state.method.objective.weight(self.state.progress)}

    def state_dict(self) -> dict[str, Any]:
        """What this process needs to continue, as tensors and plain data."""
        hooks, accumulation = self.state.hooks, self._accumulation
        return {
            "unit": None if hooks is None else hooks.unit,
            "local": self.state.local_state_dict(),
            "terms": accumulation.meter.state_dict(),
            "counts": [accumulation.batches, accumulation.steps],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        state, accumulation = self.state, self._accumulation
        if state.hooks is not None:
            state.hooks.unit = saved["unit"]  # measured on the initial weights
        state.load_local_state_dict(saved["local"])
        accumulation.meter.load_state_dict(saved["terms"], state.generator.device)
        accumulation.batches, accumulation.steps = saved["counts"]

    def close(self) -> None:
        """Take the hooks away."""
        self._stack.close()


def _nothing() -> None:
    """Clipping is the Trainer's."""
