"""What analyses measure alike: attacks that keep the rules, shares with intervals, two models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import seeding
from artplus.attacks._base import Attack
from artplus.evaluation.analyses._base import Setting, Subject
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.intervals import Interval, wilson
from artplus.evaluation.section import Model, Series
from artplus.evaluation.verify import verify
from artplus.functional import class_index
from artplus.spaces import InputSpace

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Crafted:
    """A batch under attack.

    Attributes:
        part: ``(batch,)`` positions in the data.
        x: As it was.
        x_adv: Under attack; the input itself where the attack broke the rules.
        y: Labels.
        lengths: ``(batch,)`` float64, how far each was moved, in the attack's norm.
        space: Range of valid inputs and mask of this batch.
    """

    part: Tensor
    x: Tensor
    x_adv: Tensor
    y: Tensor
    lengths: Tensor
    space: InputSpace


def crafted(
    data: EvaluationData, attack: Attack, index: Tensor, *, seed: int, name: str
) -> Iterator[Crafted]:
    """Run an attack on the examples ``index``, a batch at a time, and hold it to its rules."""
    own = seeding.derived(seed, name)
    generator = torch.Generator(data.device).manual_seed(own)
    with seeding.seeded(own):
        for part, x, y, space in data.batches(index):
            x_adv = attack(data.model, x, y, space=space, generator=generator).detach().to(x)
            finite = torch.isfinite(x_adv).flatten(1).all(1)
            x_adv = _kept(x, x_adv, finite)
            found = verify(x, x_adv, eps=attack.eps, norm=attack.norm, space=space)
            legal = ~(found.outside_ball | found.outside_space)
            x_adv = _kept(x, x_adv, legal.to(x.device))
            lengths = torch.where(legal, found.lengths, 0.0)
            yield Crafted(part, x, x_adv, y, lengths, space)


def mistakes(data: EvaluationData, x: Tensor, y: Tensor) -> Tensor:
    """``(batch,)`` booleans on the CPU: which predictions are wrong; of a classifier."""
    wrong = data.score(x, y).wrong
    if wrong is None:  # pragma: no cover - need_classes has refused regressions before
        raise TypeError("predictions of a regression are neither right nor wrong")
    return wrong


def probabilities(outputs: Tensor) -> Tensor:
    """Probabilities ``(batch, classes)`` of class outputs; what are such already stay as they are.

    A model that ends in a softmax is thus not softened twice.
    """
    sums = outputs.sum(1)
    if bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        return outputs
    return outputs.softmax(1)


def sides(setting: Setting) -> dict[Model, EvaluationData]:
    """The model judged, after the model before if there is one; on the same examples."""
    if setting.before is None:
        return {"": setting.data}
    return {"before": replace(setting.data, model=setting.before), "": setting.data}


def share(values: Sequence[bool] | Bools) -> tuple[float, Interval]:
    """A share of true values and its 95 % Wilson interval."""
    flags = np.asarray(values, dtype=bool)
    return float(flags.mean()), wilson(int(flags.sum()), len(flags))


def shares(name: str, x: Sequence[float], values: Iterable[Bools]) -> Series:
    """A line of shares with their intervals: at each ``x`` that of true values there."""
    found = [share(flags) for flags in values]
    return Series(
        name=name,
        x=tuple(float(place) for place in x),
        y=tuple(value for value, _ in found),
        low=tuple(low for _, (low, _) in found),
        high=tuple(high for _, (_, high) in found),
    )


def survival(name: str, radii: Sequence[float], fell: NDArray[np.float64]) -> Series:
    """Share of examples whose nearest known mistake is farther than each radius, with intervals.

    Args:
        name: Of the line.
        radii: Ascending.
        fell: ``(n,)`` distance of each example's nearest known mistake; infinite if none is known.
    """
    return shares(name, radii, [~reached(fell, radius) for radius in radii])


def reached(fell: NDArray[np.float64], radius: float) -> Bools:
    """Which mistakes lie within ``radius``, up to the rounding of float32."""
    return np.asarray(fell <= radius * (1 + 1e-4))


def known_falls(subject: Subject, index: Tensor, norm: float) -> NDArray[np.float64]:
    """Distances within which the report's own attacks found mistakes; infinite where none did.

    What is wrong without an attack counts as found at their radius. So what an analysis says of a
    radius is never above what the report says.
    """
    fell = np.full(len(index), math.inf)
    report = subject.report
    rows = index.numpy()
    for result in report.attacks:
        attack = subject.attacks.get(result.name)
        if result.norm != norm or not isinstance(getattr(attack, "eps", None), (int, float)):
            continue
        stood = result.correct if result.fooled is None else ~result.fooled
        if stood is not None:
            # Only survivors: what had fallen to an earlier attack fell within that one's radius,
            # and a later attack's radius must not stand for it unless it is larger.
            fallen = ~stood[rows] & np.isinf(fell) if report.only_survivors else ~stood[rows]
            fell[fallen] = np.minimum(fell[fallen], result.eps)
    return fell


def beside(setting: Setting) -> str:
    """What to add where :func:`known_falls` has no counterpart for the model before."""
    if setting.before is None:
        return ""
    return ", which saw the model after only: the line before may be too high beside it"


def labels(data: EvaluationData, index: Tensor) -> NDArray[np.int64]:
    """Class numbers of the examples ``index``."""
    found: NDArray[np.int64] = class_index(data.y[index]).cpu().numpy()
    return found


def class_name(setting: Setting, k: int) -> str:
    """What the user calls class ``k``, else its number."""
    return str(k) if setting.class_names is None else setting.class_names[k]


def _kept(x: Tensor, x_adv: Tensor, rows: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *(1,) * (x.ndim - 1)), x_adv, x)
