"""Hardening a plain torch model: data, method and callbacks put together, then the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import allocator, distributed
from artplus.attacks import Attack, Combination
from artplus.bounds import Bounds
from artplus.errors import ConfigurationError
from artplus.losses import Objective, Weight
from artplus.model import LossModel, as_loss_model
from artplus.model import dtype_of as dtype_of
from artplus.seeding import derived, reseed, seeded
from artplus.spaces import Space, attached
from artplus.tasks import Task
from artplus.training.autotune import choose_precision
from artplus.training.callbacks import Callback, Checkpoint
from artplus.training.checkpoint import Resume, as_resume
from artplus.training.data import Prepare, Source, TensorPair, batch_count
from artplus.training.default_callbacks import with_defaults
from artplus.training.engines import Engine, as_engine
from artplus.training.fingerprint import fingerprint, refuse_other
from artplus.training.history import History
from artplus.training.intake import Intake, measure_unit
from artplus.training.loop import run
from artplus.training.method import Method, make_method
from artplus.training.numerics import Compile, Numerics, Precision
from artplus.training.plan import Run as Run
from artplus.training.probe import check_optimizer, first, probe, refuse_task
from artplus.training.state import State
from artplus.training.steps import RetryOnOOM, Step, standard


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
        infers: Whether the task is inferred from the first outputs and targets.
    """
    check_optimizer(model.module, optimizer)
    engine = plan.engine
    _refuse_compiled(engine, method.objective)
    device = engine.connect(model.module)
    intake = Intake(prepare or TensorPair(method.space, dtype_of(model.module)), model)
    checkpoint = None if plan.resume is None else plan.resume.load()
    path, saved = checkpoint or (None, None)
    with allocator.keeping(), seeded(plan.seed) as seed, ExitStack() as stack:
        seed = _share_seed(seed, reseeds=plan.seed is not None)
        order = torch.Generator().manual_seed(seed)
        infers = infers and method.objective.supervised  # nothing is inferred without targets
        if not infers:
            refuse_task(model.task, method.objective)
        source = intake.batches(
            data,
            plan.batch_size,
            order,
            device,
            unlabelled=method.objective.unlabelled,
            supervised=method.objective.supervised,
        )
        if infers:
            model, source = intake.with_inferred_task(model, source)
        method, notes = intake.with_inferred_bounds(method, source)
        model = probe(model, source, method)
        intake.task = model.task
        hooks = None
        if method.space is not None and method.space.hidden:
            hooks = stack.enter_context(attached(model.module, method.space))
            notes += measure_unit(hooks, model, source, method.space)
        notes += _choose_precision(engine, model, source, method, plan, saved)
        engine.prepare(model, optimizer)
        stack.callback(engine.release, model.module)
        state = State(
            model=model,
            optimizer=optimizer,
            method=method,
            epochs=plan.epochs,
            batches_per_epoch=batch_count(source),
            generator=torch.Generator(device).manual_seed(process_seed(derived(seed, "attack"))),
            engine=engine,
            micro_batch=plan.micro_batch,
            examples=source.examples,
            hooks=hooks,
            resumed=path,
        )
        state.history.notes += notes
        callbacks = with_defaults(model, method, plan, intake, device)
        if saved is not None or any(isinstance(c, Checkpoint) for c in callbacks):
            state.fingerprint = fingerprint(state, source, callbacks, plan.settings())
        if saved is not None:
            refuse_other(saved.get("run"), state.fingerprint)
        run(state, source, RetryOnOOM(plan.step), callbacks, saved)
    return state.history


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
    r"""Harden a plain torch model; no ART object is needed.

    .. math:: \min_\theta \frac1N \sum_i L_\text{fixed}(x_i, y_i)
              + \lambda \, L_\text{scaled}(x_i, x'_i, y_i)

    The options of the method, ``loss`` to ``attack_share``, are documented in
    :func:`~artplus.training.make_method`; those of the run, ``epochs`` to ``callbacks``,
    ``step``, ``micro_batch``, ``seed`` and ``progress``, in :class:`~artplus.training.Run`.

    Args:
        model: Any module: from ``(batch, *input)`` floats to logits ``(batch, classes)``, or from
            the columns it takes to what its ``task`` expects. Trained in place, on the device it
            is on.
        data: ``(x, y)``, a mapping of columns, a ``Dataset``, a ``DataLoader`` or a re-iterable of
            batches; a batch is a pair, or a mapping whose label column is ``labels``, ``label`` or
            ``y`` and whose other columns are the module's keyword arguments. A loss that uses no
            labels (``fare``) takes inputs alone.
        optimizer: Of the model's parameters.
        loss: What is minimised: a name or an ``Objective``.
        criterion: The model's own loss; ``None`` is the task's usual one, cross-entropy in a
            classification.
        task: What predictions and targets mean: a name (:func:`artplus.list_tasks`) or a
            :class:`~artplus.tasks.Task`. ``"auto"`` infers it from the model's class, the
            criterion, and the first outputs and targets.
        space: What is perturbed.
        lam: λ.
        attack: Instead of the default attack.
        eps: Radius of the default attack.
        norm: Norm of the default attack.
        bounds: Least and greatest valid input.
        normalization: ``(mean, std)`` that the data has been normalised by.
        label_smoothing: Share of each label spread over all classes.
        class_weight: Weight of examples by their class.
        attack_share: Share of each batch that is attacked.
        epochs: Passes over the data.
        batch_size: Examples in one step of the weights.
        validation: Held-out data; the best epoch's weights are kept.
        scheduler: Learning-rate scheduler, or a factory ``(optimizer, total_steps)``.
        scheduler_interval: When the scheduler steps.
        callbacks: Further callbacks.
        step: How the weights move on a batch.
        engine: ``"auto"``, ``"torch"``, ``"ddp"``, ``"fsdp2"``, ``"accelerate"``, an ``Engine`` or
            an ``Accelerator``; see :func:`~artplus.training.engines.as_engine`.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``; see
            :class:`~artplus.training.numerics.Numerics`.
        compile: Whether to use ``torch.compile``; see
            :class:`~artplus.training.numerics.Numerics`.
        micro_batch: Most examples in one forward and backward pass.
        seed: Seeds everything random.
        progress: Show a progress bar.
        resume: Continue from a checkpoint, or from the newest in a folder, that a
            :class:`~artplus.training.callbacks.Checkpoint` of the same run wrote. A
            :class:`~artplus.training.Resume` says what to do if there is none, or a damaged one.

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
    infers = isinstance(task, str) and task == "auto" and not isinstance(model, LossModel)
    return train(
        as_loss_model(model, criterion, task), data, optimizer, method, plan, infers=infers
    )


def _refuse_compiled(engine: Engine, objective: Objective) -> None:
    """Refuse what torch's compiler cannot do, before any step.

    Second derivatives raise only in the middle of a step; hooks of one pass are ignored silently.
    """
    if engine.compiles and objective.records:
        raise ConfigurationError(
            f"loss {objective.name!r} records hidden states by hooks, which a compiled model does "
            "not run; leave out compile= (for an Accelerator its dynamo_backend)"
        )
    if engine.compiles and objective.second_order:
        raise ConfigurationError(
            f"loss {objective.name!r} takes the gradient of a gradient, which torch.compile does "
            "not support; leave out compile= (for an Accelerator its dynamo_backend), or take a "
            "loss of first derivatives, such as 'at'"
        )


def _choose_precision(
    engine: Engine,
    model: LossModel,
    source: Source,
    method: Method,
    plan: Run,
    saved: dict[str, Any] | None,
) -> list[str]:
    """Fix the arithmetic: as requested, as in the resumed run, or by a trial, with a note of it."""
    if engine.requested.decided:
        engine.numerics = engine.requested
        return []
    if saved is not None and "numerics" in saved:
        engine.numerics = Numerics(**saved["numerics"])
        return []
    length = batch_count(source)
    note = choose_precision(
        engine,
        model,
        method,
        first(source, plan.batch_size),
        steps=None if length is None else length * plan.epochs,
    )
    engine.numerics = distributed.all_gather(engine.numerics)[0]  # the first process decides
    return [note]


def _share_seed(seed: int, *, reseeds: bool) -> int:
    """The first process's seed; ``reseeds`` gives every other one its own streams, for dropout."""
    seed = int(distributed.all_gather(seed)[0])
    if reseeds and distributed.rank() > 0:
        reseed(process_seed(seed))
    return seed


def process_seed(seed: int) -> int:
    """``seed`` in the first process; in every other one a seed derived from it and the rank."""
    return seed if distributed.is_main() else derived(seed, f"process {distributed.rank()}")
