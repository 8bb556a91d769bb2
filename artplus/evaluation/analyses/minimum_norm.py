"""How far the nearest mistake is: median, quartiles, by class, and the whole distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from artplus.attacks import FAB
from artplus.attacks.fmn import FMN
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    BaseAnalysis,
    Setting,
    Subject,
    need_norm,
    register_analysis,
)
from artplus.evaluation.analyses._measure import (
    Distances,
    known_mistakes,
    nearest_mistakes,
    survival,
    unlike_before,
)
from artplus.evaluation.section import Cell, Curves, Section, Table


@runtime_checkable
class Nearest(Protocol):
    """An attack that seeks the nearest mistake, however far: FAB, FMN."""

    @property
    def norm(self) -> float:
        """The norm of the distance."""
        ...

    @property
    def minimum(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """``(model, x, y, *, space, generator) -> x_adv`` and its distances ``(batch,)``."""
        ...


@register_analysis("minimum_norm")
@dataclass(frozen=True, kw_only=True)
class MinimumNorms(BaseAnalysis):
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
        >>> import artplus, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> analysis = MinimumNorms(steps=10)
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           clip_values=(0, 1), analyses=[analysis], progress=False)
        >>> [name for name, _ in report.sections[0].figures]
        ['q25', 'median', 'q75']
    """

    name = "minimum_norm"
    title = "The nearest mistake"
    needs = ("classes", "ball", "gradients")

    n: int | None = 256
    steps: int = 50
    targets: int = 5
    attacks: Sequence[Nearest] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for attack in self.attacks or ():
            if not isinstance(attack, Nearest):
                raise ConfigurationError(
                    f"minimum_norm needs attacks that seek the nearest mistake (FAB, FMN), got "
                    f"{type(attack).__name__}"
                )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        need_norm(self.attacks or (), setting.ball[1], self.name)

    def __call__(self, subject: Subject) -> Section:
        (eps, norm), index = subject.ball, subject.first(self.n)
        attacks = self.attacks or (
            FAB(eps=max(eps, 1e-3), norm=norm, steps=self.steps, targets=self.targets),
            FMN(eps=eps, norm=norm, steps=2 * self.steps),
        )
        distances = {}
        for model, data in subject.models.items():
            batches = nearest_mistakes(data, attacks, index, seed=subject.seed, name=self.name)
            distances[model] = np.concatenate([batch.lengths.numpy() for batch in batches])
        distances[""] = np.minimum(distances[""], known_mistakes(subject, index, norm))
        radii = _grid([*distances.values()], eps)
        y = subject.labels(index)
        classes = {f"class {subject.class_name(k)}": y == k for k in sorted(set(y.tolist()))}
        middle = {model: _quartiles(values)[1] for model, values in distances.items()}
        before = f" (before: {middle['before']:.4g})" if "before" in middle else ""
        names = ", ".join(type(attack).__name__ for attack in attacks)
        return self.section(
            f"Half of the examples have a mistake within {wording.norm_name(norm)} "
            f"{middle['']:.4g}{before}; the report's radius is {wording.radius(eps)}.",
            (
                *(
                    Curves(
                        x_label=f"{wording.norm_name(norm)} distance",
                        y_label="share with no mistake nearer",
                        series=(survival(radii, values),),
                        caption="Share of examples whose nearest known mistake lies farther away.",
                        model=model,
                    )
                    for model, values in distances.items()
                ),
                *(
                    Table(
                        columns=("examples", "n", "lower quartile", "median", "upper quartile"),
                        units=("text", "count", "number", "number", "number"),
                        rows=(
                            _row("all", values),
                            *(_row(name, values[rows]) for name, rows in classes.items()),
                        ),
                        caption="Distance of the nearest known mistake; 0 where the model is wrong "
                        "without one.",
                        model=model,
                    )
                    for model, values in distances.items()
                ),
            ),
            figures=dict(zip(("q25", "median", "q75"), _quartiles(distances[""]), strict=True)),
            notes=(
                f"{names} on {subject.sample(index)}; beside the mistakes that the report's "
                f"attacks found{unlike_before(subject)}. Upper bounds: a better attack may find "
                "nearer mistakes.",
            ),
        )


def _grid(distances: list[Distances], eps: float) -> list[float]:
    """Forty radii from 0 to just beyond the farthest mistake, and the report's own."""
    farthest = max(float(d[np.isfinite(d)].max(initial=0.0)) for d in distances)
    return sorted({*np.linspace(0, max(1.02 * farthest, eps, 1e-12), 40).tolist(), eps})


def _quartiles(distances: Distances) -> tuple[float, float, float]:
    """The lower of the two middle values, since the mean of values may be infinite."""
    low, middle, high = np.quantile(distances, [0.25, 0.5, 0.75], method="lower")
    return float(low), float(middle), float(high)


def _row(name: str, distances: Distances) -> tuple[Cell, ...]:
    return name, len(distances), *_quartiles(distances)
