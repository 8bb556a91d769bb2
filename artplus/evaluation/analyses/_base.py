"""Analyses: their input, their result, and their registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from artplus import _checks
from artplus.attacks._base import Attack, own_loss
from artplus.attacks._base import gradient as input_gradient
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.section import Block, Model, Section
from artplus.mapped import Inputs, chunks
from artplus.model import LossModel
from artplus.registry import Registry
from artplus.spaces import InputSpace

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known before an attack has run.

    Attributes:
        data: The model and the examples that are judged.
        attacks: The attacks of the report, by name.
        seed: Of every random draw.
        before: The model before it was hardened, on the same device, if given.
        estimator: What the user passed: an ART estimator or a module.
        class_names: One per class, if given.
        progress: Whether to show a bar.
        normalized: The space that the user's inputs are in, if they have been normalised; ``data``
            and ``before`` are in raw units, as radii and bounds are.
    """

    data: EvaluationData
    attacks: Mapping[str, Attack]
    seed: int = 0
    before: LossModel | None = None
    estimator: Any = None
    class_names: tuple[str, ...] | None = None
    progress: bool = False
    normalized: InputSpace | None = None

    def in_raw_units(self) -> Setting:
        """The same with inputs, bounds and models in the units of the radius."""
        if self.data.structured or self.data.box.normalization is None:
            return self
        space = self.data.box
        setting = replace(self, normalized=space)
        data = replace(
            self.data,
            model=setting.adapted(self.data.model),
            x=setting.raw(self.data.x),
            space=replace(space, normalization=None),
        )
        before = None if self.before is None else setting.adapted(self.before)
        return replace(setting, data=data, before=before)

    def raw(self, x: Inputs) -> Inputs:
        """The user's inputs in raw units; those of a memory map are read, if they change."""
        if self.normalized is None:
            return x
        return torch.cat([self.normalized.lift(None, part) for part in chunks(x)])

    def adapted(self, model: LossModel) -> LossModel:
        """A model of the user's inputs as one of inputs in raw units."""
        space = self.normalized
        if space is None:
            return model
        return replace(model, forward=lambda z: model.outputs(space.insert(z, z)))

    @property
    def models(self) -> dict[Model, EvaluationData]:
        """The judged model under ``""``, after the one ``"before"`` if given; same examples."""
        if self.before is None:
            return {"": self.data}
        return {"before": replace(self.data, model=self.before), "": self.data}

    @property
    def ball(self) -> tuple[float, float]:
        """Radius and norm of the report's attacks, the largest radius where they differ.

        Raises:
            ConfigurationError: if their norms differ, or no radius is a plain number.
        """
        norms = {float(attack.norm) for attack in self.attacks.values()}
        radii = [a.eps for a in self.attacks.values() if isinstance(a.eps, (int, float))]
        if len(norms) > 1:
            raise ConfigurationError("it needs one norm, and the attacks differ in theirs")
        if not radii:
            raise ConfigurationError(
                "it needs a radius that is one number; the attacks' differ by feature or example"
            )
        return float(max(radii)), norms.pop()

    @property
    def classes(self) -> int:
        """Number of classes.

        Raises:
            ConfigurationError: in regression.
        """
        return need_classes(self, "this analysis")

    def first(self, n: int | None) -> torch.Tensor:
        """Positions of the first ``n`` examples, or of all."""
        return torch.arange(self.data.n if n is None else min(n, self.data.n))

    def labels(self, index: torch.Tensor) -> NDArray[np.int64]:
        """Class numbers of the examples ``index``."""
        y: NDArray[np.int64] = self.data.labels(index).numpy()
        return y

    def class_name(self, k: int) -> str:
        """What the user calls class ``k``, else its number."""
        return str(k) if self.class_names is None else self.class_names[k]


@dataclass(frozen=True, kw_only=True)
class Subject(Setting):
    """The input of an analysis: the setting, and what the attacks did.

    Attributes:
        report: The report so far, without sections.
    """

    report: Report

    @classmethod
    def of(cls, setting: Setting, report: Report) -> Subject:
        """The same setting, with a report."""
        known = {entry.name: getattr(setting, entry.name) for entry in fields(setting)}
        return cls(report=report, **known)

    def sample(self, index: torch.Tensor) -> str:
        """The number of examples and the seed, for notes."""
        return f"the first {len(index)} of {self.report.n} examples; seed {self.seed}"


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


def need_ball(setting: Setting, what: str) -> tuple[float, float]:
    """Radius and norm: :attr:`Setting.ball`, with a message that names the analysis."""
    try:
        return setting.ball
    except ConfigurationError as error:
        raise ConfigurationError(f"{what} does not apply: {error}") from error


def need_gradients(setting: Setting, what: str) -> None:
    """Refuse a model whose loss has no gradient at its inputs; one example is tried.

    Raises:
        ConfigurationError: if there is none.
    """
    _, x, y, _ = setting.data.batch(torch.arange(1))
    try:
        input_gradient(own_loss(setting.data.model, x, y), x)
    except (ConfigurationError, RuntimeError) as error:
        raise ConfigurationError(f"{what} needs gradients of the model: {error}") from error


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


Need = Literal["classes", "ball", "gradients"]
_NEEDS: dict[Need, Callable[[Setting, str], object]] = {
    "classes": need_classes,
    "ball": need_ball,
    "gradients": need_gradients,
}


@dataclass(frozen=True, kw_only=True)
class BaseAnalysis:
    """What the analyses of this package share; others need not derive from it.

    Fields that are whole numbers must be counts: at least 1, or ``metadata["least"]``.

    Attributes:
        name: By which it is registered; of its section.
        title: Of its section.
        needs: What the model and the report's attacks must have.
        structured: Whether inputs may be anything, such as token ids with a mask: true of analyses
            that use predictions only.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ("classes",)
    structured: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type in ("int", "int | None") and value is not None:
                _checks.count(entry.name, value, least=entry.metadata.get("least", 1))

    def check(self, setting: Setting) -> None:
        """Refuse a setting that the question has no meaning for.

        Raises:
            ConfigurationError: saying what is missing.
        """
        self.require(setting, *self.needs)

    def require(self, setting: Setting, *needs: Need) -> None:
        """Refuse a setting without one of these.

        Raises:
            ConfigurationError: saying what is missing.
        """
        for need in needs:
            _NEEDS[need](setting, self.name)

    def section(
        self,
        summary: str,
        blocks: Iterable[Block] = (),
        *,
        figures: Mapping[str, float | None] | None = None,
        notes: Sequence[str] = (),
    ) -> Section:
        """The answer; figures that are unknown or not finite are left out."""
        known = {k: v for k, v in (figures or {}).items() if v is not None and math.isfinite(v)}
        return Section(
            name=self.name,
            title=self.title,
            summary=summary,
            blocks=tuple(blocks),
            figures=tuple(known.items()),
            notes=tuple(notes),
        )
