"""The loss around an example, along the gradient and across it, before and after hardening."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks, seeding
from artplus.attacks._base import gradient as input_gradient
from artplus.attacks._base import own_loss
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Subject, register_analysis
from artplus.evaluation.analyses._measure import with_before
from artplus.evaluation.analyses.saliency import examples_to_show
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Block, Curves, Matrix, Model, Section, Series, Table

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Surface:
    """Losses on a plane through an example.

    Attributes:
        offsets: ``(k,)`` positions along both directions, in multiples of the radius.
        losses: ``(k, k)``: rows across the gradient, columns along it.
        gap: Largest distance between the loss and its linear approximation at the centre.
    """

    offsets: Floats
    losses: Floats
    gap: float

    @property
    def centre(self) -> float:
        """The loss at the example itself."""
        middle = len(self.offsets) // 2
        return float(self.losses[middle, middle])


@register_analysis("loss_surface")
@dataclass(frozen=True, kw_only=True)
class LossSurface(BaseAnalysis):
    r"""Heat maps of the loss on a plane through an example, before and after hardening.

    .. math:: l(x + a\,u + b\,v), \qquad -r \le a, b \le r

    :math:`u` is the step of length ``eps`` along the gradient (in L∞ along its sign), :math:`v` a
    random step of the same length (signs in L∞, else a normal draw). Each model has its own
    :math:`u`; both have the same :math:`v` and one scale. A bumpy surface means that gradient
    attacks may stop short, and is a sign of masked gradients.
    The figure is the gap to linearity [Qin19]_,

    .. math:: \gamma = \max_{a, b} |l(x + \delta) - l(x) - \langle \delta, \nabla l(x) \rangle|.

    Points are not clipped to the valid range, so that the plane is a plane.

    Args:
        n: Number of examples, of the report's gallery, fooled ones first.
        points: Per direction; odd, so that the example itself is one.
        reach: :math:`r`, in multiples of the radius.

    Raises:
        ConfigurationError: without gradients, or if the report's attacks have no common norm or no
            radius that is one number.

    References:
        .. [Qin19] Qin et al., "Adversarial robustness through local linearization", NeurIPS 2019,
           https://arxiv.org/abs/1907.02610
    """

    name = "loss_surface"
    title = "The loss around an example"
    needs = ("ball", "gradients")

    n: int = 2
    points: int = field(default=21, metadata={"least": 3})
    reach: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive("reach", self.reach)

    def __call__(self, subject: Subject) -> Section:
        eps, norm = subject.ball
        offsets = np.linspace(-self.reach, self.reach, self.points + 1 - self.points % 2)
        blocks: list[Block] = []
        rows: dict[Model, list[tuple[str, float, float, float]]] = defaultdict(list)
        for position in examples_to_show(subject, self.n).tolist():
            surfaces = {
                model: surface(data, position, eps, norm, offsets, seed=subject.seed)
                for model, data in subject.models.items()
            }
            if not blocks:
                blocks += _curves(surfaces, f"Example {position}", wording.ball(norm, eps))
            blocks += _maps(surfaces, f"Example {position}")
            for model, one in surfaces.items():
                top = float(one.losses.max())
                rows[model].append((f"example {position}", one.centre, top, one.gap))
        blocks += [
            Table(
                columns=("example", "loss", "largest around", "gap to linearity"),
                units=("text", "number", "number", "number"),
                rows=tuple(parts),
                model=model,
            )
            for model, parts in rows.items()
        ]
        means = {m: float(np.mean([gap for *_, gap in parts])) for m, parts in rows.items()}
        return self.section(
            f"With steps of {wording.ball(norm, self.reach * eps)} each way the loss departs from "
            f"a plane by up to {with_before(means, 'number')}, on average over the examples.",
            blocks,
            figures={
                "linearity_gap" + (f"_{model}" if model else ""): gap
                for model, gap in means.items()
            },
            notes=(
                f"Offsets in multiples of the radius {wording.radius(eps)}; columns along the "
                f"gradient, rows along a random step; seed {subject.seed}. Points are not clipped "
                "to the valid range.",
            ),
        )


def surface(
    data: EvaluationData, position: int, eps: float, norm: float, offsets: Floats, *, seed: int
) -> Surface:
    """Losses on the plane through the example at ``position``."""
    _, x, y, space = data.batch(torch.tensor([position]))
    _, slope = input_gradient(own_loss(data.model, x, y), x)
    along = _step(space.restrict(slope), eps, norm)
    generator = torch.Generator().manual_seed(seeding.derived(seed, f"surface:{position}"))
    noise = torch.randn(x.shape, generator=generator).to(x)
    across = _step(space.restrict(noise), eps, norm)
    steps = torch.as_tensor(offsets, dtype=x.dtype, device=x.device)
    b, a = torch.meshgrid(steps, steps, indexing="ij")
    shape = (-1, *(1,) * (x.ndim - 1))
    delta = a.reshape(shape) * along + b.reshape(shape) * across
    losses = torch.cat([
        _losses(data, x + part, y.expand(len(part), *y.shape[1:]))
        for part in delta.split(data.batch_size)
    ]).view(len(offsets), len(offsets))  # fmt: skip
    linear = (delta.double() * slope.double()).flatten(1).sum(1).view_as(losses).cpu()
    middle = len(offsets) // 2
    gap = (losses - losses[middle, middle] - linear).abs().max()
    return Surface(offsets, losses.numpy(), float(gap))


def _losses(data: EvaluationData, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return data.model.loss(data.model(x), y).double().cpu()


def _step(direction: Tensor, eps: float, norm: float) -> Tensor:
    """A step of length ``eps`` in that direction."""
    if math.isinf(norm):
        return eps * direction.sign()
    length = float(torch.linalg.vector_norm(direction.double(), ord=norm))
    return direction * (eps / length if length else 0.0)


def _maps(surfaces: dict[Model, Surface], title: str) -> list[Matrix]:
    """A heat map per model, all on one scale."""
    every = np.stack([one.losses for one in surfaces.values()])
    known = every[np.isfinite(every)]
    span = (float(known.min(initial=np.inf)), float(known.max(initial=-np.inf)))
    return [
        Matrix(
            row_label="random step",
            column_label="gradient step",
            rows=tuple(f"{v:.1f}" for v in one.offsets),
            columns=tuple(f"{v:.1f}" for v in one.offsets),
            values=tuple(tuple(row) for row in one.losses.tolist()),
            unit="number",
            span=span if known.size else None,
            caption=f"{title}: loss",
            model=model,
        )
        for model, one in surfaces.items()
    ]


def _curves(surfaces: dict[Model, Surface], title: str, ball: str) -> list[Curves]:
    """The loss along the gradient."""
    return [
        Curves(
            x_label=f"step along the gradient, in multiples of {ball}",
            y_label="loss",
            y_unit="number",
            series=(
                Series(
                    name="model",
                    x=tuple(one.offsets.tolist()),
                    y=tuple(one.losses[len(one.offsets) // 2].tolist()),
                ),
            ),
            caption=f"{title}: the loss along the step of the model's own gradient.",
            model=model,
        )
        for model, one in surfaces.items()
    ]
