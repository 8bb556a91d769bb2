"""One attack on trial: run, measured, scored, and believed only if it kept the rules."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from artplus import seeding
from artplus.attacks._base import Attack, Relative, resolve
from artplus.evaluation.bench import Bench, Scores
from artplus.evaluation.minimum_norm import MinimumNorm
from artplus.evaluation.result import AttackResult
from artplus.evaluation.verify import Findings, verify
from artplus.evaluation.wording import number
from artplus.geometry import geometry
from artplus.mapped import Inputs, chunks
from artplus.spaces import InputSpace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exhibit:
    """One attacked example, kept to be looked at."""

    position: int
    x: Tensor
    x_adv: Tensor
    prediction: Tensor


@dataclass(frozen=True)
class Outcome:
    """What a trial hands to the judge.

    Attributes:
        result: For the report.
        scores: Of all n examples, the clean ones where the attack was not run.
        fooled: Examples that it turned, at most as many as were asked for.
        held: Examples that it did not.
    """

    result: AttackResult
    scores: Scores
    fooled: list[Exhibit]
    held: list[Exhibit]


@dataclass
class _Tally:
    """What accumulates over the batches."""

    wrong: Tensor | None
    losses: Tensor
    errors: Tensor | None
    predictions: Tensor
    lengths: list[Tensor] = field(default_factory=list)
    outside_ball: int = 0
    outside_space: int = 0
    changed: int = 0
    beyond: int = 0
    fooled: list[Exhibit] = field(default_factory=list)
    held: list[Exhibit] = field(default_factory=list)


class _Broken(Exception):
    """The attack cannot go on; the message says why."""


def trial(
    bench: Bench,
    clean: Scores,
    name: str,
    attack: Attack,
    index: Tensor,
    *,
    seed: int,
    exhibits: int,
    progress: Callable[[int, Tensor | None], None],
) -> Outcome:
    """Run one attack on the examples ``index``.

    The attack is broken if it raises, returns something other than finite inputs of the right
    shape, returns every input unchanged although it may move them, or breaks the rules on even
    one example: then what withstands it is no evidence. An example that breaks the rules is put
    back to its input and is not fooled. A mistake found inside the rules is verified and counts,
    even of a broken attack.

    Args:
        bench: Model and data.
        clean: Scores of all n examples without an attack.
        name: For the report; the random draws follow from it and ``seed``, not from the order.
        attack: The attack.
        index: Positions of the examples to attack.
        seed: Of the whole evaluation.
        exhibits: How many examples to keep.
        progress: Told after each batch its size and who has fallen so far.
    """
    own = seeding.derived(seed, name)
    tally = _Tally(
        None if clean.wrong is None else clean.wrong.clone(),
        clean.losses.clone(),
        None if clean.errors is None else clean.errors.clone(),
        clean.predictions.clone(),
    )
    eps = largest_radius(attack, bench.x)
    begin, broken = time.perf_counter(), None
    with seeding.seeded(own):
        try:
            _run(bench, attack, index, own, tally, exhibits, progress)
        except _Broken as reason:
            broken = str(reason)
    seconds = time.perf_counter() - begin
    broken = broken or _verdict(attack, tally, eps, len(index))
    fooled = None if clean.wrong is None or tally.wrong is None else tally.wrong & ~clean.wrong
    if not broken or fooled is None or not bool(fooled.any()):
        fooled = None
    lengths = torch.cat(tally.lengths) if tally.lengths else None
    wrong = tally.wrong
    result = AttackResult(
        name=name,
        norm=float(attack.norm),
        eps=eps,
        params=parameters(attack),
        attacked=len(index),
        correct=None if broken or wrong is None else (~wrong).numpy(),
        losses=None if broken else tally.losses.numpy(),
        metrics={} if broken else metrics(tally.losses, tally.errors),
        changed=tally.changed,
        max_norm=None if lengths is None else float(lengths.max()),
        mean_norm=None if lengths is None else float(lengths.mean()),
        eps_violations=tally.outside_ball,
        clip_violations=tally.outside_space,
        seconds=seconds,
        flags=_flags(tally, len(index), fooled),
        broken=broken,
        fooled=None if fooled is None else fooled.numpy(),
    )
    scores = Scores(tally.losses, wrong, tally.errors, tally.predictions)
    return Outcome(result, scores, tally.fooled, tally.held)


def largest_radius(attack: Attack, x: Inputs) -> float:
    """The radius as one number; the largest where it differs per feature or example.

    Raises:
        ConfigurationError: if it does not fit the inputs.
    """
    if isinstance(attack.eps, Relative):
        return max(_largest(attack, part) for part in chunks(x))
    # Any other radius depends on shape and dtype alone, so inputs without memory will do.
    return _largest(attack, torch.empty((), dtype=x.dtype, device=x.device).expand(x.shape))


def _largest(attack: Attack, x: Tensor) -> float:
    radius = resolve(attack.eps, x, geometry(attack.norm))
    return float(torch.as_tensor(radius, dtype=torch.float64).max())


def metrics(losses: Tensor, errors: Tensor | None) -> dict[str, float]:
    """Mean loss, and root mean squared error in regression."""
    means = {"loss": float(losses.mean())}
    if errors is not None:
        means["rmse"] = float(errors.mean().sqrt())
    return means


def parameters(attack: Attack) -> dict[str, Any]:
    """An attack's settings as plain values; of what has none, the type's name."""
    settings: dict[str, Any] = {"attack": type(attack).__name__}
    if dataclasses.is_dataclass(attack):
        for entry in dataclasses.fields(attack):
            settings[entry.name] = plain(getattr(attack, entry.name))
    return settings


def plain(value: Any) -> Any:
    """A setting that JSON can hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(str(plain(item)) for item in value)
    shape = getattr(value, "shape", None)
    if shape is not None:
        return float(value) if len(shape) == 0 else f"array {tuple(shape)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {e.name: plain(getattr(value, e.name)) for e in dataclasses.fields(value)}
        return f"{type(value).__name__}({', '.join(f'{k}={v}' for k, v in own.items())})"
    return type(value).__name__


