"""Hardening a plain torch model: data, method and callbacks put together, then the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import _checks, allocator, distributed, modes
from artplus.attacks import Attack, Combination, members
from artplus.attacks._base import Budget
from artplus.bounds import Bounds, check_radius, infer
from artplus.errors import ConfigurationError
from artplus.losses import Objective, Weight
from artplus.model import LossModel, as_loss_model
from artplus.seeding import derived, reseed, seeded
from artplus.spaces import InputSpace, Space, attached
from artplus.spaces.hidden import Hooks, parameters
from artplus.tasks import Task
from artplus.training import callbacks as events
from artplus.training.autotune import choose_precision
from artplus.training.callbacks import Callback
from artplus.training.checkpoint import Resume, as_resume
from artplus.training.columns import with_targets
from artplus.training.data import Arrays, Loaded, Prepare, Source, TensorPair, batches
from artplus.training.engines import Engine, as_engine
from artplus.training.fingerprint import fingerprint, refuse_other
from artplus.training.history import History
from artplus.training.loop import run
from artplus.training.method import Method, make_method
from artplus.training.numerics import Compile, Numerics, Precision
from artplus.training.probe import check_labels, check_optimizer, first, infer_task, probe
from artplus.training.state import State
from artplus.training.steps import RetryOnOOM, Step, standard
from artplus.tree import Tree

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How long and with what beside the method: the part that both doors share.

    Attributes:
        epochs: Passes over the data.
        batch_size: For arrays and data sets.
        validation: Held-out data, as anything that training takes.
        validation_eps: Radius of the validation attack where the method has none.
        validation_norm: Its norm.
        keep_best: With validation, hand out the best epoch's weights.
        scheduler: Learning-rate scheduler or factory; see
            :class:`~artplus.training.callbacks.LearningRate`.
        scheduler_interval: When it steps.
        callbacks: The user's own; a user's ``EpsWarmup`` replaces the default one.
        step: How the weights move on a batch.
        engine: Where it runs; see :func:`~artplus.training.engines.as_engine`.
        micro_batch: Most examples in one forward and backward pass; ``None`` is the whole batch,
            and halves where memory runs out.
        seed: Of everything random; ``None`` draws one from torch's generator.
        progress: Show a progress bar.
        resume: Where to continue from.
    """

    epochs: int = 20
    batch_size: int = 128
    validation: Any = None
    validation_eps: Budget | None = None
    validation_norm: float = torch.inf
    keep_best: bool = True
    scheduler: Any = None
    scheduler_interval: Literal["auto", "batch", "epoch"] = "auto"
    callbacks: Sequence[Callback] = ()
    step: Step = standard
    engine: Engine = field(default_factory=Engine)
    micro_batch: int | None = None
    seed: int | None = None
    progress: bool = True
    resume: Resume | None = None

    def __post_init__(self) -> None:
        _checks.count("epochs", self.epochs)
        _checks.count("batch_size", self.batch_size)
        if self.seed is not None:
            _checks.count("seed", self.seed, least=0)
        if self.micro_batch is not None:
            _checks.count("micro_batch", self.micro_batch, least=2)
        if not callable(self.step):
            raise ConfigurationError(
                f"step must be called as step(state, batch, gradients), got {self.step!r}"
            )
        if self.scheduler_interval not in ("auto", "batch", "epoch"):
            raise ConfigurationError(
                "scheduler_interval must be 'auto', 'batch' or 'epoch', got "
                f"{self.scheduler_interval!r}"
            )
        if not isinstance(self.callbacks, Sequence):
            raise ConfigurationError(f"callbacks must be a list, got {self.callbacks!r}")
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ConfigurationError(f"callbacks must be Callback objects, got {callback!r}")
        if sum(isinstance(callback, events.Checkpoint) for callback in self.callbacks) > 1:
            raise ConfigurationError("callbacks hold more than one Checkpoint; one run, one folder")


