"""What an analysis is given, what it returns, and how it is found by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from artplus.attacks._base import Attack, own_loss
from artplus.attacks._base import gradient as input_gradient
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Section
from artplus.model import LossModel
from artplus.registry import Registry

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of the subject before an attack has run.

    Attributes:
        data: The model and the examples that are judged.
        attacks: The attacks of the report, by name.
        seed: Of every random draw.
        before: The model before it was hardened, on the same device, if given.
        estimator: What the user passed: an ART estimator or a module.
        class_names: One per class, if given.
        progress: Whether to show a bar.
    """

    data: EvaluationData
    attacks: Mapping[str, Attack]
    seed: int = 0
    before: LossModel | None = None
    estimator: Any = None
    class_names: tuple[str, ...] | None = None
    progress: bool = False


@dataclass(frozen=True, kw_only=True)
class Subject(Setting):
    """What is looked into.

    Attributes:
        report: What the attacks found.
    """

    report: Report

    @classmethod
    def of(cls, setting: Setting, report: Report) -> Subject:
        """The same setting, with what the attacks found."""
        known = {entry.name: getattr(setting, entry.name) for entry in fields(setting)}
        return cls(report=report, **known)


@runtime_checkable
class Analysis(Protocol):
    """A question about a judged model: a frozen dataclass whose fields are its settings.

    It may have a method ``check(setting: Setting) -> None``, which is called before the attacks
    run and raises a :class:`~artplus.errors.ConfigurationError` if the question has no meaning
    for this model and these data.
    """

    def __call__(self, subject: Subject) -> Section:
        """Answer it; the model is left as it was."""
        ...


analyses: Registry[Analysis] = Registry("analysis", "artplus.evaluation.analyses")
"""Classes or factories of analyses, for ``evaluate(analyses=[name])``."""

register_analysis, list_analyses = analyses.register, analyses.names
make_analysis = analyses.make


def need_classes(setting: Setting, what: str) -> int:
    """Number of classes, for an analysis that needs predictions to be right or wrong.

    Raises:
        ConfigurationError: in regression.
    """
    if setting.data.classes is None:
        raise ConfigurationError(
            f"{what} needs a classifier: in regression predictions are neither right nor wrong"
        )
    return setting.data.classes


def need_gradients(setting: Setting, what: str) -> None:
    """Refuse a model that hands no gradient to its inputs; one example is tried.

    Raises:
        ConfigurationError: if there is none.
    """
    data = setting.data
    x, y = data.x[:1].to(data.device), data.y[:1].to(data.device)
    try:
        input_gradient(own_loss(data.model, x, y), x)
    except (ConfigurationError, RuntimeError) as error:
        raise ConfigurationError(f"{what} needs gradients of the model: {error}") from error


def ball_of(setting: Setting, what: str) -> tuple[float, float]:
    """Radius and norm of the report's attacks, the largest radius where they differ.

    Raises:
        ConfigurationError: if their norms differ, or no radius is a plain number.
    """
    norms = {float(attack.norm) for attack in setting.attacks.values()}
    plain = [a.eps for a in setting.attacks.values() if isinstance(a.eps, (int, float))]
    if len(norms) > 1:
        raise ConfigurationError(f"{what} needs to know which norm: the attacks differ in theirs")
    if not plain:
        raise ConfigurationError(
            f"{what} needs a radius that is one number; the attacks' differ by feature or example"
        )
    return float(max(plain)), norms.pop()


def need_norm(attacks: Iterable[Any], norm: float, what: str) -> None:
    """Refuse attacks of an analysis that are in another norm than the report's.

    Raises:
        ConfigurationError: naming the first of them.
    """
    for attack in attacks:
        if attack.norm != norm:
            raise ConfigurationError(
                f"the report is about {wording.norm_name(norm)}, but {type(attack).__name__} of "
                f"{what} about {wording.norm_name(attack.norm)}"
            )


def first(setting: Setting, n: int | None) -> torch.Tensor:
    """Positions of the first ``n`` examples, or of all."""
    total = len(setting.data.x)
    return torch.arange(total if n is None else min(n, total))
