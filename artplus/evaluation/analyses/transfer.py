"""Do examples crafted on one model fool another? A matrix of sources and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import APGD, Attack
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
from artplus.evaluation.analyses._measure import crafted, mistakes
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Matrix, Section
from artplus.evaluation.untouched import untouched
from artplus.model import LossModel, as_loss_model

NO_ATTACK = "no attack"


@register_analysis("transfer")
@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Accuracy of every model on examples crafted on every model.

    A row is where examples were crafted, a column who is asked. The diagonal is the white box; off
    it, an attacker without access to the model takes another one in its place (Papernot et al.,
    2016). Where a foreign row of the judged model's column lies below its own, its gradients
    mislead, and its white-box accuracy is no evidence (Athalye et al., 2018).

    Args:
        models: Other models for the same task and inputs, by name: modules,
            :class:`~artplus.model.LossModel`, or in :func:`artplus.evaluate` ART estimators; on the
            same device as the judged one. ``before``, if given there, is added by itself.
        attack: Default: APGD on cross-entropy at the report's radius, 50 steps.
        n: Number of examples, the first; ``None`` is all.

    Raises:
        ConfigurationError: in regression, without any other model, or for names taken.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.evaluation import judge
        >>> from artplus.model import LossModel
        >>> from artplus.spaces import InputSpace
        >>> model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(20, 4)
        >>> report = judge(
        ...     model, x, model(x).argmax(1), {"pgd": PGD(eps=0.05)}, space=InputSpace(0.0, 1.0),
        ...     analyses=[Transfer(models={"other": torch.nn.Linear(4, 3)})], progress=False,
        ... )
        >>> report.sections[0].blocks[0].rows
        ('no attack', 'model', 'other')
    """

    models: Mapping[str, Any] | None = None
    attack: Attack | None = None
    n: int | None = 256

    def __post_init__(self) -> None:
        if self.n is not None:
            _checks.count("n", self.n)
        for name in self.models or {}:
            if name in {"model", "before", NO_ATTACK}:
                raise ConfigurationError(f"a model cannot be called {name!r}; choose another name")

    def check(self, setting: Setting) -> None:
        """Refuse regressions, and a matrix of one model."""
        need_classes(setting, "transfer")
        for model in (self.models or {}).values():
            as_loss_model(model)
        if not self.models and setting.before is None:
            raise ConfigurationError(
                "transfer needs another model: before=..., or Transfer(models={'name': model})"
            )
        if self.attack is None:
            ball_of(setting, "transfer")
            need_gradients(setting, "transfer")

    def __call__(self, subject: Subject) -> Section:
        """See :class:`~artplus.evaluation.analyses.Analysis`."""
        attack = self.attack
        if attack is None:
            eps, norm = ball_of(subject, "transfer")
            attack = APGD(eps=eps, norm=norm, steps=50, loss="ce")
        models = {"model": subject.data.model}
        if subject.before is not None:
            models["before"] = subject.before
        models |= {name: as_loss_model(model) for name, model in (self.models or {}).items()}
        index = first(subject, self.n)
        rows = transfer_matrix(subject.data, models, attack, index, seed=subject.seed)
        names = tuple(models)
        values = np.asarray([rows[source] for source in (NO_ATTACK, *names)])
        own, foreign = values[1, 0], values[2:, 0]
        source = names[1 + int(foreign.argmin())]
        notes = [
            f"{type(attack).__name__} within {wording.norm_name(attack.norm)}, the first "
            f"{len(index)} of {subject.report.n} examples, seed {subject.seed}."
        ]
        if foreign.min() < own - 0.02:
            notes.append(
                f"Examples made on {source} fool the model more often than those made on itself: "
                "its gradients mislead, so judge it by attacks without them (square) too."
            )
        return Section(
            name="transfer",
            title="Transfer between models",
            summary=(
                f"The model is right on {wording.percent(float(own))} of the examples made on "
                f"itself, and on {wording.percent(float(foreign.min()))} of those made on "
                f"{source}" + (", which transfer best." if len(foreign) > 1 else ".")
            ),
            blocks=(
                Matrix(
                    row_label="crafted on",
                    column_label="accuracy of",
                    rows=(NO_ATTACK, *names),
                    columns=names,
                    values=tuple(tuple(row) for row in values.tolist()),
                    caption="Accuracy of each column's model on examples crafted on each row's.",
                ),
            ),
            figures=(("white_box", float(own)), ("best_transfer", float(foreign.min()))),
            notes=tuple(notes),
        )


def transfer_matrix(
    data: EvaluationData,
    models: Mapping[str, LossModel],
    attack: Attack,
    index: Tensor,
    *,
    seed: int,
) -> dict[str, list[float]]:
    """Accuracy of each model on what ``attack`` makes of the examples ``index`` on each model.

    Args:
        data: The examples.
        models: By name, on one device.
        attack: Keeps its rules or leaves the example as it was.
        index: Positions.
        seed: Of the attack's draws.

    Returns:
        For ``"no attack"`` and each source, an accuracy per target in the order of ``models``.
    """
    benches = {name: replace(data, model=model) for name, model in models.items()}
    found = {NO_ATTACK: np.zeros(len(models))}
    for _, x, y, _ in data.batches(index):
        found[NO_ATTACK] += _right(benches, x, y)
    for name, source in benches.items():
        found[name] = np.zeros(len(models))
        with untouched(source.model.module):
            for batch in crafted(source, attack, index, seed=seed, name=f"transfer:{name}"):
                found[name] += _right(benches, batch.x_adv, batch.y)
    return {name: (counts / len(index)).tolist() for name, counts in found.items()}


def _right(benches: Mapping[str, EvaluationData], x: Tensor, y: Tensor) -> np.ndarray[Any, Any]:
    right = []
    for data in benches.values():
        with untouched(data.model.module), torch.no_grad():
            right.append(int((~mistakes(data, x, y)).sum()))
    return np.asarray(right, dtype=float)
