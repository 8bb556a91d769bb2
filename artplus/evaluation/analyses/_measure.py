"""Measurements of several analyses: attacked examples, nearest mistakes, shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import seeding, tree
from artplus.attacks._base import Attack
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import Setting, Subject
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.intervals import Interval, wilson
from artplus.evaluation.result import Bools
from artplus.evaluation.section import Model, Series, Unit
from artplus.evaluation.verify import verify

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class Crafted:
    """A batch under attack.

    Attributes:
        part: ``(batch,)`` positions in the data.
        x: Clean inputs.
        x_adv: Inputs under attack; the clean input where nothing valid was found.
        y: Labels.
        lengths: ``(batch,)`` float64 on the CPU, lengths of the perturbations in the attack's norm.
    """

    part: Tensor
    x: Tensor
    x_adv: Tensor
    y: Tensor
    lengths: Tensor


def crafted(
    data: EvaluationData, attack: Attack, index: Tensor, *, seed: int, name: str
) -> Iterator[Crafted]:
    """Attack the examples ``index`` batch by batch.

    Where the attack breaks the rules, the clean input is put back.
    """
    with _generator(data, seed, name) as generator:
        for part, x, y, space in data.batches(index):
            copies = tree.clone(x), tree.clone(y)  # an attack may overwrite them
            x_adv = attack(data.model, *copies, space=space, generator=generator).detach().to(x)
            x_adv = _where(torch.isfinite(x_adv).flatten(1).all(1), x_adv, x)
            check = verify(x, x_adv, eps=attack.eps, norm=attack.norm, space=space)
            legal = ~(check.outside_ball | check.outside_space)
            lengths = torch.where(legal, check.lengths, 0.0)
            yield Crafted(part, x, _where(legal, x_adv, x), y, lengths)


def nearest_mistakes(
    data: EvaluationData, attacks: Sequence[Any], index: Tensor, *, seed: int, name: str
) -> Iterator[Crafted]:
    """The nearest mistake of each example that attacks with a ``minimum`` method find.

    Every mistake is checked by a prediction. ``lengths`` are 0 where the model is wrong without an
    attack, and infinite where no mistake was found.
    """
    with _generator(data, seed, name) as generator:
        for part, x, y, space in data.batches(index):
            best, lengths = x, torch.where(mistakes(data, x, y), 0.0, torch.inf).double()
            for attack in attacks:
                x_adv, _ = attack.minimum(data.model, x, y, space=space, generator=generator)
                check = verify(x, x_adv.detach(), eps=1e30, norm=attack.norm, space=space)
                better = mistakes(data, x_adv, y) & ~check.outside_space & (check.lengths < lengths)
                lengths = torch.where(better, check.lengths, lengths)
                best = _where(better, x_adv.detach(), best)
            yield Crafted(part, x, best, y, lengths)


def mistakes(data: EvaluationData, x: Tensor, y: Tensor) -> Tensor:
    """``(batch,)`` booleans on the CPU: which predictions of a classifier are wrong."""
    wrong = data.score(x, y).wrong
    if wrong is None:  # pragma: no cover - need_classes has refused regressions before
        raise TypeError("predictions of a regression are neither right nor wrong")
    return wrong


def share(values: Sequence[bool] | Bools) -> tuple[float, Interval]:
    """A share of true values and its 95 % Wilson interval."""
    flags = np.asarray(values, dtype=bool)
    return float(flags.mean()), wilson(int(flags.sum()), len(flags))


def shares(name: str, x: Sequence[float], values: Iterable[Bools]) -> Series:
    """A line with intervals: the share of true values at each ``x``."""
    values_and_bounds = [share(flags) for flags in values]
    return Series(
        name=name,
        x=tuple(float(place) for place in x),
        y=tuple(value for value, _ in values_and_bounds),
        low=tuple(low for _, (low, _) in values_and_bounds),
        high=tuple(high for _, (_, high) in values_and_bounds),
    )


def survival(radii: Sequence[float], distances: Distances) -> Series:
    """Share of examples whose nearest known mistake is farther than each radius, with intervals.

    Args:
        radii: Ascending.
        distances: ``(n,)`` of each example's nearest known mistake; infinite if none is known.
    """
    # Up to the rounding of float32, a mistake at the radius lies within it.
    return shares("model", radii, [~(distances <= radius * (1 + 1e-4)) for radius in radii])


def known_mistakes(subject: Subject, index: Tensor, norm: float) -> Distances:
    """Distances within which the report's own attacks found mistakes; infinite where none did.

    Examples that are wrong without an attack count as found at their radius. So an analysis never
    gives a higher accuracy at a radius than the report does.
    """
    report, rows = subject.report, index.numpy()
    distances = np.full(len(index), math.inf)
    for result in report.attacks:
        attack = subject.attacks.get(result.name)
        if result.norm != norm or not isinstance(getattr(attack, "eps", None), (int, float)):
            continue
        robust = result.correct if result.fooled is None else ~result.fooled
        if robust is not None:
            # If each attack was run only on survivors, an example that an earlier attack fooled
            # counts as wrong under a later one, whose radius says nothing about it.
            fooled = ~robust[rows] & (np.isinf(distances) | (not report.only_survivors))
            distances[fooled] = np.minimum(distances[fooled], result.eps)
    return distances


def with_before(values: Mapping[Model, float], unit: Unit) -> str:
    """A figure of the judged model, and that of the model before if there is one.

    Example:
        >>> with_before({"before": 0.1, "": 0.5}, "percent"), with_before({"": 2.0}, "number")
        ('50.0% (before hardening: 10.0%)', '2')
    """
    text = wording.cell(values[""], unit)
    if "before" in values:
        text += f" (before hardening: {wording.cell(values['before'], unit)})"
    return text


def unlike_before(setting: Setting) -> str:
    """Addition to a note where :func:`known_mistakes` counts for the judged model alone."""
    if setting.before is None:
        return ""
    return ", which saw the model after only: the line before may be too high beside it"


@contextmanager
def _generator(data: EvaluationData, seed: int, name: str) -> Iterator[torch.Generator]:
    """A generator whose draws follow from ``seed`` and ``name``; the global ones are seeded too."""
    derived = seeding.derived(seed, name)
    with seeding.seeded(derived):
        yield torch.Generator(data.device).manual_seed(derived)


def _where(rows: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """``x`` in the rows that are true, ``other`` in the rest."""
    return torch.where(rows.to(x.device).view(-1, *(1,) * (x.ndim - 1)), x, other)
