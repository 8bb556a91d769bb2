"""What happens between the hooks of a Trainer: one batch at a time, and what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from artplus import distributed
from artplus.attacks import Attack
from artplus.bounds import inferred_space
from artplus.huggingface.engine import Accumulated, TrainerEngine
from artplus.model import LossModel, as_loss_model
from artplus.seeding import derived
from artplus.spaces import InputSpace, attached
from artplus.spaces.hidden import parameters
from artplus.tasks import Task
from artplus.training.callbacks import EpsWarmup, default_warmup
from artplus.training.columns import split, with_targets
from artplus.training.data import Arrays, Batch
from artplus.training.fit import process_seed
from artplus.training.intake import measure_unit
from artplus.training.method import Method, check_radii
from artplus.training.probe import infer_task, probe
from artplus.training.state import Meter, State
from artplus.training.steps import Step
from artplus.training.steps._base import Crafted, StepOutput
from artplus.tree import Tree, detach, device_of, size, take

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the user asks for beside the Trainer's own arguments.

    Attributes:
        method: Objective, attack and space.
        step: Fills the gradients on a batch.
        warmup: Raises the radius; ``None`` is the default for large radii.
        criterion: The model's own loss; ``None`` is its task's usual one.
        task: What predictions and targets mean.
        eval_attack: Attacks evaluation data.
        seed: Of attacks.
    """

    method: Method
    step: Step
    warmup: EpsWarmup | None = None
    criterion: Callable[..., Tensor] | None = None
    task: str | Task = "auto"
    eval_attack: Attack | None = None
    seed: int = 0


class Columns:
    """Turns a Trainer's batches into inputs and targets of its model."""

    def __init__(self, model: LossModel) -> None:
        self._arguments = parameters(model.module)
        self.gives_targets = model.task.in_model

    def __call__(self, inputs: Mapping[str, Any]) -> Batch:
        """Inputs and targets of a batch.

        Raises:
            DataError: if there are no labels.
        """
        x, y = split(inputs, self._arguments)
        return Batch(with_targets(x, y, self._arguments) if self.gives_targets else x, y)


def bound_model(settings: Settings, module: Any, inputs: Mapping[str, Any]) -> tuple[Any, Columns]:
    """The model with the task that its class or its first batch implies, and its columns."""
    model = as_loss_model(module, settings.criterion, settings.task)
    columns = Columns(model)
    if settings.task == "auto":
        model = infer_task(model, columns(inputs))
        columns.gives_targets = model.task.in_model
    return model, columns


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
        self._loss = torch.zeros(())
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
            model, self._columns = bound_model(settings, trainer.model, inputs)
            batch = self._columns(inputs)
            device = device_of(batch.x)
            method = _with_space(settings.method, batch.x)
            source = Arrays(batch.x, batch.y, size(batch.y), None, device=device)
            model = probe(model, source, method)
            hooks = None
            if method.space is not None and method.space.hidden:
                hooks = stack.enter_context(attached(model.module, method.space))
                engine.hooks = hooks
                for note in measure_unit(hooks, model, source, method.space):
                    _log.info(note)
        engine.prepare(model, optimizer)
        seed = process_seed(derived(settings.seed, "attack"))
        state = TrainerState(
            model=model,
            optimizer=optimizer,
            method=method,
            epochs=trainer.state.num_train_epochs,
            batches_per_epoch=None,
            generator=torch.Generator(device).manual_seed(seed),
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
        self._step(state, self._columns(inputs), _nothing)
        return self._loss

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
        with engine.accumulating(last=True, second_order=method.objective.second_order):
            terms = method.terms(
                engine.trained, batch.x, crafted.x_advs, y, emphasis, progress=state.progress
            )
            if len(self._group) == 1 and distributed.world_size() == 1:
                loss = method.reduce(engine.trained, terms, y, state.progress)
            else:
                loss = method.total(engine.trained, terms, y, state.progress) * share
            engine.backward(loss)
        self._loss = loss.detach()
        weights = method.weights(engine.trained, y)
        for name, term in (("fixed_loss", terms.fixed), ("scaled_loss", terms.scaled)):
            if term is not None:
                weighted = term if weights is None else term * weights.to(term)
                self._measure(state, name, weighted.detach().sum() * share)
        if method.attacks(state.progress):
            factors = emphasis.scaled
            count = share.new_tensor(len(batch)) if factors is None else (factors > 0).sum()
            self._measure(state, "adversarial_examples", count * distributed.world_size())
        return StepOutput(self._loss, detach(terms.clean), detach(terms.adversarial), crafted.rows)

    def _weights(self, method: Method) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What all examples of the step weigh, and how the emphasis pools its sums over them."""
        model = self.state.model
        if self._totals is None:
            sums = [_sums(method, model, self._columns(inputs).y) for inputs in self._group]
            device = self.state.generator.device
            self._totals = distributed.all_reduce(torch.stack([s.to(device) for s in sums]).sum(0))
        totals = self._totals
        if len(self._group) == 1:
            return totals[0], distributed.all_reduce
        return totals[0], lambda _: totals

    def _measure(self, state: State, name: str, value: Tensor) -> None:
        """Add a batch's share, times their number, so that the mean is that of whole steps."""
        state.meter.add(name, value.reshape(1) * len(self._group))

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


def _with_space(method: Method, x: Tree) -> Method:
    """The method with a space, and bounds inferred from the first batch if none were given."""
    if method.space is None and method.attack is None:
        return replace(method, space=InputSpace())
    if method.space is None:
        space, note = inferred_space(x)
        _log.info(note)
        method = replace(method, space=space)
    if method.attack is not None and isinstance(method.space, InputSpace):
        check_radii(method.attack, method.space, take(x, slice(0, 1)))
    return method
