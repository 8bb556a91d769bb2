"""Where the network's last features put clean and attacked examples, in two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._measure import crafted, with_before
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Group, Model, Scatter, Section, Table

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Features:
    """Inputs of the last linear layer, and the predictions it makes of them.

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
class Embedding(BaseAnalysis):
    r"""Features before the last linear layer, clean and attacked, on their two main axes.

    The axes are the first two principal components of the clean features; attacked features are
    projected on the same axes. Figures: the mean relative shift
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

    name = "embedding"
    title = "Clean and attacked in the network's features"
    needs = ("classes", "ball", "gradients")

    n: int = field(default=300, metadata={"least": 3})
    steps: int = 20

    def check(self, setting: Setting) -> None:
        super().check(setting)
        for data in setting.models.values():
            last_linear(data.model.module)

    def __call__(self, subject: Subject) -> Section:
        eps, norm = subject.ball
        attack, index = PGD(eps=eps, norm=norm, steps=self.steps), subject.first(self.n)
        parts = {
            model: features(data, attack, index, seed=subject.seed)
            for model, data in subject.models.items()
        }
        rows = {
            model: (shift(one), between(one.clean, one.y), between(one.attacked, one.y))
            for model, one in parts.items()
        }
        moved, clean, attacked = rows[""]
        shifts = with_before({model: row[0] for model, row in rows.items()}, "percent")
        return self.section(
            f"The attack moves features by {shifts} of their length; "
            f"{wording.percent(clean)} of the variance lies between classes without an attack, "
            f"{wording.percent(attacked)} under it.",
            (
                *(_scatter(subject, index, one, model) for model, one in parts.items()),
                *(
                    Table(
                        columns=("", "relative shift", "between classes, clean", "under attack"),
                        units=("text", "percent", "percent", "percent"),
                        rows=(("model", *row),),
                        model=model,
                    )
                    for model, row in rows.items()
                ),
            ),
            figures={"shift": moved, "between_clean": clean, "between_attacked": attacked},
            notes=(
                f"PGD, {self.steps} steps, {wording.ball(norm, eps)}, on {subject.sample(index)}. "
                "Axes: principal components of the clean features.",
            ),
        )


def features(data: EvaluationData, attack: PGD, index: Tensor, *, seed: int) -> Features:
    """Inputs of the last linear layer, without an attack and under it."""
    parts: dict[str, list[Any]] = {"clean": [], "attacked": [], "before": [], "after": []}
    for batch in crafted(data, attack, index, seed=seed, name="embedding"):
        for x, where, what in ((batch.x, "clean", "before"), (batch.x_adv, "attacked", "after")):
            with watched(data.model.module) as inputs, torch.no_grad():
                parts[what].append(data.model(x).argmax(1).cpu().numpy())
            parts[where].append(inputs[-1].double().flatten(1).cpu().numpy())
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    return Features(**arrays, y=data.labels(index).numpy())


@contextmanager
def watched(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of the last linear layer, each time the module runs."""
    inputs: list[Tensor] = []
    hook = last_linear(module).register_forward_pre_hook(
        lambda _, args: inputs.append(args[0].detach())
    )
    try:
        yield inputs
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
            "embedding looks at the inputs of the last nn.Linear, and this model has none"
        )
    return layers[-1]


def shift(features: Features) -> float:
    """Mean distance by which the attack moves the features, relative to their length."""
    lengths = np.linalg.norm(features.clean, axis=1)
    moved = np.linalg.norm(features.attacked - features.clean, axis=1)
    return float(np.mean(moved / np.where(lengths > 0, lengths, 1.0)))


def between(values: Floats, y: NDArray[np.int64]) -> float:
    r"""Share of the variance that lies between classes, :math:`\eta^2`."""
    centred = values - values.mean(0)
    total = float((centred**2).sum())
    means = {k: centred[y == k].mean(0) for k in set(y.tolist())}
    apart = sum(float((means[k] ** 2).sum()) * int((y == k).sum()) for k in means)
    return apart / total if total else 0.0


def _scatter(subject: Subject, index: Tensor, features: Features, model: Model) -> Scatter:
    from sklearn.decomposition import PCA

    pca = PCA(n_components=min(2, features.clean.shape[1]), svd_solver="full").fit(features.clean)
    clean, attacked = (
        np.column_stack([pca.transform(values), np.zeros(len(values))])  # one feature: a flat line
        for values in (features.clean, features.attacked)
    )
    fooled = features.after != features.y
    was = [f"example {i}: {subject.class_name(k)}"
           for i, k in zip(index.tolist(), features.y.tolist(), strict=True)]  # fmt: skip
    now = [f"{text} → {subject.class_name(k)}"
           for text, k in zip(was, features.after.tolist(), strict=True)]  # fmt: skip
    groups = (
        ("clean", clean, was, np.ones(len(clean), dtype=bool)),
        ("attacked, still right", attacked, now, ~fooled),
        ("attacked, wrong", attacked, now, fooled),
    )
    variance = [float(share) for share in pca.explained_variance_ratio_] + [0.0]
    return Scatter(
        x_label=f"first component ({wording.percent(variance[0])} of the variance)",
        y_label=f"second component ({wording.percent(variance[1])})",
        groups=tuple(
            Group(
                name=name,
                x=tuple(values[rows, 0].tolist()),
                y=tuple(values[rows, 1].tolist()),
                labels=tuple(texts[k] for k in np.flatnonzero(rows)),
            )
            for name, values, texts, rows in groups
            if rows.any()
        ),
        caption="Features on the two main axes of the clean ones.",
        model=model,
    )
