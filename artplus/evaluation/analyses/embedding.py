"""Where the network's last features put clean and attacked examples, in two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artplus import _checks
from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import (
    Setting,
    Subject,
    ball_of,
    first,
    need_classes,
    need_gradients,
    register_analysis,
)
from artplus.evaluation.analyses._measure import class_name, crafted, labels, sides
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Group, Model, Scatter, Section, Table

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Features:
    """What the last linear layer is given, and what it makes of it.

    Attributes:
        clean: ``(n, features)``.
        attacked: The same under attack.
        before: ``(n,)`` predictions without an attack.
        after: ``(n,)`` predictions under attack.
        y: ``(n,)`` true classes.
    """

    clean: Floats
    attacked: Floats
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    y: NDArray[np.int64]


@register_analysis("embedding")
@dataclass(frozen=True, kw_only=True)
class Embedding:
    r"""Features before the last linear layer, clean and attacked, on their two main axes.

    The axes are the first two principal components of the clean features; attacked ones are
    projected on the same. Figures: the mean relative shift
    :math:`\|\varphi(x') - \varphi(x)\|_2 / \|\varphi(x)\|_2`, and how much of the features'
    variance lies between classes, :math:`\eta^2`, clean and attacked: 1 if classes are points, 0
    if their means agree.

    Args:
        n: Number of examples, the first.
        steps: Of PGD, at the report's radius, on each model.

    Raises:
        ConfigurationError: in regression, without gradients, without a linear layer, or if the
            report's attacks have no common norm or no radius that is one number.
    """

    n: int = 300
    steps: int = 20

    def __post_init__(self) -> None:
        _checks.count("n", self.n, least=3)
        _checks.count("steps", self.steps)

    def check(self, setting: Setting) -> None:
        """Refuse what has no features or no attack on them."""
        need_classes(setting, "embedding")
        ball_of(setting, "embedding")
        need_gradients(setting, "embedding")
        for data in sides(setting).values():
            last_linear(data.model.module)

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        eps, norm = ball_of(subject, "embedding")
        attack = PGD(eps=eps, norm=norm, steps=self.steps)
        index = first(subject, self.n)
        found = {
            model: features(data, attack, index, seed=subject.seed)
            for model, data in sides(subject).items()
        }
        rows = {
            model: ("model", shift(one), between(one.clean, one.y), between(one.attacked, one.y))
            for model, one in found.items()
        }
        own = rows[""]
        text = f"The attack moves features by {wording.percent(own[1])} of their length"
        if "before" in rows:
            text += f" (before hardening: {wording.percent(rows['before'][1])})"
        text += (
            f"; {wording.percent(own[2])} of the variance lies between classes without an attack, "
            f"{wording.percent(own[3])} under it."
        )
        return Section(
            name="embedding",
            title="Clean and attacked in the network's features",
            summary=text,
            blocks=(
                *(_scatter(subject, index, one, model) for model, one in found.items()),
                *(
                    Table(
                        columns=("", "relative shift", "between classes, clean", "under attack"),
                        units=("text", "percent", "percent", "percent"),
                        rows=(row,),
                        model=model,
                    )
                    for model, row in rows.items()
                ),
            ),
            figures=(("shift", own[1]), ("between_clean", own[2]), ("between_attacked", own[3])),
            notes=(
                f"PGD, {self.steps} steps, {wording.ball(norm, eps)}, on the first {len(index)} of "
                f"{subject.report.n} examples; seed {subject.seed}. Axes: principal components of "
                "the clean features.",
            ),
        )


def features(data: EvaluationData, attack: PGD, index: Tensor, *, seed: int) -> Features:
    """What enters the last linear layer, without an attack and under it."""
    parts: dict[str, list[Any]] = {"clean": [], "attacked": [], "before": [], "after": []}
    for batch in crafted(data, attack, index, seed=seed, name="embedding"):
        for x, where, what in (
            (batch.x, "clean", "before"),
            (batch.x_adv, "attacked", "after"),
        ):
            with watched(data.model.module) as seen, torch.no_grad():
                parts[what].append(data.model(x).argmax(1).cpu().numpy())
            parts[where].append(seen[-1].double().flatten(1).cpu().numpy())
    joined = {name: np.concatenate(part) for name, part in parts.items()}
    return Features(**joined, y=labels(data, index))


@contextmanager
def watched(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the last linear layer is given, each time the module runs."""
    seen: list[Tensor] = []
    layer = last_linear(module)
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        yield seen
    finally:
        hook.remove()


def last_linear(module: nn.Module) -> nn.Linear:
    """The linear layer that comes last in the module.

    Raises:
        ConfigurationError: if there is none.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ConfigurationError(
            "embedding looks at what the last nn.Linear is given, and this model has none"
        )
    return layers[-1]


def shift(found: Features) -> float:
    """Mean of how far the attack moves the features, relative to their length."""
    lengths = np.linalg.norm(found.clean, axis=1)
    moved = np.linalg.norm(found.attacked - found.clean, axis=1)
    return float(np.mean(moved / np.where(lengths > 0, lengths, 1.0)))


def between(values: Floats, y: NDArray[np.int64]) -> float:
    r"""Share of the variance that lies between classes, :math:`\eta^2`."""
    centred = values - values.mean(0)
    total = float((centred**2).sum())
    means = {k: centred[y == k].mean(0) for k in set(y.tolist())}
    apart = sum(float((means[k] ** 2).sum()) * int((y == k).sum()) for k in means)
    return apart / total if total else 0.0


def _scatter(subject: Subject, index: Tensor, found: Features, model: Model) -> Scatter:
    from sklearn.decomposition import PCA

    width = min(2, found.clean.shape[1])
    axes = PCA(n_components=width, svd_solver="full").fit(found.clean)
    clean, attacked = (_plane(axes.transform(v)) for v in (found.clean, found.attacked))
    turned = found.after != found.y
    names = [class_name(subject, int(k)) for k in found.y]
    was = [f"example {i}: {name}" for i, name in zip(index.tolist(), names, strict=True)]
    now = [
        f"{text} → {class_name(subject, int(k))}" for text, k in zip(was, found.after, strict=True)
    ]
    share = [*axes.explained_variance_ratio_.tolist(), 0.0]
    groups = (
        _group("clean", clean, was, np.ones(len(clean), dtype=bool)),
        _group("attacked, still right", attacked, now, ~turned),
        _group("attacked, wrong", attacked, now, turned),
    )
    return Scatter(
        x_label=f"first component ({wording.percent(share[0])} of the variance)",
        y_label=f"second component ({wording.percent(share[1])})",
        groups=tuple(group for group in groups if group.x),
        caption="Features on the two main axes of the clean ones.",
        model=model,
    )


def _plane(values: Floats) -> Floats:
    """Two columns, the second of zeros where there is one feature only."""
    return values if values.shape[1] == 2 else np.column_stack([values, np.zeros(len(values))])


def _group(name: str, values: Floats, texts: list[str], rows: NDArray[np.bool_]) -> Group:
    chosen = np.flatnonzero(rows)
    return Group(
        name=name,
        x=tuple(values[chosen, 0].tolist()),
        y=tuple(values[chosen, 1].tolist()),
        labels=tuple(texts[k] for k in chosen),
    )
