"""``artplus.evaluate``: the honest judge on ART estimators and attacks, and on torch modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from artplus.bounds import Bounds, check_radius
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
"""Suites whose attacks each run on what the ones before left standing, as AutoAttack's do."""


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


# The options are those named here, and repeating twenty of them twice would help nobody.
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
    """Attack an estimator or a torch model, and report what it withstands.

    See :func:`artplus.evaluation.judge` for how: per-example worst case over all attacks, what
    they return is measured, and a broken one never counts as robustness. The estimator and its
    attacks are left as they were.

    Args:
        estimator: An ART estimator that holds a torch module, a ``torch.nn.Module``, or an ART
            classifier that only predicts (``BlackBoxClassifier``, scikit-learn's), which ART's
            attacks and ``"square"`` can judge.
        data: ``(n, *input)`` inputs with ``y`` beside them; or ``(x, y)``, a mapping of columns, a
            ``Dataset`` or a ``DataLoader``, which is read whole. Columns are the module's keyword
            arguments, and labels are in ``labels``, ``label`` or ``y``. A memory map is read, and
            converted where that is needed, a batch at a time.
        y: True labels: class numbers or rows; else the targets of the model's task.
        attacks: A suite (:func:`artplus.evaluation.list_suites`), one attack, a list of both or a
            mapping of attacks by name. An attack is a name
            (:func:`artplus.evaluation.list_attacks`, or one of ART's,
            :data:`artplus.bridge.by_name.ART_NAMES`), an ART evasion attack built on this
            estimator, or one of ``artplus.attacks``. Targeted attacks aim at a class drawn
            uniformly from the wrong ones and succeed with any mistake.
        eps: Radius for suites and names, in the units of ``x``, which need it. Attack objects
            have their own. Those that have none (DeepFool, HopSkipJump) need it too: an example
            counts as fooled only within ``eps``.
        norm: Norm of ``eps``: ``numpy.inf``, 2 or 1. Attack objects have their own.
        criterion: The own loss of a ``torch.nn.Module``; ``None`` is its task's usual one. With
            ``BCEWithLogitsLoss`` and one output an input a model is judged as the classifier of two
            classes that it is. An estimator has its own.
        task: What predictions and targets of a module mean: a name (:func:`artplus.list_tasks`) or
            a :class:`~artplus.tasks.Task`; ``"auto"`` tells it from the model's class, the
            criterion, and the first outputs and labels.
        space: What is perturbed; ``None`` is inputs with ``bounds`` and ``normalization``. Beside
            an embedding or a latent space ``eps`` is in its units, per example or per token.
        bounds: Least and greatest valid input of a module, in raw units. ``"auto"`` takes the usual
            range that the inputs lie in, and the report says which; ``None`` is unbounded. An
            estimator has its ``clip_values``.
        clip_values: ART's word for ``bounds``.
        normalization: ``(mean, std)`` that the inputs of a module have been normalised by; ``eps``
            and ``bounds`` (then [0, 1] unless given) are in units before it.
        mask: Zero where inputs must not change; broadcasts over one input.
        batch_size: Examples at a time, whatever an ART attack's own.
        seed: Of every random draw.
        only_survivors: Run each attack only on what the ones before left standing: faster, the
            same worst case, but accuracies are cumulative. Default: for :data:`CUMULATIVE`, as
            AutoAttack does.
        examples: How many attacked examples to keep for the gallery.
        class_names: One per class, for display.
        name: What to call the model in the report.
        checks: Look for signs that the attacks failed, and give a verdict on the evaluation:
            trusted, suspicious or broken (:attr:`Report.verdict`, :attr:`Report.checks`). They
            look at up to 64 examples, which costs little beside a suite. Default: only for suites.
        surrogate: Another model or estimator for the same task; the checks then see whether
            attacks made on it do better than those on the model itself.
        analyses: What else to look into: names (:func:`artplus.evaluation.list_analyses`) or
            objects of :mod:`artplus.evaluation.analyses`, for example
            ``["epsilon_curve", Corruptions(severities=(1, 3, 5))]``. Each fills a section of
            :attr:`Report.sections`.
        before: The model or estimator before it was hardened, for analyses that compare.
        checkpoint: A folder to save the evaluation in as it goes. Interrupted or killed at any
            moment, the same call continues from there and gives the same report, but for the
            date. A folder of another model, data, attacks or settings is refused.
        checkpoint_every: Least seconds between two writes; 0 writes after every batch.
        progress: Show a progress bar: robust accuracy so far, and the time left.
        threats: Several pairs of radius and norm, such as ``[(8 / 255, numpy.inf), (0.5, 2)]``,
            instead of ``eps`` and ``norm``: the attacks, by name or suite, run under each.

    Returns:
        The report; of several ``threats`` a :class:`~artplus.evaluation.ThreatReport`, with one
        for each and the per-example worst case over all.

    Under ``torchrun`` or ``accelerate launch`` every process calls this with the same arguments;
    the work is dealt out, and each returns the whole report.

    Raises:
        UnsupportedEstimatorError: for an estimator that cannot be judged.
        ConfigurationError: for attacks or options that cannot work.
        DataError: for inputs or labels that cannot be meant.
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
    given = {key: value for key, value in locals().items() if key not in _OF_ONE_THREAT}
    if threats is not None:
        return _each(threats, eps, checkpoint, given)
    if checks not in (True, False, "auto"):
        raise ConfigurationError(f"checks must be True, False or 'auto', got {checks!r}")
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
        threat = Threat(eps, order, subject.classes, subject.shape)
    chosen, notes = select(attacks, threat, subject)
    notes = [*subject.notes, *notes]
    if smooths(estimator):
        notes.append(
            f"{type(estimator).__name__} predicts by a vote over noise. What is judged here is the "
            "model inside, without noise; analyses=['smoothing'] certifies the vote."
        )
    others = {"mask": mask, "criterion": criterion, "space": space, "normalization": normalization}
    call = _called(subject, attacks, eps, order, others)
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
        surrogate=None if surrogate is None else _other(surrogate, criterion),
        analyses=_seen(analyses, criterion),
        before=None if before is None else _other(before, criterion),
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


def _called(
    subject: Subject, attacks: Any, eps: Any, norm: float, others: Mapping[str, Any]
) -> dict[str, str]:
    """The arguments that decide the numbers, as Python text; what has none by its own name."""
    several = attacks if isinstance(attacks, (list, tuple)) else [attacks]
    named = all(isinstance(attack, str) for attack in several)
    asked = several[0] if len(several) == 1 else list(several)
    told = {"attacks": repr(asked) if named else "attacks"}
    if eps is not None:
        told["eps"] = repr(float(eps)) if isinstance(eps, (int, float)) else "eps"
        told["norm"] = 'float("inf")' if math.isinf(norm) else f"{norm:g}"
    told |= {key: key for key, value in others.items() if value is not None}
    ready = subject.translated is not None
    if isinstance(subject.space, InputSpace) and "space" not in told:
        told |= _range(subject.space, "clip_values" if ready else "bounds")
    if ready:
        told["estimator"] = type(subject.estimator).__name__
    return told


def _range(space: InputSpace, word: str) -> dict[str, str]:
    """The range as Python text; by its own name where it is several numbers."""
    limits = [torch.as_tensor(v) for v in (space.low, space.high) if v is not None]
    if not limits:
        return {} if word == "clip_values" else {word: "None"}
    if len(limits) < 2 or any(limit.numel() > 1 for limit in limits):
        return {word: word}
    low, high = (f"{float(limit):.9g}" for limit in limits)
    return {word: f"({low}, {high})"}


_OF_ONE_THREAT = {"threats", "eps", "norm", "checkpoint"}


def _each(
    threats: Sequence[tuple[float, float]],
    eps: Any,
    checkpoint: str | Path | None,
    options: dict[str, Any],
) -> ThreatReport:
    """An evaluation for each threat, saved in a folder of its own."""
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


def _other(surrogate: Any, criterion: Callable[..., Tensor] | None) -> LossModel:
    """A second model, of which only the gradients are wanted."""
    if isinstance(surrogate, (nn.Module, LossModel)):
        return as_loss_model(surrogate, None if isinstance(surrogate, LossModel) else criterion)
    return view(surrogate).model


def _seen(analyses: Any, criterion: Callable[..., Tensor] | None) -> Any:
    """Analyses whose further models may be estimators, with these as their modules and losses."""
    if isinstance(analyses, Transfer):
        models = analyses.models or {}
        return replace(
            analyses, models={key: _other(model, criterion) for key, model in models.items()}
        )
    if isinstance(analyses, (list, tuple)):
        return [_seen(analysis, criterion) for analysis in analyses]
    return analyses
