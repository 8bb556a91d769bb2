"""The judge: every attack on the same examples, and the worst case of each example."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from artplus import _checks
from artplus.attacks._base import Attack
from artplus.errors import ConfigurationError, ConversionWarning, DataError
from artplus.evaluation import indicators, probe, wording
from artplus.evaluation.analyses import Analysis, Setting, Subject
from artplus.evaluation.analyses import _run as looking
from artplus.evaluation.bench import Bench, Mistakes, Scores
from artplus.evaluation.report import Report
from artplus.evaluation.result import AttackResult, Examples
from artplus.evaluation.trial import Exhibit, Outcome, largest_radius, metrics, trial
from artplus.evaluation.untouched import untouched
from artplus.mapped import Inputs, Rows, as_inputs, as_tensor, chunks
from artplus.model import LossModel, device_of
from artplus.spaces import InputSpace

Values = Tensor | NDArray[Any]


def judge(
    model: LossModel,
    x: Values | Rows,
    y: Values,
    attacks: Mapping[str, Attack],
    *,
    space: InputSpace = InputSpace(),
    batch_size: int = 128,
    seed: int = 0,
    only_survivors: bool = False,
    mistakes: Mistakes | None = None,
    examples: int = 8,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    notes: Sequence[str] = (),
    checks: bool = False,
    surrogate: LossModel | None = None,
    analyses: str | Analysis | Iterable[str | Analysis] = (),
    before: LossModel | None = None,
    estimator: Any = None,
    progress: bool = True,
    device: torch.device | str | None = None,
) -> Report:
    """Attack a model on given examples and report what it withstands.

    Predictions are made in evaluation mode and without gradients; the model's flags and its
    parameters' ``.grad`` come back as they were. Each attack is run on every example that is
    right without it (in regression on all), so that their accuracies compare. What an attack
    returns is measured in double precision: one that leaves its ball or the valid range, raises,
    or returns NaN, a wrong shape or nothing but unchanged inputs is *broken*: what withstands it
    is no evidence, and only mistakes that it found inside the rules count. A targeted attack aims
    at a class drawn uniformly from the others and succeeds with any mistake.

    Args:
        model: What is judged.
        x: ``(n, *input)`` floats inside ``space``; a memory map is read a batch at a time.
        y: ``(n,)`` class numbers, ``(n, classes)`` rows, or the targets of a regression.
        attacks: By name; run in this order. Each draws its randomness from ``seed`` and its
            name, so that others, or their order, do not change it.
        space: Range of valid inputs and mask.
        batch_size: Examples at a time. Random starts are drawn per batch.
        seed: The same seed gives the same report, but for times and dates.
        only_survivors: Run each attack only on what the ones before left standing. Faster for an
            ensemble and with the same worst case (up to random draws); the accuracies are then
            cumulative.
        mistakes: ``(predictions, y) -> (batch,)`` booleans, which predictions are wrong. Default:
            the wrong class, if the loss is over classes, else none (regression).
        examples: How many attacked examples to keep in the report.
        class_names: One per class, for display.
        name: What to call the model; default its class.
        notes: What else the report should say.
        checks: Look for signs that the attacks failed, on up to 64 examples that are right without
            an attack: :mod:`artplus.evaluation.indicators`. Fills ``findings`` and ``verdict``.
        surrogate: Another model for the same task, on the same device: the checks then hold
            attacks made on it against those made on the model. Needs ``checks``.
        analyses: What else to look into, as names or objects of
            :mod:`artplus.evaluation.analyses`; fills ``sections``. Each is asked before the
            attacks run whether it applies; one that fails afterwards says so in its section.
        before: The model before it was hardened, for analyses that compare.
        estimator: What the model was made of, for analyses that ask for its kind.
        progress: Show a bar per attack, with the robust accuracy so far and the time left.
        device: Where batches go; default where the model's parameters are.

    Raises:
        DataError: for inputs or labels that cannot be meant.
        ConfigurationError: for attacks or options that cannot work.

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
    _checks.count("batch_size", batch_size)
    _checks.count("examples", examples, least=0)
    _named(attacks)
    looks = looking.chosen(analyses)
    if surrogate is not None and not checks:
        raise ConfigurationError("a surrogate serves the checks, which are off: checks=True")
    where = device_of(model.module) if device is None else torch.device(device)
    with untouched(model.module):
        bench = _bench(model, x, y, space, batch_size, where, mistakes)
        _class_names(class_names, bench)
        for attack in attacks.values():
            largest_radius(attack, bench.x)  # refuse one that does not fit before any has run
        setting = Setting(
            bench=bench,
            attacks=attacks,
            seed=seed,
            before=before,
            estimator=model.module if estimator is None else estimator,
            class_names=None if class_names is None else tuple(class_names),
            progress=progress,
        )
        looking.check(looks, setting)
        clean = bench.clean()
        outcomes = _trials(bench, clean, attacks, seed, only_survivors, examples, progress)
    results = tuple(outcome.result for outcome in outcomes)
    working = [outcome for outcome in outcomes if outcome.result.broken is None]
    counted = tuple(outcome.result for outcome in working) or results
    balls = {(result.norm, result.eps) for result in counted}
    norm, eps = balls.pop() if len(balls) == 1 else (None, None)
    report = Report(
        n=len(bench.x),
        attacks=results,
        losses_clean=clean.losses.numpy(),
        correct_clean=None if clean.wrong is None else (~clean.wrong).numpy(),
        worst_attack=_worst_attack(clean, working and outcomes, first=only_survivors),
        predictions_clean=clean.predictions.numpy() if bench.classes else None,
        predictions_worst=(
            _worst_predictions(clean, outcomes, first=only_survivors)
            if bench.classes and working
            else None
        ),
        clean_metrics=metrics(clean.losses, clean.errors),
        robust_metrics=_worst_metrics(clean, working),
        eps=eps,
        norm=norm,
        seed=seed,
        batch_size=batch_size,
        only_survivors=only_survivors,
        examples=_gallery(bench, clean, working, examples),
        class_names=None if class_names is None else tuple(class_names),
        model=name or type(model.module).__name__,
        device=_device_name(where),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=_versions(),
        data_hash=_hash(bench.x, bench.y),
        notes=(*notes, *_notes(bench, counted)),
    )
    if checks:
        with untouched(model.module), untouched((surrogate or model).module):
            looked_at = probe.take(bench, report, attacks, seed=seed, surrogate=surrogate)
            report = replace(report, findings=indicators.check(looked_at, progress=progress))
    if not looks:
        return report
    return replace(report, sections=looking.run(looks, Subject.of(setting, report)))


