"""Do examples crafted on one model fool another? A matrix of sources and targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from artplus.attacks import APGD, Attack
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._measure import crafted, mistakes
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Matrix, Section
from artplus.evaluation.untouched import untouched
from artplus.model import LossModel, as_loss_model, in_float32

NO_ATTACK = "no attack"


@register_analysis("transfer")
@dataclass(frozen=True, kw_only=True)
class Transfer(BaseAnalysis):
    """Accuracy of every model on examples crafted on every model.

    Examples of a row were crafted on its model, and a column's model predicts them. The diagonal is
    the white box; off it, an attacker without access to a model uses another one in its place
    (Papernot et al., 2016). If another model's examples fool the judged model more often than its
    own, its gradients mislead, and its white-box accuracy is no evidence (Athalye et al., 2018).

    Args:
        models: Other models for the same task and inputs, by name: modules,
            :class:`~artplus.model.LossModel`, or in :func:`artplus.evaluate` ART estimators; on the
            same device as the judged one. ``before``, if given there, is added by itself.
        attack: Default: APGD on cross-entropy at the report's radius, 50 steps.
        n: Number of examples, the first; ``None`` is all.

    Raises:
        ConfigurationError: in regression, without any other model, or for names taken.

    Example:
        >>> import artplus, torch
        >>> model, x = torch.nn.Linear(4, 3), torch.rand(20, 4)
        >>> analysis = Transfer(models={"other": torch.nn.Linear(4, 3)})
        >>> report = artplus.evaluate(model, x, model(x).argmax(1), attacks=["pgd"], eps=0.05,
        ...                           analyses=[analysis], progress=False)
        >>> report.sections[0].blocks[0].rows
        ('no attack', 'model', 'other')
    """

    name = "transfer"
    title = "Transfer between models"

    models: Mapping[str, Any] | None = None
    attack: Attack | None = None
    n: int | None = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.models or {}:
            if name in {"model", "before", NO_ATTACK}:
                raise ConfigurationError(f"a model cannot be called {name!r}; choose another name")

    def check(self, setting: Setting) -> None:
        super().check(setting)
        for model in (self.models or {}).values():
            as_loss_model(model)
        if not self.models and setting.before is None:
            raise ConfigurationError(
                "transfer needs another model: before=..., or Transfer(models={'name': model})"
            )
        if self.attack is None:
            self.require(setting, "ball", "gradients")

    def __call__(self, subject: Subject) -> Section:
        attack = self.attack
        if attack is None:
            eps, norm = subject.ball
            attack = APGD(eps=eps, norm=norm, steps=50, loss="ce")
        models = {"model": subject.data.model}
        if subject.before is not None:
            models["before"] = subject.before
        for name, model in (self.models or {}).items():
            models[name] = subject.adapted(in_float32(as_loss_model(model)))
        index = subject.first(self.n)
        accuracy = transfer_matrix(subject.data, models, attack, index, seed=subject.seed)
        white_box = accuracy["model"][0]
        source = min((name for name in models if name != "model"), key=lambda m: accuracy[m][0])
        best = accuracy[source][0]
        notes = [
            f"{type(attack).__name__} within {wording.norm_name(attack.norm)} on "
            f"{subject.sample(index)}."
        ]
        if best < white_box - 0.02:
            notes.append(
                f"Examples made on {source} fool the model more often than those made on itself: "
                "its gradients mislead, so judge it by attacks without them (square) too."
            )
        return self.section(
            f"The model is right on {wording.percent(white_box)} of the examples made on itself, "
            f"and on {wording.percent(best)} of those made on {source}"
            + (", which transfer best." if len(models) > 2 else "."),
            (
                Matrix(
                    row_label="crafted on",
                    column_label="accuracy of",
                    rows=tuple(accuracy),
                    columns=tuple(models),
                    values=tuple(map(tuple, accuracy.values())),
                    caption="Accuracy of each column's model on examples crafted on each row's.",
                ),
            ),
            figures={"white_box": white_box, "best_transfer": best},
            notes=notes,
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
        attack: Where it breaks its rules, the clean example stands in.
        index: Positions.
        seed: Of the attack's draws.

    Returns:
        For ``"no attack"`` and each source, an accuracy per target in the order of ``models``.
    """
    targets = [replace(data, model=model) for model in models.values()]

    def accuracies(batches: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
        right = np.zeros(len(targets))
        for x, y in batches:
            for k, target in enumerate(targets):
                with untouched(target.model.module):
                    right[k] += int((~mistakes(target, x, y)).sum())
        rates: list[float] = (right / len(index)).tolist()
        return rates

    rows = {NO_ATTACK: accuracies((x, y) for _, x, y, _ in data.batches(index))}
    for name, source in zip(models, targets, strict=True):
        with untouched(source.model.module):
            batches = crafted(source, attack, index, seed=seed, name=f"transfer:{name}")
            rows[name] = accuracies((batch.x_adv, batch.y) for batch in batches)
    return rows