def train(
    model: LossModel,
    data: Any,
    optimizer: Optimizer,
    method: Method,
    plan: Run,
    *,
    prepare: Prepare | None = None,
    infers: bool = False,
) -> History:
    """Harden ``model`` by ``method``; every check comes before the first step.

    Args:
        model: Trained in place.
        data: See :func:`~artplus.training.data.batches`.
        optimizer: Of the model's parameters.
        method: Objective, attack, space.
        plan: Everything else.
        prepare: Raw batches to tensors; ``None`` takes tensors as they are.
        infers: Whether the first outputs and targets may show that the task is another one.
    """
    check_optimizer(model.module, optimizer)
    engine = plan.engine
    _refuse_compiled(engine, method.objective)
    device = engine.connect(model.module)
    intake = Intake(prepare or TensorPair(method.space, _dtype(model.module)), model)
    found = None if plan.resume is None else plan.resume.load()
    with allocator.keeping(), seeded(plan.seed) as seed, ExitStack() as ends:
        seed = _apart(seed, plan.seed is not None)
        order = torch.Generator().manual_seed(seed)
        source = intake.batches(data, plan.batch_size, order, device)
        model, source = _told(model, source, intake) if infers else (model, source)
        method, notes = _bounded(method, source, prepare or intake.prepare)
        model = probe(model, source, method)
        hooks = None
        if method.space is not None and method.space.hidden:
            hooks = ends.enter_context(attached(model.module, method.space))
            notes += _measured(hooks, model, source, method.space)
        note = _choose_precision(engine, model, source, method, plan, found and found[1])
        engine.prepare(model, optimizer)
        try:
            state = State(
                model=model,
                optimizer=optimizer,
                method=method,
                epochs=plan.epochs,
                batches_per_epoch=_length(source),
                generator=torch.Generator(device).manual_seed(_own(derived(seed, "attack"))),
                engine=engine,
                micro_batch=plan.micro_batch,
                examples=source.examples,
                hooks=hooks,
            )
            state.history.notes += notes if note is None else [*notes, note]
            callbacks = _callbacks(model, method, plan, intake, device)
            if found or any(isinstance(each, events.Checkpoint) for each in callbacks):
                state.fingerprint = fingerprint(state, source, callbacks, _settings(plan))
            if found:
                state.resumed = found[0]
                refuse_other(found[1].get("run"), state.fingerprint)
            run(state, source, RetryOnOOM(plan.step), callbacks, found and found[1])
        finally:
            engine.release(model.module)
    return state.history