def _run(
    bench: Bench,
    attack: Attack,
    index: Tensor,
    seed: int,
    tally: _Tally,
    exhibits: int,
    progress: Callable[[int, Tensor | None], None],
) -> None:
    generator = torch.Generator(bench.device).manual_seed(seed)
    aims = _targets(bench, seed) if getattr(attack, "targeted", False) else None
    for part, x, y, space in bench.batches(index):
        label = y if aims is None else aims[part].to(y.device)
        x_adv = _craft(bench, attack, x, label, space, generator)
        found = verify(x, x_adv, eps=attack.eps, norm=attack.norm, space=space)
        if isinstance(attack, MinimumNorm):
            far = found.outside_ball
            tally.beyond += int(far.sum())
            x_adv = _put_back(x, x_adv, far)
            found = dataclasses.replace(
                found,
                outside_ball=torch.zeros_like(far),
                lengths=torch.where(far, 0.0, found.lengths),
            )
        x_adv = _put_back(x, x_adv, found.outside_ball | found.outside_space)
        _count(bench, tally, part, x, x_adv, y, found, exhibits)
        progress(len(part), tally.wrong)


def _put_back(x: Tensor, x_adv: Tensor, rows: Tensor) -> Tensor:
    """``x_adv`` with the inputs themselves where ``rows`` is true."""
    return torch.where(rows.to(x.device).view(-1, *(1,) * (x.ndim - 1)), x, x_adv)


def _craft(
    bench: Bench,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    space: InputSpace,
    generator: torch.Generator,
) -> Tensor:
    try:
        x_adv = attack(bench.model, x, y, space=space, generator=generator)
    except Exception as error:
        # Whatever a third party's attack raises is a finding about that attack: it is reported
        # as broken, and the attacks after it still run. The traceback goes to the log.
        _log.info("attack %s raised", type(attack).__name__, exc_info=True)
        message = " ".join(str(error).split())[:300]
        raise _Broken(f"raised {type(error).__name__}: {message}") from error
    if not isinstance(x_adv, Tensor):
        raise _Broken(f"returned {type(x_adv).__name__} instead of a tensor")
    if x_adv.shape != x.shape:
        raise _Broken(f"returned shape {tuple(x_adv.shape)} for inputs of shape {tuple(x.shape)}")
    x_adv = x_adv.detach().to(x)
    lost = int((~torch.isfinite(x_adv)).reshape(len(x), -1).any(1).sum())
    if lost:
        raise _Broken(f"returned NaN or infinity in {lost} of {len(x)} examples of a batch")
    return x_adv


def _count(
    bench: Bench,
    tally: _Tally,
    part: Tensor,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    found: Findings,
    exhibits: int,
) -> None:
    scores = bench.score(x_adv, y)
    tally.losses[part] = scores.losses
    if tally.errors is not None and scores.errors is not None:
        tally.errors[part] = scores.errors
    if tally.wrong is not None and scores.wrong is not None:
        tally.wrong[part] = scores.wrong
    tally.predictions[part] = scores.predictions
    tally.lengths.append(found.lengths)
    tally.outside_ball += int(found.outside_ball.sum())
    tally.outside_space += int(found.outside_space.sum())
    tally.changed += int(found.changed.sum())
    turned = scores.wrong if scores.wrong is not None else torch.ones(len(part), dtype=torch.bool)
    for row in range(len(part)):
        shelf = tally.fooled if bool(turned[row]) else tally.held
        if len(shelf) < exhibits:
            kept = (v[row].cpu().clone() for v in (x, x_adv, scores.predictions))  # not the batch
            shelf.append(Exhibit(int(part[row]), *kept))


def _verdict(attack: Attack, tally: _Tally, eps: float, attacked: int) -> str | None:
    """Why a finished attack does not count, if it does not."""
    if tally.outside_ball:
        longest = number(float(torch.cat(tally.lengths).max()))
        return (
            f"left its ball on {tally.outside_ball} of {attacked} examples "
            f"(largest norm {longest}, eps {number(eps)})"
        )
    if tally.outside_space:
        return (
            f"left the range of valid inputs, or changed what the mask holds, on "
            f"{tally.outside_space} of {attacked} examples"
        )
    if attacked and eps > 0 and not tally.changed:
        return f"returned all {attacked} inputs unchanged, so it shows nothing"
    return None


def _flags(tally: _Tally, attacked: int, fooled: Tensor | None) -> tuple[str, ...]:
    flags = []
    if fooled is not None:
        flags.append(
            f"{int(fooled.sum())} mistakes that it found inside the rules count against the model"
        )
    if tally.beyond:
        flags.append(f"{tally.beyond} of {attacked} examples needed more than eps: not fooled")
    still = attacked - tally.changed
    if tally.changed and still:
        flags.append(f"{still} of {attacked} examples came back unchanged")
    return tuple(flags)


def _targets(bench: Bench, seed: int) -> Tensor:
    """For each of the n examples a class other than its own, uniformly drawn."""
    if bench.classes is None or bench.classes < 2:
        raise _Broken("is targeted, which needs a classifier of at least two classes")
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, bench.classes, (len(bench.x),), generator=generator)
    return (bench.labels() + shift) % bench.classes