def _bench(
    model: LossModel,
    x: Values | Rows,
    y: Values,
    space: InputSpace,
    batch_size: int,
    device: torch.device,
    mistakes: Mistakes | None,
) -> Bench:
    """Check model and data against each other before anything costs time."""
    x, y = _floats(as_inputs(x), model.module), as_tensor(y).detach()
    _checks.inputs(x, low=space.low, high=space.high)
    _mask(space, x)
    if y.ndim == 0 or len(y) != len(x):
        raise DataError(f"y must have one label per input: {len(x)} inputs, y {tuple(y.shape)}")
    outputs = _probe(model, x[:1].to(device))
    if not model.criterion.over_classes:
        y = _targets(y, outputs)
        return Bench(model, x, y, space, batch_size, device, mistakes, None)
    if outputs.ndim != 2:
        raise DataError(
            f"a classifier must predict (batch, classes), got {tuple(outputs.shape)} for one "
            "example. Give the model the loss it was trained on if it is no classifier."
        )
    classes = outputs.shape[1]
    _checks.class_labels(y, n=len(x), classes=classes)
    y = y.long() if y.ndim == 1 else y.to(x.dtype)
    return Bench(model, x, y, space, batch_size, device, mistakes or model.wrong, classes)


def _mask(space: InputSpace, x: Inputs) -> None:
    if space.mask is None:
        return
    per_example = space.mask.ndim == x.ndim and len(space.mask) > 1
    try:
        space.mask.expand(x.shape if per_example else (1, *x.shape[1:]))
    except RuntimeError:
        raise ConfigurationError(
            f"mask of shape {tuple(space.mask.shape)} does not broadcast over inputs "
            f"{tuple(x.shape)}"
        ) from None


def _floats(x: Inputs, module: nn.Module) -> Inputs:
    """Inputs in the module's own precision."""
    x = x.detach() if isinstance(x, Tensor) else x
    if not x.dtype.is_floating_point:
        raise DataError(
            f"x must be floats in the range of the model's inputs, got {x.dtype}; "
            "x.float() / 255 makes images of bytes"
        )
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    if x.dtype == own:
        return x
    warnings.warn(
        f"x is {x.dtype}, the model {own}: x was converted", ConversionWarning, stacklevel=4
    )
    return x.to(own)


