"""The judge: every attack on the same examples, and the worst case of each example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artplus import _checks, allocator, distributed
from artplus.attacks._base import Attack
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses import Analysis, Setting, Subject
from artplus.evaluation.analyses import _run as run_analyses
from artplus.evaluation.attack_run import Outcome, metrics, run_attack
from artplus.evaluation.checks._probe import make_probe
from artplus.evaluation.checks._run import run_checks
from artplus.evaluation.clean import clean_scores
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.fingerprint import fingerprint
from artplus.evaluation.gallery import gallery
from artplus.evaluation.provenance import data_hash, device_name, versions
from artplus.evaluation.report import Report
from artplus.evaluation.result import AttackResult
from artplus.evaluation.saved import Folder
from artplus.evaluation.score_table import ScoreTable
from artplus.evaluation.settings import largest_radius_in, space_in_words
from artplus.evaluation.untouched import untouched
from artplus.evaluation.validation import Values, check_attacks, check_names, make_data
from artplus.evaluation.worst import Worst
from artplus.fingerprint import Fingerprint
from artplus.mapped import Rows
from artplus.model import LossModel, device_of, in_float32
from artplus.spaces import InputSpace, Space, attached
from artplus.tree import Tree


@allocator.keeping()
def judge(
    model: LossModel,
    x: Values | Rows | Tree,
    y: Values | Tree,
    attacks: Mapping[str, Attack],
    *,
    space: Space = InputSpace(),
    batch_size: int = 128,
    seed: int = 0,
    only_survivors: bool = False,
    examples: int = 8,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    notes: Sequence[str] = (),
    checks: bool = False,
    surrogate: LossModel | None = None,
    analyses: str | Analysis | Iterable[str | Analysis] = (),
    before: LossModel | None = None,
    estimator: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 10.0,
    progress: bool = True,
    device: torch.device | str | None = None,
) -> Report:
    """Attack a model on some examples and report what it withstands.

    Predictions are made in evaluation mode and without gradients; the model's flags and its
    parameters' ``.grad`` are restored. Each attack is run on every example that is right without it
    (in regression on all), so that their accuracies compare. What an attack returns is measured in
    double precision: an attack that leaves its ball or the valid range, raises, or returns NaN, a
    wrong shape or nothing but unchanged inputs is *broken*. An example that withstands a broken
    attack is no evidence; only mistakes that the attack found inside the rules count. A targeted
    attack aims at a class drawn uniformly from the others and succeeds with any mistake.
    A model with weights in half precision is attacked in float32: inputs are rounded as they enter
    the module.

    Each attack draws its randomness from ``seed``, its name and the number of the batch, so that
    other attacks, their order, or the number of processes do not change it. Where
    ``torch.distributed`` is initialised, as under ``torchrun`` or ``accelerate launch``, every
    process must call this with the same arguments, including all the examples. Each runs its share
    of the batches, and all return the same report. :func:`artplus.evaluate` says more of the
    options.

    Args:
        model: What is judged.
        x: ``(n, *input)`` floats inside ``space``, or a tree of columns; a memory map is read batch
            by batch.
        y: ``(n,)`` class numbers, ``(n, classes)`` rows, or the targets of the model's task.
        attacks: By name; run in this order.
        space: What may be perturbed, with range and mask.
        batch_size: Examples at a time. Random starts are drawn per batch.
        seed: The same seed gives the same report, but for times and dates.
        only_survivors: Run each attack only on examples that no attack before it fooled; accuracies
            are then cumulative.
        examples: How many attacked examples to keep in the report.
        class_names: One per class, for display.
        name: What to call the model; default its class.
        notes: What else the report should say.
        checks: Look for signs that the attacks failed; fills ``checks`` and ``verdict``.
        surrogate: Another model for the same task, on the same device; needs ``checks``.
        analyses: What else to examine, as names or objects; fills ``sections``.
        before: The model before it was hardened, for analyses that compare.
        estimator: What the model was made of, for analyses that ask for its kind.
        checkpoint: A folder to save the evaluation in as it goes, and to continue from.
        checkpoint_every: Least seconds between two writes; 0 writes after every batch.
        progress: Show a bar per attack, with the robust accuracy so far and the time left.
        device: Where batches go; default where the model's parameters are.

    Raises:
        DataError: for inputs or labels that cannot be meant.
        ConfigurationError: for attacks or options that cannot work.
        CheckpointError: if ``checkpoint`` is damaged or of another evaluation.

    Example:
        >>> import torch
        >>> from artplus.attacks.pgd import PGD
        >>> _ = torch.manual_seed(0)
        >>> x, model = torch.rand(8, 4), LossModel(torch.nn.Linear(4, 3))
        >>> y = model(x).argmax(1)
        >>> report = judge(model, x, y, {"pgd": PGD(eps=0.01)}, progress=False)
        >>> report.clean_accuracy
        1.0
        >>> report.robust_accuracy <= report.clean_accuracy
        True
    """
    batch_size = _checks.count("batch_size", batch_size)
    examples = _checks.count("examples", examples, least=0)
    seed = _checks.seed("seed", seed)
    _checks.flag("only_survivors", only_survivors)
    _checks.flag("progress", progress)
    _checks.text("name", name)
    _checks.nonnegative("checkpoint_every", checkpoint_every)
    check_attacks(attacks)
    chosen = run_analyses.chosen(analyses)
    if surrogate is not None and not checks:
        raise ConfigurationError("a surrogate serves the checks, which are off: checks=True")
    saved = nullcontext() if checkpoint is None else Folder(checkpoint, checkpoint_every)
    where = device_of(model.module) if device is None else torch.device(device)
    with untouched(model.module):
        data = make_data(model, x, y, space, batch_size, where)
    with untouched(model.module), _hooked(data), saved as folder:
        check_names(class_names, data)
        for attack in attacks.values():
            largest_radius_in(attack, data)  # refuse one that does not fit before any has run
        setting = Setting(
            data=data,
            attacks=attacks,
            seed=seed,
            before=None if before is None else in_float32(before),
            estimator=model.module if estimator is None else estimator,
            class_names=None if class_names is None else tuple(class_names),
            progress=progress,
        ).in_raw_units()
        run_analyses.check(chosen, setting)
        digest = data_hash(data.x, data.y)
        settings: dict[str, Any] = {
            "seed": seed,
            "only_survivors": only_survivors,
            "examples": examples,
        }
        if folder is not None or distributed.world_size() > 1:
            key = fingerprint(data, attacks, digest, settings)
            _require_same(key)
            if folder is not None:
                folder.begin(key)
        clean = clean_scores(data, seed, folder)
        outcomes, worst = _run_attacks(data, clean, attacks, folder, progress, **settings)
        kept = gallery(data, clean, _working(outcomes), examples)
        unit = space.unit(data.model)
    task = data.model.task
    results = tuple(outcome.result for outcome in outcomes)
    counted = tuple(outcome.result for outcome in _working(outcomes)) or results
    balls = {(result.norm, result.eps) for result in counted}
    norm, eps = balls.pop() if len(balls) == 1 else (None, None)
    report = Report(
        n=data.n,
        attacks=results,
        losses_clean=clean.losses.numpy(),
        correct_clean=None if clean.wrong is None else (~clean.wrong).numpy(),
        worst_attack=worst.attack,
        predictions_clean=None if clean.predictions is None else clean.predictions.int().numpy(),
        predictions_worst=worst.predictions,
        clean_metrics=metrics(task, clean.losses.numpy(), _numpy(clean.statistics)),
        robust_metrics=worst.metrics(task),
        eps=eps,
        norm=norm,
        space=space_in_words(space),
        seed=seed,
        batch_size=batch_size,
        only_survivors=only_survivors and clean.wrong is not None,  # in regression none is fooled
        examples=kept,
        class_names=None if class_names is None else tuple(class_names),
        model=name or type(model.module).__name__,
        device=device_name(where),
        date=distributed.from_main(
            lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
        ),
        versions=versions(),
        data_hash=digest,
        notes=(*notes, *_notes(data, counted, unit)),
    )
    if checks:
        with (
            untouched(model.module),
            untouched((surrogate or model).module),
            _hooked(data),
        ):
            other = None if surrogate is None else in_float32(surrogate)
            probe = make_probe(data, report, attacks, seed=seed, surrogate=other)
            results_of_checks = distributed.from_main(lambda: run_checks(probe, progress=progress))
            report = replace(report, checks=results_of_checks)
    if not chosen:
        return report
    subject = Subject.of(setting, report)
    sections = distributed.from_main(lambda: run_analyses.run(chosen, subject))
    return replace(report, sections=sections)


def _run_attacks(
    data: EvaluationData,
    clean: ScoreTable,
    attacks: Mapping[str, Attack],
    folder: Folder | None,
    progress: bool,
    *,
    seed: int,
    only_survivors: bool,
    examples: int,
) -> tuple[list[Outcome], Worst]:
    worst, outcomes = Worst(clean, tuple(attacks)), []
    wrong = worst.fooled.copy()
    for k, (name, attack) in enumerate(attacks.items()):
        outcome = run_attack(
            data,
            clean,
            name,
            attack,
            skip=worst.fooled.copy() if only_survivors else wrong,
            already_fooled=worst.fooled,
            seed=seed,
            examples=examples,
            title=f"[{k + 1}/{len(attacks)}] {name}",
            progress=progress,
            part=None if folder is None else folder.attack(k + 1),
        )
        worst.add(k, outcome.scores, working=outcome.result.broken is None)
        outcomes.append(outcome)
    return outcomes, worst


def _working(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.result.broken is None]


@contextmanager
def _hooked(data: EvaluationData) -> Iterator[None]:
    """The space's hooks, set once.

    A relative radius is measured on the first batch, also where the work begins with another one,
    as in a second process or after an interruption.
    """
    if not data.space.hidden:
        yield
        return
    with attached(data.model.module, data.space):
        _, x, _, space = data.batch(torch.arange(min(data.n, data.batch_size)))
        space.lift(data.model, x)
        yield


def _numpy(statistics: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: values.numpy() for name, values in statistics.items()}


def _require_same(key: Fingerprint) -> None:
    """Refuse to share the work with processes that judge different things.

    Raises:
        ConfigurationError: naming what differs.
    """
    for k, other in enumerate(distributed.all_gather(key)):
        differ = [name for name in key | other if key.get(name) != other.get(name)]
        if differ:
            name = differ[0]
            raise ConfigurationError(
                f"the processes must evaluate the same model on the same data, but {name} is "
                f"{key.get(name, 'nothing')} in process {distributed.rank()} and "
                f"{other.get(name, 'nothing')} in process {k}. Give each of them all the examples "
                "and the same arguments: evaluate deals them out itself."
            )


def _notes(data: EvaluationData, results: Sequence[AttackResult], unit: float) -> tuple[str, ...]:
    notes = []
    if unit != 1.0:
        notes.append(
            f"The radius is relative, in units of {wording.number(unit)}, the mean row norm. "
            "Another model has another unit: compare models at an absolute radius."
        )
    balls = dict.fromkeys(wording.ball(result.norm, result.eps) for result in results)
    if len(balls) > 1:
        notes.append(
            f"The attacks have different balls ({', '.join(balls)}): the worst case is over "
            "their union, and the attacks' accuracies do not compare."
        )
    if not data.model.task.per_example and not data.model.task.in_model:
        notes.append(
            "The loss is a mean over the batch, so losses and the worst case are per batch."
        )
    return tuple(notes)
