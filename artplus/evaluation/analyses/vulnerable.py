"""Which examples fall first, how little that takes, and into which class they fall."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks, seeding
from artplus.attacks import FAB
from artplus.evaluation import images, wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    ball_of,
    need_classes,
    need_gradients,
    register_analysis,
)
from artplus.evaluation.analyses._measure import class_name, labels, mistakes, probabilities
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Block, Gallery, Picture, Section, Table
from artplus.evaluation.verify import verify
from artplus.functional import margin


@dataclass(frozen=True, eq=False)
class Fall:
    """An example that is right, and its nearest known mistake.

    Attributes:
        position: In the data.
        margin: Probability of the true class less that of the next, in [0, 1].
        distance: How far the mistake is; infinite if none was found.
        taken_for: The class predicted there; of one without a mistake the runner-up.
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
class Vulnerable:
    r"""The most vulnerable examples, by margin and by the radius that is needed.

    Of the examples that are right, those with the smallest margin
    :math:`p_y - \max_{k \ne y} p_k` are candidates; FAB seeks the nearest mistake of each, and the
    examples are ranked by its distance. The class pairs across whose boundary the candidates fall
    are listed too. Distances are upper bounds.

    Args:
        n: Number of examples to show.
        candidates: Number of examples to attack.
        steps: Of FAB; 100 in AutoAttack.
        targets: Wrong classes to try, the likeliest first; 9 in AutoAttack.

    Raises:
        ConfigurationError: in regression, without gradients, or if the report's attacks have no
            common norm or no radius that is one number.
    """

    n: int = 8
    candidates: int = 64
    steps: int = 30
    targets: int = 5

    def __post_init__(self) -> None:
        _checks.count("n", self.n)
        _checks.count("candidates", self.candidates)
        _checks.count("steps", self.steps)
        _checks.count("targets", self.targets)

    def check(self, setting: Setting) -> None:
        """Refuse regressions, models without gradients, and balls that are not one."""
        need_classes(setting, "vulnerable")
        ball_of(setting, "vulnerable")
        need_gradients(setting, "vulnerable")

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        eps, norm = ball_of(subject, "vulnerable")
        gaps = margins(subject.data)
        right = np.flatnonzero(gaps > 0)
        chosen = right[np.argsort(gaps[right], kind="stable")][: self.candidates]
        attack = FAB(eps=max(eps, 1e-3), norm=norm, steps=self.steps, targets=self.targets)
        falls = nearest(subject.data, torch.from_numpy(chosen), gaps[chosen], attack, subject.seed)
        falls.sort(key=lambda fall: (fall.distance, fall.margin))
        top = falls[: self.n]
        if not top:
            return Section(
                name="vulnerable",
                title="The most vulnerable examples",
                summary="The model is right on no example, so none is left to fall.",
            )
        y = labels(subject.data, torch.tensor([fall.position for fall in falls]))
        names = [(class_name(subject, int(k)), class_name(subject, f.taken_for))
                 for k, f in zip(y, falls, strict=True)]  # fmt: skip
        within = sum(fall.distance <= eps for fall in falls)
        return Section(
            name="vulnerable",
            title="The most vulnerable examples",
            summary=(
                f"Example {top[0].position} falls first, within {wording.norm_name(norm)} "
                f"{wording.cell(top[0].distance, 'number')}; {within} of the "
                f"{wording.plural(len(falls), 'example')} with the smallest margins fall within "
                f"the report's {wording.radius(eps)}."
            ),
            blocks=(
                *_gallery(top, names),
                Table(
                    columns=("example", "true class", "falls to", "needed radius", "margin"),
                    units=("count", "text", "text", "number", "percent"),
                    rows=tuple(
                        (f.position, *name, f.distance, f.margin)
                        for f, name in zip(top, names, strict=False)
                    ),
                    caption="Margin: probability of the true class less that of the next.",
                ),
                Table(
                    columns=("true class", "falls to", "examples", "median needed radius"),
                    units=("text", "text", "count", "number"),
                    rows=_pairs(falls, names),
                    caption="Boundaries that the candidates cross first.",
                ),
            ),
            figures=(("nearest", top[0].distance),) if math.isfinite(top[0].distance) else (),
            notes=(
                f"FAB, {self.steps} steps, on the {len(falls)} right examples with the smallest "
                f"margins of {subject.report.n}; seed {subject.seed}. A better attack may need "
                "less.",
            ),
        )


def margins(data: EvaluationData) -> NDArray[np.float64]:
    """Probability of the true class less the largest other, of every example: -1 to 1."""
    found = []
    with torch.no_grad():
        for _, x, y, _ in data.batches(torch.arange(len(data.x))):
            found.append(-margin(probabilities(data.model(x).double()), y).cpu().numpy())
    return np.concatenate(found)


def nearest(
    data: EvaluationData, index: Tensor, gaps: NDArray[np.float64], attack: FAB, seed: int
) -> list[Fall]:
    """The nearest mistake that the attack finds for each of the examples ``index``."""
    own, done = seeding.derived(seed, "vulnerable"), 0
    generator = torch.Generator(data.device).manual_seed(own)
    found: list[Fall] = []
    with seeding.seeded(own):
        for part, x, y, space in data.batches(index):
            x_adv, _ = attack.minimum(data.model, x, y, space=space, generator=generator)
            x_adv = x_adv.detach()
            checked = verify(x, x_adv, eps=1e30, norm=attack.norm, space=space)
            counts = mistakes(data, x_adv, y) & ~checked.outside_space
            with torch.no_grad():
                logits = data.model(x_adv)
                runner_up = _others(data.model(x), data.labels(part)).argmax(1).cpu()
            fallen = torch.where(counts, logits.argmax(1).cpu(), runner_up)
            for k in range(len(x)):
                found.append(
                    Fall(
                        position=int(part[k]),
                        margin=float(gaps[done + k]),
                        distance=float(checked.lengths[k]) if counts[k] else math.inf,
                        taken_for=int(fallen[k]),
                        x=x[k].float().cpu().numpy(),
                        x_adv=x_adv[k].float().cpu().numpy(),
                    )
                )
            done += len(x)
    return found


def _others(logits: Tensor, y: Tensor) -> Tensor:
    """Logits with the true class out of the running."""
    return logits.scatter(1, y.to(logits.device)[:, None], -torch.inf)


def _gallery(top: list[Fall], names: list[tuple[str, str]]) -> list[Block]:
    """The examples beside their mistakes, where inputs are images."""
    if images.as_image(top[0].x) is None:
        return []
    low, high = images.value_range(np.stack([fall.x for fall in top]))
    rows = []
    for fall, (true, taken) in zip(top, names, strict=False):
        if not math.isfinite(fall.distance):
            continue
        change = (fall.x_adv - fall.x).astype(np.float64)
        reach = float(np.abs(change).max()) or 1.0
        pictures = (
            ("example " + str(fall.position), true, fall.x, low, high),
            ("what it takes", f"at most {wording.cell(reach, 'number')} a value", change,
             -reach, reach),
            ("the mistake", taken, fall.x_adv, low, high),
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
    falls: list[Fall], names: list[tuple[str, str]]
) -> tuple[tuple[str, str, int, float], ...]:
    """Class pairs by how many candidates fall across, the most frequent first."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for fall, name in zip(falls, names, strict=True):
        groups[name].append(fall.distance)
    rows = [
        (true, taken, len(d), float(np.quantile(d, 0.5, method="lower")))
        for (true, taken), d in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row[2], row[3]))[:10])
