"""Which examples are fooled first, by how small a perturbation, and into which class."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus.attacks import FAB
from artplus.evaluation import images, wording
from artplus.evaluation.analyses._base import BaseAnalysis, Subject, register_analysis
from artplus.evaluation.analyses._measure import nearest_mistakes
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Block, Gallery, Picture, Section, Table
from artplus.functional import margin, probabilities


@dataclass(frozen=True, eq=False)
class Candidate:
    """An example that is right, and its nearest known mistake.

    Attributes:
        position: In the data.
        margin: Probability of the true class less that of the next, in [0, 1].
        distance: Of the mistake; infinite if none was found.
        taken_for: The class predicted there; the runner-up if no mistake was found.
        x: As it was.
        x_adv: The mistake.
    """

    position: int
    margin: float
    distance: float
    taken_for: int
    x: NDArray[np.float32]
    x_adv: NDArray[np.float32]


@register_analysis("vulnerable")
@dataclass(frozen=True, kw_only=True)
class Vulnerable(BaseAnalysis):
    r"""The most vulnerable examples, by margin and by the radius that is needed.

    Of the examples that are right, those with the smallest margin
    :math:`p_y - \max_{k \ne y} p_k` are candidates; FAB seeks the nearest mistake of each, and the
    examples are ranked by its distance. The pairs of classes that the candidates confuse there are
    listed too. Distances are upper bounds.

    Args:
        n: Number of examples to show.
        candidates: Number of examples to attack.
        steps: Of FAB; 100 in AutoAttack.
        targets: Wrong classes to try, the likeliest first; 9 in AutoAttack.

    Raises:
        ConfigurationError: in regression, without gradients, or if the report's attacks have no
            common norm or no radius that is one number.
    """

    name = "vulnerable"
    title = "The most vulnerable examples"
    needs = ("classes", "ball", "gradients")

    n: int = 8
    candidates: int = 64
    steps: int = 30
    targets: int = 5

    def __call__(self, subject: Subject) -> Section:
        eps, norm = subject.ball
        gaps = margins(subject.data)
        right = np.flatnonzero(gaps > 0)
        if not len(right):
            return self.section("The model is right on no example, so none can be fooled.")
        chosen = right[np.argsort(gaps[right], kind="stable")][: self.candidates]
        attack = FAB(eps=max(eps, 1e-3), norm=norm, steps=self.steps, targets=self.targets)
        ranked = nearest(subject.data, torch.from_numpy(chosen), gaps[chosen], attack, subject.seed)
        ranked.sort(key=lambda one: (one.distance, one.margin))
        y = subject.labels(torch.tensor([one.position for one in ranked])).tolist()
        names = [(subject.class_name(k), subject.class_name(one.taken_for))
                 for k, one in zip(y, ranked, strict=True)]  # fmt: skip
        top, within = ranked[: self.n], sum(one.distance <= eps for one in ranked)
        return self.section(
            f"Example {top[0].position} is fooled first, within {wording.norm_name(norm)} "
            f"{wording.cell(top[0].distance, 'number')}; of the "
            f"{wording.plural(len(ranked), 'example')} with the smallest margins, {within} can be "
            f"fooled within the report's {wording.radius(eps)}.",
            (
                *_gallery(top, names),
                Table(
                    columns=("example", "true class", "taken for", "needed radius", "margin"),
                    units=("count", "text", "text", "number", "percent"),
                    rows=tuple(
                        (one.position, *name, one.distance, one.margin)
                        for one, name in zip(top, names, strict=False)
                    ),
                    caption="Margin: probability of the true class less that of the next.",
                ),
                Table(
                    columns=("true class", "taken for", "examples", "median needed radius"),
                    units=("text", "text", "count", "number"),
                    rows=_pairs(ranked, names),
                    caption="Boundaries that the candidates cross first.",
                ),
            ),
            figures={"nearest": top[0].distance},
            notes=(
                f"FAB, {self.steps} steps, on the {len(ranked)} right examples with the smallest "
                f"margins of {subject.report.n}; seed {subject.seed}. A better attack may need a "
                "smaller radius.",
            ),
        )


def margins(data: EvaluationData) -> NDArray[np.float64]:
    """Probability of the true class less the largest other, of every example: -1 to 1."""
    parts = []
    with torch.no_grad():
        for _, x, y, _ in data.batches(torch.arange(len(data.x))):
            parts.append(-margin(probabilities(data.model(x).double()), y).cpu().numpy())
    return np.concatenate(parts)


def nearest(
    data: EvaluationData, index: Tensor, gaps: NDArray[np.float64], attack: FAB, seed: int
) -> list[Candidate]:
    """The nearest mistake that the attack finds for each of the examples ``index``."""
    ranked: list[Candidate] = []
    for batch in nearest_mistakes(data, [attack], index, seed=seed, name="vulnerable"):
        with torch.no_grad():
            logits = data.model(batch.x_adv).cpu()
        # Where no mistake was found this is the clean input, and its runner-up.
        others = logits.scatter(1, data.labels(batch.part)[:, None], -torch.inf).argmax(1)
        for k in range(len(batch.x)):
            ranked.append(
                Candidate(
                    position=int(batch.part[k]),
                    margin=float(gaps[len(ranked)]),
                    distance=float(batch.lengths[k]),
                    taken_for=int(others[k]),
                    x=batch.x[k].float().cpu().numpy(),
                    x_adv=batch.x_adv[k].float().cpu().numpy(),
                )
            )
    return ranked


def _gallery(top: list[Candidate], names: list[tuple[str, str]]) -> list[Block]:
    """The examples beside their mistakes, if inputs are images."""
    if images.as_image(top[0].x) is None:
        return []
    low, high = images.value_range(np.stack([one.x for one in top]))
    rows = []
    for one, (true, taken) in zip(top, names, strict=False):
        if not math.isfinite(one.distance):
            continue
        change = (one.x_adv - one.x).astype(np.float64)
        reach = float(np.abs(change).max()) or 1.0
        pictures = (
            ("example " + str(one.position), true, one.x, low, high),
            ("what it takes", f"at most {wording.cell(reach, 'number')} a value", change,
             -reach, reach),
            ("the mistake", taken, one.x_adv, low, high),
        )  # fmt: skip
        rows.append(
            tuple(
                Picture(
                    title=title,
                    text=text,
                    image=images.shown(np.asarray(images.as_image(image)), least, most),
                )
                for title, text, image, least, most in pictures
            )
        )
    return [Gallery(rows=tuple(rows), caption="The nearest mistakes, the nearest first.")]


def _pairs(
    ranked: list[Candidate], names: list[tuple[str, str]]
) -> tuple[tuple[str, str, int, float], ...]:
    """Pairs of classes by how many candidates are fooled so, the most frequent first."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one, name in zip(ranked, names, strict=True):
        groups[name].append(one.distance)
    rows = [
        (true, taken, len(d), float(np.quantile(d, 0.5, method="lower")))
        for (true, taken), d in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row[2], row[3]))[:10])
