"""``artplus.evaluate``: the evaluation of ART estimators and torch modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from artplus import _checks
from artplus.bounds import Bounds, check_radius, make_space
from artplus.bridge import by_name
from artplus.bridge.estimator import view
from artplus.bridge.selection import recorded, select
from artplus.bridge.subject import Options, Subject, subject_of
from artplus.errors import ConfigurationError
from artplus.evaluation import Report, Threat, ThreatReport, judge
from artplus.evaluation.analyses.smoothing import smooths
from artplus.evaluation.analyses.transfer import Transfer
from artplus.evaluation.threats import check_threats
from artplus.geometry import geometry
from artplus.model import LossModel, as_loss_model
from artplus.spaces import InputSpace, Space
from artplus.tasks import Task

CUMULATIVE = ("quick", "standard", "plus", "rand")
"""Suites whose attacks run only on examples robust to the earlier attacks, as in AutoAttack."""


@overload
def evaluate(
    estimator: Any, data: Any, y: Any = None, *, threats: None = None, **options: Any
) -> Report: ...


@overload
def evaluate(
    estimator: Any,
    data: Any,
    y: Any = None,
    *,
    threats: Sequence[tuple[float, float]],
    **options: Any,
) -> ThreatReport: ...


# The overloads take **options, since repeating twenty options would not help readers.
def evaluate(  # type: ignore[misc]
    estimator: Any,
    data: Any,
    y: Any = None,
    *,
    attacks: Any = "quick",
    eps: Any = None,
    norm: float | str = np.inf,
    criterion: Callable[..., Tensor] | None = None,
    task: str | Task = "auto",
    space: Space | None = None,
    bounds: Bounds = "auto",
    clip_values: tuple[Any, Any] | None = None,
    normalization: tuple[Any, Any] | None = None,
    mask: Any = None,
    batch_size: int = 128,
    seed: int = 0,
    only_survivors: bool | None = None,
    examples: int = 8,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    checks: bool | Literal["auto"] = "auto",
    surrogate: Any = None,
    analyses: Any = (),
    before: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 10.0,
    progress: bool = True,
    threats: Sequence[tuple[float, float]] | None = None,
) -> Report | ThreatReport:
    """Attack an estimator or a torch model, and report its robustness.

    :func:`artplus.evaluation.judge` describes the method: robust accuracy is the per-example worst
    case over all attacks, adversarial examples are verified, and failed attacks never count as
    robustness. The estimator and its attacks are left as they were.

    Args:
        estimator: An ART estimator that holds a torch module, a ``torch.nn.Module``, or an ART
            classifier that only predicts (``BlackBoxClassifier``, scikit-learn's), for ART's
            attacks and ``"square"``.
        data: ``(n, *input)`` inputs, with ``y``; or ``(x, y)``, a mapping of columns, a
            ``Dataset`` or a ``DataLoader``, which is read whole. Columns are the module's keyword
            arguments, and labels are in ``labels``, ``label`` or ``y``. A memory map is read, and
            converted where that is needed, a batch at a time.
        y: True labels, as class numbers or rows, or the targets of the model's task.
        attacks: A suite (:func:`artplus.evaluation.list_suites`), one attack, a list of both or a
            mapping of attacks by name. An attack is a name
            (:func:`artplus.evaluation.list_attacks`, or one of ART's,
            :data:`artplus.bridge.by_name.ART_NAMES`), an ART evasion attack built on this
            estimator, or one of ``artplus.attacks``. The target of targeted
            attacks is a uniformly random wrong class; they succeed with any mistake.
        eps: Radius in the units of ``x``, required for suites and names. Attack objects have their
            own. Attacks without a radius (DeepFool, HopSkipJump) need it too: an example counts as
            fooled only within ``eps``.
        norm: Norm of ``eps``: ``numpy.inf``, 2 or 1. Attack objects have their own.
        criterion: The loss of a ``torch.nn.Module``; ``None`` is the default of its task. A model
            with ``BCEWithLogitsLoss`` and one output per input is evaluated as a classifier of two
            classes. An estimator has its own.
        task: What predictions and targets of a module mean: a name (:func:`artplus.list_tasks`) or
            a :class:`~artplus.tasks.Task`; ``"auto"`` infers it from the model's class, the
            criterion, and the first outputs and labels.
        space: What is perturbed; ``None`` means inputs with ``bounds`` and ``normalization``. In an
            embedding or latent space ``eps`` is in its units, per example or per token.
        bounds: Least and greatest valid input of a module, in raw units. ``"auto"`` is the usual
            range that contains the inputs, and the report states it; ``None`` is unbounded. An
            estimator has its ``clip_values``.
        clip_values: ART's name for ``bounds``.
        normalization: ``(mean, std)`` that the inputs of a module have been normalised by. ``eps``
            and ``bounds`` (default then [0, 1]) are in the units before normalisation.
        mask: Zero where inputs must not change; broadcasts over one input.
        batch_size: Examples per batch; the batch size of an ART attack is not used.
        seed: Seed of all random draws.
        only_survivors: Run each attack only on examples robust to the earlier ones. This is faster
            with the same worst case, but accuracies are cumulative. Default: only for
            :data:`CUMULATIVE`, as in AutoAttack.
        examples: Number of attacked examples to keep for the gallery.
        class_names: One per class, for display.
        name: Name of the model in the report.
        checks: Look for signs that attacks failed, and give a verdict on the evaluation:
            trusted, suspicious or broken (:attr:`Report.verdict`, :attr:`Report.checks`). The
            checks use up to 64 examples and cost little compared with a suite. Default: only for
            suites.
        surrogate: Another model or estimator for the same task; the checks test whether attacks
            transferred from it do better than attacks on the model itself.
        analyses: Further analyses: names (:func:`artplus.evaluation.list_analyses`) or
            objects of :mod:`artplus.evaluation.analyses`, for example
            ``["epsilon_curve", Corruptions(severities=(1, 3, 5))]``. Each fills a section of
            :attr:`Report.sections`.
        before: The model or estimator before hardening, for analyses that compare.
        checkpoint: A folder to save progress in. After an interruption the same call continues
            from there and gives the same report, except for the date. A folder of another model,
            data, attacks or settings is refused.
        checkpoint_every: Least seconds between two writes; 0 writes after every batch.
        progress: Show a progress bar with robust accuracy so far and the time left.
        threats: Several pairs of radius and norm, such as ``[(8 / 255, numpy.inf), (0.5, 2)]``,
            instead of ``eps`` and ``norm``: the attacks, by name or suite, run under each.

    Returns:
        The report; with ``threats`` a :class:`~artplus.evaluation.ThreatReport` that holds one per
        threat and the per-example worst case over all.

    Under ``torchrun`` or ``accelerate launch`` every process calls this with the same arguments;
    the work is split, and each process returns the whole report.

    Raises:
        UnsupportedEstimatorError: for an estimator that cannot be evaluated.
        ConfigurationError: for invalid attacks or options.
        DataError: for invalid inputs or labels.
        CheckpointError: if ``checkpoint`` is damaged or of another evaluation.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(16, 4)
        >>> y = model(x).argmax(1)
        >>> report = evaluate(model, x, y, eps=0.05, clip_values=(0.0, 1.0), progress=False)
        >>> [result.name for result in report.attacks]
        ['apgd_ce', 'apgd_t', 'fab_t', 'square_chain']
        >>> report.robust_accuracy <= report.clean_accuracy
        True
    """
    options = {key: value for key, value in locals().items() if key not in _OF_ONE_THREAT}
    if threats is not None:
        return _evaluate_threats(threats, eps, checkpoint, options)
    _checks.choice("checks", checks, (True, False, "auto"))
    _checks.flag("progress", progress)
    _checks.text("name", name)
    if not isinstance(task, (str, Task)):
        raise ConfigurationError(f"task must be a name or a Task, got {task!r}")
    if space is not None:
        make_space(space, "auto")
    if only_survivors is not None:
        _checks.flag("only_survivors", only_survivors)
    if checks == "auto":
        several = attacks if isinstance(attacks, (list, tuple)) else [attacks]
        checks = any(isinstance(a, str) and not by_name.is_attack(a) for a in several)
    if clip_values is not None:
        if not isinstance(bounds, str):
            raise ConfigurationError("clip_values= and bounds= are the same; give one of them")
        bounds = clip_values
    order = geometry(norm).order
    subject = subject_of(
        estimator,
        data,
        y,
        Options(
            criterion=criterion,
            task=task,
            space=space,
            bounds=bounds,
            normalization=normalization,
            mask=mask,
        ),
    )
    check_radius(eps, order, subject.space, subject.shape)
    threat = None
    if eps is not None:
        place = subject.space
        threat = Threat(eps, order, subject.classes, subject.shape, place.per, place.hidden)
    chosen, notes = select(attacks, threat, subject)
    notes = [*subject.notes, *notes]
    if smooths(estimator):
        notes.append(
            f"{type(estimator).__name__} predicts by a vote over noise. What is judged here is the "
            "model inside, without noise; analyses=['smoothing'] certifies the vote."
        )
    others = {"mask": mask, "criterion": criterion, "space": space, "normalization": normalization}
    call = _call_arguments(subject, attacks, eps, order, others)
    report = judge(
        subject.model,
        subject.x,
        subject.y,
        chosen,
        space=subject.space,
        batch_size=batch_size,
        seed=seed,
        only_survivors=_cumulative(attacks) if only_survivors is None else only_survivors,
        examples=examples,
        class_names=class_names,
        name=name or subject.name,
        notes=notes,
        checks=bool(checks),
        surrogate=None if surrogate is None else _as_loss_model(surrogate, criterion),
        analyses=_with_loss_models(analyses, criterion),
        before=None if before is None else _as_loss_model(before, criterion),
        estimator=estimator,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )
    return replace(
        report,
        attacks=tuple(recorded(r, chosen[r.name]) for r in report.attacks),
        call=call,
    )


def _call_arguments(
    subject: Subject, attacks: Any, eps: Any, norm: float, others: Mapping[str, Any]
) -> dict[str, str]:
    """The arguments that determine the results, as Python code; objects by their names."""
    several = attacks if isinstance(attacks, (list, tuple)) else [attacks]
    named = all(isinstance(attack, str) for attack in several)
    shown = several[0] if len(several) == 1 else list(several)
    call = {"attacks": repr(shown) if named else "attacks"}
    if eps is not None:
        call["eps"] = repr(float(eps)) if isinstance(eps, (int, float)) else "eps"
        call["norm"] = 'float("inf")' if math.isinf(norm) else f"{norm:g}"
    call |= {key: key for key, value in others.items() if value is not None}
    is_estimator = subject.translated is not None
    if isinstance(subject.space, InputSpace) and "space" not in call:
        call |= _range(subject.space, "clip_values" if is_estimator else "bounds")
    if is_estimator:
        call["estimator"] = type(subject.estimator).__name__
    return call


def _range(space: InputSpace, word: str) -> dict[str, str]:
    """The range as Python code; its name where bounds are arrays."""
    limits = [torch.as_tensor(v) for v in (space.low, space.high) if v is not None]
    if not limits:
        return {} if word == "clip_values" else {word: "None"}
    if len(limits) < 2 or any(limit.numel() > 1 for limit in limits):
        return {word: word}
    low, high = (f"{float(limit):.9g}" for limit in limits)
    return {word: f"({low}, {high})"}


_OF_ONE_THREAT = {"threats", "eps", "norm", "checkpoint"}


def _evaluate_threats(
    threats: Sequence[tuple[float, float]],
    eps: Any,
    checkpoint: str | Path | None,
    options: dict[str, Any],
) -> ThreatReport:
    """One evaluation per threat, each with its own checkpoint folder."""
    if eps is not None:
        raise ConfigurationError("give eps= and norm= for one threat, or threats= for several")
    pairs = check_threats(threats)
    attacks = options["attacks"]
    several = attacks.values() if isinstance(attacks, Mapping) else attacks
    for attack in several if isinstance(attacks, (Mapping, list, tuple)) else [attacks]:
        if not isinstance(attack, str) and getattr(attack, "eps", None) is not None:
            raise ConfigurationError(
                f"{type(attack).__name__} has a radius of its own, which threats= cannot change; "
                "give a suite or names of attacks (artplus list attacks)"
            )
    if checkpoint is not None and Path(checkpoint).is_file():
        raise ConfigurationError(
            f"checkpoint is the folder to save the evaluation in, but {checkpoint} is a file"
        )
    reports = []
    for k, (radius, norm) in enumerate(pairs, 1):
        folder = None if checkpoint is None else Path(checkpoint) / f"threat-{k}"
        reports.append(evaluate(**options, eps=radius, norm=norm, checkpoint=folder))
    return ThreatReport(tuple(reports))


def _cumulative(attacks: Any) -> bool:
    return isinstance(attacks, str) and attacks in CUMULATIVE


def _as_loss_model(surrogate: Any, criterion: Callable[..., Tensor] | None) -> LossModel:
    """A second model as a :class:`LossModel`."""
    if isinstance(surrogate, (nn.Module, LossModel)):
        return as_loss_model(surrogate, None if isinstance(surrogate, LossModel) else criterion)
    return view(surrogate).model


def _with_loss_models(analyses: Any, criterion: Callable[..., Tensor] | None) -> Any:
    """The analyses, with the models of ``Transfer`` as :class:`LossModel`."""
    if isinstance(analyses, Transfer):
        models = analyses.models or {}
        return replace(
            analyses,
            models={key: _as_loss_model(model, criterion) for key, model in models.items()},
        )
    if isinstance(analyses, (list, tuple)):
        return [_with_loss_models(analysis, criterion) for analysis in analyses]
    return analyses
