"""How far the nearest mistake is: median, quartiles, by class, and the whole distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks, seeding
from artplus.attacks import FAB
from artplus.attacks.fmn import FMN
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    ball_of,
    first,
    need_classes,
    need_gradients,
    need_norm,
    register_analysis,
)
from artplus.evaluation.analyses._measure import (
    beside,
    class_name,
    known_falls,
    labels,
    mistakes,
    sides,
    survival,
)
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Cell, Curves, Model, Section, Table
from artplus.evaluation.verify import verify
from artplus.model import LossModel
from artplus.spaces import InputSpace


@runtime_checkable
class Nearest(Protocol):
    """An attack that seeks the nearest mistake wherever it is: FAB, FMN."""

    @property
    def norm(self) -> float:
        """What is made small."""
        ...

    def minimum(
        self,
        model: LossModel,
        x: Tensor,
        y: Tensor,
        *,
        space: InputSpace = InputSpace(),
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``x_adv`` and its distance ``(batch,)``."""
        ...


@register_analysis("minimum_norm")
@dataclass(frozen=True, kw_only=True)
class MinimumNorms:
    r"""The distribution of :math:`\epsilon^*`, the length of the shortest perturbation that fools.

    .. math:: \epsilon_i^* = \min \{\|\delta\|_p : f(x_i + \delta) \ne y_i\}

    0 where the model is wrong already; an upper bound, since a better attack may find a nearer
    mistake. Needs no radius, so models of different strength compare without tuning one
    (Pintor et al., 2021; Croce and Hein, 2020). Every mistake is checked by a prediction and its
    length measured in double precision; mistakes that the report's attacks found count too.

    Args:
        n: Number of examples, the first; ``None`` is all.
        steps: Steps of each run of FAB; 100 in AutoAttack. FMN, a pass each, takes twice as many.
        targets: Wrong classes to try, the likeliest first; 9 in AutoAttack.
        attacks: Attacks with a ``minimum`` method to run in place of FAB and FMN, such as
            ``FAB(eps=..., targets=None)``; the nearest of what they find counts.

    Raises:
        ConfigurationError: in regression, without gradients, or if the report's attacks have no
            common norm or no radius that is one number.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[MinimumNorms(steps=10)], progress=False,
        ... )
        >>> [name for name, _ in report.sections[0].figures]
        ['q25', 'median', 'q75']
    """

    n: int | None = 256
    steps: int = 50
    targets: int = 5
    attacks: Sequence[Nearest] | None = None

    def __post_init__(self) -> None:
        _checks.count("steps", self.steps)
        _checks.count("targets", self.targets)
        if self.n is not None:
            _checks.count("n", self.n)
        for attack in self.attacks or ():
            if not isinstance(attack, Nearest):
                raise ConfigurationError(
                    f"minimum_norm needs attacks that seek the nearest mistake (FAB, FMN), got "
                    f"{type(attack).__name__}"
                )

    def check(self, setting: Setting) -> None:
        """Refuse regressions, models without gradients, and balls that are not one."""
        need_classes(setting, "minimum_norm")
        _, norm = ball_of(setting, "minimum_norm")
        need_gradients(setting, "minimum_norm")
        need_norm(self.attacks or (), norm, "minimum_norm")

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        eps, norm = ball_of(subject, "minimum_norm")
        index = first(subject, self.n)
        attacks = self.attacks
        if attacks is None:
            attacks = [
                FAB(eps=max(eps, 1e-3), norm=norm, steps=self.steps, targets=self.targets),
                FMN(eps=eps, norm=norm, steps=2 * self.steps),
            ]
        found = {
            model: distances(side, index, attacks, seed=subject.seed)
            for model, side in sides(subject).items()
        }
        found[""] = np.minimum(found[""], known_falls(subject, index, norm))
        radii = _grid(list(found.values()), eps)
        y = labels(subject.data, index)
        classes = [(f"class {class_name(subject, k)}", y == k) for k in sorted(set(y.tolist()))]
        figures = tuple(
            (name, value)
            for name, value in zip(("q25", "median", "q75"), _quartiles(found[""]), strict=True)
            if math.isfinite(value)
        )
        names = ", ".join(type(attack).__name__ for attack in attacks)
        return Section(
            name="minimum_norm",
            title="The nearest mistake",
            summary=_summary(found, eps, norm),
            blocks=(
                *(
                    Curves(
                        x_label=f"{wording.norm_name(norm)} distance",
                        y_label="share with no mistake nearer",
                        series=(survival("model", radii, distance),),
                        caption="Share of examples whose nearest known mistake lies farther away.",
                        model=model,
                    )
                    for model, distance in found.items()
                ),
                *(
                    Table(
                        columns=("examples", "n", "lower quartile", "median", "upper quartile"),
                        units=("text", "count", "number", "number", "number"),
                        rows=(
                            _row("all", distance),
                            *(_row(name, distance[rows]) for name, rows in classes),
                        ),
                        caption="Distance of the nearest known mistake; 0 where the model is wrong "
                        "without one.",
                        model=model,
                    )
                    for model, distance in found.items()
                ),
            ),
            figures=figures,
            notes=(
                f"{names} on the first {len(index)} of {subject.report.n} examples, beside what "
                f"the report's attacks found{beside(subject)}; seed {subject.seed}. Upper bounds: "
                "a better attack may find nearer mistakes.",
            ),
        )


def distances(
    data: EvaluationData, index: Tensor, attacks: Sequence[Nearest], *, seed: int
) -> NDArray[np.float64]:
    """Distance of each example's nearest mistake over the attacks; infinite where none is found."""
    fell = []
    own = seeding.derived(seed, "minimum_norm")
    generator = torch.Generator(data.device).manual_seed(own)
    with seeding.seeded(own):
        for _, x, y, space in data.batches(index):
            best = torch.where(mistakes(data, x, y), 0.0, torch.inf).double()
            for attack in attacks:
                x_adv, _ = attack.minimum(data.model, x, y, space=space, generator=generator)
                x_adv = x_adv.detach()
                checked = verify(x, x_adv, eps=1e30, norm=attack.norm, space=space)
                counts = mistakes(data, x_adv, y) & ~checked.outside_space
                best = torch.where(counts, torch.minimum(best, checked.lengths), best)
            fell.append(best.numpy())
    return np.concatenate(fell)


def _grid(found: list[NDArray[np.float64]], eps: float) -> list[float]:
    """Forty radii from 0 to just beyond the farthest mistake, and the report's own."""
    finite = [float(d[np.isfinite(d)].max(initial=0.0)) for d in found]
    top = max(1.02 * max(finite), eps, 1e-12)
    return sorted({*np.linspace(0, top, 40).tolist(), eps})


def _quartiles(distance: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of values that may be infinite: the lower of the two middle ones, never their mean."""
    low, middle, high = np.quantile(distance, [0.25, 0.5, 0.75], method="lower")
    return float(low), float(middle), float(high)


def _row(name: str, distance: NDArray[np.float64]) -> tuple[Cell, ...]:
    return name, len(distance), *_quartiles(distance)


def _summary(found: dict[Model, NDArray[np.float64]], eps: float, norm: float) -> str:
    middle = {model: _quartiles(distance)[1] for model, distance in found.items()}
    text = f"Half of the examples have a mistake within {wording.norm_name(norm)} {middle['']:.4g}"
    if "before" in middle:
        text += f" (before: {middle['before']:.4g})"
    return f"{text}; the report's radius is {wording.radius(eps)}."