def _probe(model: LossModel, x: Tensor) -> Tensor:
    """Predictions for one example."""
    try:
        with torch.no_grad():
            return model(x)
    except RuntimeError as error:
        raise DataError(
            f"the model cannot take an input of shape {tuple(x.shape)} on {x.device}: {error}"
        ) from error


def _targets(y: Tensor, outputs: Tensor) -> Tensor:
    """Regression targets, shaped as the outputs so that errors are taken element by element."""
    if not y.is_floating_point():
        return y
    if not bool(torch.isfinite(y).all()):
        raise DataError("y must be finite, but it holds NaN or infinity")
    if y[0].numel() != outputs[0].numel():
        return y  # the loss knows what to do with it, or says so
    return y.to(outputs.dtype).reshape(len(y), *outputs.shape[1:])


def _named(attacks: Mapping[str, Attack]) -> None:
    if not isinstance(attacks, Mapping) or not attacks:
        raise ConfigurationError("attacks must be a mapping name -> attack with at least one entry")
    for name, attack in attacks.items():
        if not isinstance(name, str) or name in {"", wording.CLEAN, wording.WORST}:
            raise ConfigurationError(f"an attack cannot be called {name!r}; choose another name")
        if not isinstance(attack, Attack):
            raise ConfigurationError(
                f"attack {name!r} must be an artplus attack such as PGD(eps=0.1), got "
                f"{type(attack).__name__}. ART's attacks go to artplus.evaluate."
            )
        if isinstance(attack.eps, float) and attack.eps == torch.inf:
            raise ConfigurationError(
                f"attack {name!r} has no radius, so anything would count as fooled; judge it by "
                "one: MinimumNorm(attack, eps=..., norm=...), or evaluate(..., eps=...)"
            )


def _class_names(class_names: Sequence[str] | None, bench: Bench) -> None:
    if class_names is not None and bench.classes is not None and len(class_names) != bench.classes:
        raise ConfigurationError(
            f"class_names must hold {bench.classes} names, got {len(class_names)}"
        )


def _trials(
    bench: Bench,
    clean: Scores,
    attacks: Mapping[str, Attack],
    seed: int,
    only_survivors: bool,
    exhibits: int,
    progress: bool,
) -> list[Outcome]:
    fallen = torch.zeros(len(bench.x), dtype=torch.bool) if clean.wrong is None else clean.wrong
    outcomes = []
    for k, (name, attack) in enumerate(attacks.items(), 1):
        targets = fallen if only_survivors or clean.wrong is None else clean.wrong
        index = (~targets).nonzero().flatten()
        with tqdm(
            total=len(index),
            desc=f"[{k}/{len(attacks)}] {name}",
            unit="ex",
            leave=False,
            disable=not progress,
        ) as bar:
            outcome = trial(
                bench,
                Scores(clean.losses, fallen if only_survivors else clean.wrong, clean.errors,
                       clean.predictions),
                name, attack, index, seed=seed, exhibits=exhibits,
                progress=_shown(bar, fallen),
            )  # fmt: skip
        outcomes.append(outcome)
        if outcome.scores.wrong is not None:
            fallen = fallen | outcome.scores.wrong
    return outcomes


def _shown(bar: Any, fallen: Tensor) -> Callable[[int, Tensor | None], None]:
    """Advance the bar and show which share is standing so far."""

    def shown(done: int, wrong: Tensor | None) -> None:
        if wrong is not None and not bar.disable:
            standing = 1 - float((fallen | wrong).double().mean())
            bar.set_postfix_str(f"robust so far {wording.percent(standing)}", refresh=False)
        bar.update(done)

    return shown


def _worst_attack(clean: Scores, outcomes: Sequence[Outcome], *, first: bool) -> tuple[str, ...]:
    """Of the attacks that fool an example, the one with the largest loss; in regression of all."""
    working = _counted(outcomes)
    already = _flags(clean.wrong, len(clean.losses)).tolist()
    return tuple(
        wording.CLEAN if wrong else ("" if k < 0 else working[k].result.name)
        for wrong, k in zip(already, _worst(clean, working, first).tolist(), strict=True)
    )