class Intake:
    """How raw batches become inputs and targets of this model.

    Args:
        prepare: Numbers to checked tensors.
        model: Tells the arguments of its forward pass, and whether it is given the targets.
    """

    def __init__(self, prepare: Prepare, model: LossModel) -> None:
        self.prepare = prepare
        # What stands before the module takes inputs as they are.
        self._arguments = parameters(model.module) if model.forward is None else ()
        self.gives_targets = model.task.in_model

    def batches(
        self,
        data: Any,
        batch_size: int,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> Source:
        """Re-iterable batches of ``data``; see :func:`~artplus.training.data.batches`."""
        return batches(
            data,
            self._prepared,
            batch_size=batch_size,
            generator=generator,
            device=device,
            arguments=self._arguments,
        )

    def _prepared(self, x: Any, y: Any) -> tuple[Tree, Tree]:
        inputs, targets = self.prepare(x, y)
        if self.gives_targets:
            inputs = with_targets(inputs, targets, self._arguments)
        return inputs, targets

    def again(self, source: Source) -> Source:
        """The same batches, now that the model turns out to be given the targets."""
        self.gives_targets = True
        if isinstance(source, Arrays):
            source.x = with_targets(source.x, source.y, self._arguments)
        return source


def _told(model: LossModel, source: Source, intake: Intake) -> tuple[LossModel, Source]:
    """The model with the task that the first batch shows, and batches as that task needs them."""
    given = model.task.in_model
    model = infer_task(model, first(source))
    return model, intake.again(source) if model.task.in_model and not given else source


def _bounded(method: Method, source: Source, prepare: Prepare) -> tuple[Method, list[str]]:
    """The method with its range of inputs, inferred where none was given, and what to say of it."""
    notes = []
    if method.space is None:
        inputs = InputSpace()
        x = source.x if isinstance(source, Arrays) else first(source).x
        limits: tuple[Any, Any] = (None, None)
        if method.attack is not None:
            column = inputs.floats(x)
            values = column[0][None] if isinstance(column, list) else column
            inferred, told = infer(values)
            limits = inferred or limits
            notes.append(told)
            _log.info(told)
        method = replace(method, space=InputSpace(*limits))
    if isinstance(prepare, TensorPair):
        prepare.space = method.space
    if method.attack is not None and isinstance(method.space, InputSpace):
        head = source.head(1).x if isinstance(source, Arrays) else first(source).x
        z = method.space.lift(None, head)
        for attack in members(method.attack, 0):
            check_radius(attack.eps, attack.norm, method.space, tuple(z.shape[1:]))
    return method, notes


def _measured(hooks: Hooks, model: LossModel, source: Source, space: Space) -> list[str]:
    """Look for what a hidden space perturbs, before any step, and measure its unit once.

    All processes hold the mean of what each has measured on its own examples.
    """
    with modes.attack_mode(model.module):
        space.lift(model, first(source).x)
        unit = space.unit(model)
    if hooks.unit is None:
        return []
    units = distributed.all_reduce(torch.tensor(hooks.unit, dtype=torch.float64))
    hooks.unit = float(units) / distributed.world_size()
    if unit == 1.0:
        return []
    return [f"a radius of 1 is {hooks.unit:.4g}, the mean norm of the rows it is relative to"]


def _refuse_compiled(engine: Engine, objective: Objective) -> None:
    """Torch's compiler has no second derivatives, and says so only in the middle of a step."""
    if engine.compiles and objective.second_order:
        raise ConfigurationError(
            f"loss {objective.name!r} takes the gradient of a gradient, which torch.compile does "
            "not support; leave out compile= (for an Accelerator its dynamo_backend), or take a "
            "loss of first derivatives, such as 'at'"
        )


def _choose_precision(
    engine: Engine,
    model: LossModel,
    source: Arrays | Loaded,
    method: Method,
    plan: Run,
    saved: dict[str, Any] | None,
) -> str | None:
    """Fix the arithmetic: as asked for, as in the run that is resumed, or by a trial."""
    if engine.requested.decided:
        engine.numerics = engine.requested
        return None
    if saved is not None and "numerics" in saved:
        engine.numerics = Numerics(**saved["numerics"])
        return None
    batch = first(source, plan.batch_size)
    length = _length(source)
    steps = None if length is None else length * plan.epochs
    note = choose_precision(engine, model, method, batch, steps=steps)
    # All processes take what the first one found.
    engine.numerics = distributed.all_gather(engine.numerics)[0]
    return note


def _apart(seed: int, seeds: bool) -> int:
    """The first process's seed; the others' global streams part from its own, for dropout."""
    seed = int(distributed.all_gather(seed)[0])
    if seeds and distributed.rank() > 0:
        reseed(_own(seed))
    return seed


def _own(seed: int) -> int:
    """A seed for this process alone: the given one in the first."""
    return seed if distributed.is_main() else derived(seed, f"process {distributed.rank()}")


def fit(
    model: nn.Module | LossModel,
    data: Any,
    optimizer: Optimizer,
    *,
    loss: str | Objective = "trades",
    criterion: Callable[..., Tensor] | None = None,
    task: str | Task = "auto",
    space: Space | None = None,
    lam: Weight | None = None,
    attack: Attack | Combination | None = None,
    eps: Any = None,
    norm: float = torch.inf,
    bounds: Bounds = "auto",
    normalization: tuple[Any, Any] | None = None,
    label_smoothing: float = 0.0,
    class_weight: Any = None,
    attack_share: float = 1.0,
    epochs: int = 20,
    batch_size: int = 128,
    validation: Any = None,
    scheduler: Any = None,
    scheduler_interval: Literal["auto", "batch", "epoch"] = "auto",
    callbacks: Sequence[Callback] = (),
    step: Step = standard,
    engine: Any = "auto",
    precision: Precision = "fp32",
    compile: Compile = False,
    micro_batch: int | None = None,
    seed: int | None = None,
    progress: bool = True,
    resume: str | Path | Resume | None = None,
) -> History:
    r"""Harden a plain torch model, with no ART object in sight.

    .. math:: \min_\theta \frac1N \sum_i L_\text{fixed}(x_i, y_i)
              + \lambda \, L_\text{scaled}(x_i, x'_i, y_i)

    Args:
        model: Any module: from ``(batch, *input)`` floats to logits ``(batch, classes)``, or from
            whatever columns it takes to what its ``task`` expects. Trained in place, on the device
            it is on.
        data: ``(x, y)``, a mapping of columns, a ``Dataset``, a ``DataLoader`` or a re-iterable of
            batches; a batch is a pair, or a mapping whose label column is ``labels``, ``label`` or
            ``y`` and whose other columns are the module's keyword arguments.
        optimizer: Of the model's parameters.
        loss: What is minimised; see :func:`~artplus.training.make_method`, which documents this
            and ``lam``, ``attack``, ``eps``, ``norm``, ``space``, ``bounds``, ``normalization``,
            ``label_smoothing``, ``class_weight`` and ``attack_share``.
        criterion: The model's own loss; ``None`` is the task's usual one, cross-entropy in a
            classification.
        task: What predictions and targets mean: a name (:func:`artplus.list_tasks`) or a
            :class:`~artplus.tasks.Task`. ``"auto"`` tells it from the model's class, the criterion,
            and the first outputs and targets.
        space: What is perturbed.
        lam: λ.
        attack: Instead of the default attack.
        eps: Radius of the default attack.
        norm: Its norm.
        bounds: Least and greatest valid input.
        normalization: ``(mean, std)`` that the data has been normalised by.
        label_smoothing: Share of each label spread over all classes.
        class_weight: What examples weigh by their class.
        attack_share: Share of each batch that is attacked.
        epochs: Passes over the data.
        batch_size: For arrays and data sets.
        validation: Held-out data; measured after each epoch by another attack than the training
            one, and the best epoch's weights are kept.
        scheduler: Learning-rate scheduler, or a factory ``(optimizer, total_steps)``.
        scheduler_interval: When it steps; see
            :class:`~artplus.training.callbacks.LearningRate`.
        callbacks: Own callbacks. ``EpsWarmup`` is added by default where ``eps`` is large.
        step: How the weights move on a batch: ``AWP()``, ``Free()`` of
            :mod:`artplus.training.steps`, or your own.
        engine: ``"auto"``, ``"torch"``, ``"ddp"``, ``"fsdp2"``, ``"accelerate"``, an ``Engine`` or
            an ``Accelerator``; under ``torchrun`` or ``accelerate launch`` the default joins in.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``: the fastest on the first batch
            whose results are those of fp32; see :mod:`artplus.training.autotune`.
        compile: ``torch.compile`` attack and step; ``"auto"`` where it earns its time back. Not for
            losses of second derivatives, as ``"input_gradient"``.
        micro_batch: Most examples in one forward and backward pass, with the gradient of the whole
            batch all the same; ``None`` is the whole batch, and halves where memory runs out.
        seed: Two runs with the same seed are identical on one device; ``None`` draws one from
            torch's generator.
        progress: Show a progress bar.
        resume: Continue from a checkpoint, or from the newest in a folder, that a
            :class:`~artplus.training.callbacks.Checkpoint` of the same run wrote; see
            :class:`~artplus.training.Resume` for what to do where there is none, or a damaged one.

    Returns:
        One row per epoch.

    Raises:
        ConfigurationError: for arguments that cannot work.
        DataError: for inputs or labels that cannot work; before any step.
        CheckpointError: if there is nothing to resume from, it is damaged, or of another run.
        TrainingDivergedError: if the loss stops being a number.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> data = torch.rand(64, 4), torch.randint(3, (64,))
        >>> history = fit(model, data, optimizer, loss="trades", eps=0.1, epochs=2,
        ...               progress=False)
        >>> len(history)
        2
    """
    method = make_method(
        loss,
        lam=lam,
        eps=eps,
        norm=norm,
        attack=attack,
        space=space,
        bounds=bounds,
        normalization=normalization,
        label_smoothing=label_smoothing,
        class_weight=class_weight,
        attack_share=attack_share,
    )
    plan = Run(
        epochs=epochs,
        batch_size=batch_size,
        validation=validation,
        scheduler=scheduler,
        scheduler_interval=scheduler_interval,
        callbacks=callbacks,
        step=step,
        engine=as_engine(engine, precision=precision, compile=compile),
        micro_batch=micro_batch,
        seed=seed,
        progress=progress,
        resume=as_resume(resume),
    )
    infers = task == "auto" and not isinstance(model, LossModel)
    return train(
        as_loss_model(model, criterion, task), data, optimizer, method, plan, infers=infers
    )


def _callbacks(
    model: LossModel, method: Method, plan: Run, intake: Intake, device: torch.device
) -> list[Callback]:
    """The user's callbacks among the default ones, so that all see what they may need.

    First those that shape a step, then the guard against NaN, then validation, then what reads
    its figures: selection, schedulers, and the user's own in their order; at the end what saves.
    """
    found: list[Callback] = []
    warmup = events.default_warmup(method)
    if warmup is not None and not any(isinstance(c, events.EpsWarmup) for c in plan.callbacks):
        found.append(warmup)
    validates = [c for c in plan.callbacks if isinstance(c, events.Validation)]
    first = [c for c in plan.callbacks if isinstance(c, _MAKERS)]
    found += [*first, events.NonFinite(), *validates]
    if plan.validation is not None:
        held_out = intake.batches(plan.validation, plan.batch_size, None, device)
        check_labels(model, held_out)
        attack = events.validation_attack(
            model, method, eps=plan.validation_eps, norm=plan.validation_norm
        )
        validates.append(events.Validation(held_out, attack, space=method.space or InputSpace()))
        found.append(validates[-1])
        if plan.keep_best and not any(isinstance(c, events.KeepBest) for c in plan.callbacks):
            found.append(events.KeepBest())
    if plan.scheduler is not None:
        found.append(events.LearningRate(plan.scheduler, plan.scheduler_interval))
    last = [c for c in plan.callbacks if isinstance(c, events.Checkpoint)]
    found += [c for c in plan.callbacks if c not in found and c not in last]
    if not validates:
        _refuse_blind(found)
    _refuse_moved(found)
    found.append(events.StuckAtChance())
    if plan.progress:
        found.append(events.Progress())
    return found + last


_MAKERS = (events.EpsWarmup, events.EMA, events.GradientClipping)


def _refuse_blind(callbacks: Sequence[Callback]) -> None:
    """What selects or stops by validation figures would silently do nothing without them."""
    for callback in callbacks:
        if isinstance(callback, (events.KeepBest, events.EarlyStopping)) and (
            callback.monitor is None or callback.monitor.startswith("val_")
        ):
            raise ConfigurationError(
                f"{type(callback).__name__} follows validation figures, but there is no "
                "validation data; give some, or name a column of training: monitor='loss'"
            )
        if isinstance(callback, events.LearningRate) and callback.follows_validation:
            raise ConfigurationError(
                "ReduceLROnPlateau(mode='max') follows validation accuracy; give validation data, "
                "or use mode='min' for the training loss"
            )


def _refuse_moved(callbacks: Sequence[Callback]) -> None:
    """A perturbation belongs to the picture as it was placed when it was found."""
    kinds = {type(callback) for callback in callbacks}
    if events.WarmStart in kinds and events.Augment in kinds:
        raise ConfigurationError(
            "WarmStart keeps perturbations by position, and Augment moves the pictures from under "
            "them from epoch to epoch; leave one of them out"
        )


def _dtype(module: nn.Module) -> torch.dtype:
    """Of the weights, and so of the inputs."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _settings(plan: Run) -> dict[str, Any]:
    """The plan's part of what makes a run this run."""
    names = ("epochs", "batch_size", "validation_eps", "validation_norm", "scheduler_interval")
    settings = {name: getattr(plan, name) for name in (*names, "step", "micro_batch", "seed")}
    return settings | {
        "engine": plan.engine.name,
        "numerics": plan.engine.requested,
        "processes": distributed.world_size(),
    }


def _length(source: Arrays | Loaded) -> int | None:
    try:
        return len(source)
    except TypeError:  # an iterable data set: how long it is shows only at its end
        return None