def _worst_predictions(
    clean: Scores, outcomes: Sequence[Outcome], *, first: bool
) -> NDArray[np.int64]:
    """The class predicted under the attack that :func:`_worst_attack` names, else the clean one."""
    working = _counted(outcomes)
    worst = _worst(clean, working, first)
    under = torch.stack([o.scores.predictions for o in working])
    found = under.gather(0, worst.clamp_min(0)[None]).squeeze(0)
    kept = (worst < 0) | _flags(clean.wrong, len(worst))
    return torch.where(kept, clean.predictions, found).numpy()


def _counted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.result.broken is None or o.result.fooled is not None]


def _worst(clean: Scores, working: Sequence[Outcome], first: bool) -> Tensor:
    """``(n,)``: number of the attack of the largest loss among those that fool, -1 where none does.

    With ``first`` the first that fools: the others saw survivors only, and what they say of an
    example that had fallen is its clean loss.
    """
    if not working:
        return torch.full((len(clean.losses),), -1)
    losses = torch.stack([outcome.scores.losses for outcome in working])
    if clean.wrong is None:
        hit = losses > clean.losses
    else:
        hit = torch.stack([_flags(o.scores.wrong, len(clean.losses)) for o in working])
        if first:
            return torch.where(hit.any(0), hit.int().argmax(0), -1)
    best = torch.where(hit, losses, -torch.inf).argmax(0)
    return torch.where(hit.any(0), best, -1)


def _flags(wrong: Tensor | None, n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.bool) if wrong is None else wrong


def _worst_metrics(clean: Scores, working: Sequence[Outcome]) -> dict[str, float]:
    """Mean loss and RMSE, each example under whatever raised its loss most."""
    if not working:
        return {}
    scores = [clean, *(outcome.scores for outcome in working)]
    losses, best = torch.stack([s.losses for s in scores]).max(0)
    errors = [s.errors for s in scores if s.errors is not None]
    if len(errors) < len(scores):
        return metrics(losses, None)
    return metrics(losses, torch.stack(errors).gather(0, best[None]).squeeze(0))


def _gallery(
    bench: Bench, clean: Scores, working: Sequence[Outcome], count: int
) -> Examples | None:
    """Up to ``count`` different examples, taken from the attacks in turn; fooled ones first."""
    chosen: dict[int, tuple[Exhibit, str]] = {}
    for shelf in ("fooled", "held"):
        queues = [(outcome.result.name, list(getattr(outcome, shelf))) for outcome in working]
        while len(chosen) < count and any(queue for _, queue in queues):
            for attack, queue in queues:
                while queue and queue[0].position in chosen:
                    queue.pop(0)
                if queue and len(chosen) < count:
                    exhibit = queue.pop(0)
                    chosen[exhibit.position] = exhibit, attack
    if not chosen:
        return None
    kept = [chosen[position] for position in sorted(chosen)]
    index = np.asarray([exhibit.position for exhibit, _ in kept], dtype=np.int64)
    return Examples(
        index=index,
        x=torch.stack([exhibit.x for exhibit, _ in kept]).float().numpy(),
        x_adv=torch.stack([exhibit.x_adv for exhibit, _ in kept]).float().numpy(),
        y=bench.labels()[index].numpy(),
        clean=clean.predictions[index].numpy(),
        adversarial=torch.stack([exhibit.prediction for exhibit, _ in kept]).numpy(),
        attack=tuple(name for _, name in kept),
    )


def _notes(bench: Bench, results: Sequence[AttackResult]) -> tuple[str, ...]:
    notes = []
    balls = dict.fromkeys(wording.ball(result.norm, result.eps) for result in results)
    if len(balls) > 1:
        notes.append(
            f"The attacks have different balls ({', '.join(balls)}): the worst case is over "
            "their union, and the attacks' accuracies do not compare."
        )
    if not bench.model.criterion.per_example:
        notes.append(
            "The loss is a mean over the batch, so losses and the worst case are per batch."
        )
    return tuple(notes)


def _hash(x: Inputs, y: Tensor) -> str:
    digest = hashlib.sha256()
    for values, dtype in ((x, torch.float32), (y, torch.float64)):
        digest.update(str(tuple(values.shape)).encode())
        for part in chunks(values):
            digest.update(np.ascontiguousarray(part.to(dtype).cpu().numpy()).data)
    return digest.hexdigest()[:16]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("artplus", "torch", "adversarial-robustness-toolbox", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
