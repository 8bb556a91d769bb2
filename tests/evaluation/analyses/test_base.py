"""What the analyses of the package share: counts, needs, and sections with finite figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import FAB, PGD
from artplus.errors import ConfigurationError
from artplus.evaluation import list_analyses, make_analysis
from artplus.evaluation.analyses import Subject
from artplus.evaluation.analyses._base import BaseAnalysis, analyses
from artplus.evaluation.analyses._measure import nearest_mistakes
from artplus.evaluation.section import Section
from artplus.model import LossModel
from tests.evaluation.analyses.subjects import distances, inside, labelled, linear, looked


@dataclass(frozen=True, kw_only=True)
class Counted(BaseAnalysis):
    """An analysis with every kind of field."""

    name = "counted"
    title = "Counted"
    needs = ()

    n: int | None = None
    window: int = field(default=4, metadata={"least": 4})
    rate: float = -1.0

    def __call__(self, subject: object) -> Section:
        figures = {"known": 0.5, "unknown": None, "far": math.inf, "odd": math.nan}
        return self.section("Asked.", figures=figures, notes=["a note"])


def test_whole_numbers_are_counts() -> None:
    """At least one, or what the field says; ``None`` where that is allowed."""
    assert Counted(n=3, window=5).n == 3 and Counted().n is None
    for options in ({"n": 0}, {"window": 3}, {"n": 1.5}, {"window": True}):
        message = f"{next(iter(options))} must"
        with pytest.raises(ConfigurationError, match=message):
            Counted(**options)


@pytest.mark.parametrize("name", list_analyses())
def test_every_count_of_every_analysis_is_checked(name: str) -> None:
    """A count of -1 is refused, whatever it counts."""
    kind = analyses.get(name)
    if not (isinstance(kind, type) and issubclass(kind, BaseAnalysis)):
        pytest.skip("not one of ours")
    assert kind.name == name and kind.title
    for entry in fields(kind):
        if entry.type in ("int", "int | None"):
            with pytest.raises(ConfigurationError, match=f"{entry.name} must"):
                make_analysis(name, **{entry.name: -1})


def test_a_section_leaves_out_what_is_not_finite() -> None:
    """Figures are for other programs, so unknown ones are not there."""
    net, x = linear(), inside(6)
    (section,) = looked(net, x, labelled(net, x), Counted()).sections
    assert section.figures == (("known", 0.5),) and section.notes == ("a note",)
    assert (section.name, section.title, section.summary) == ("counted", "Counted", "Asked.")


def subject(net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Subject:
    """What an analysis is given."""
    kept = []

    def keep(given: Subject) -> Section:
        kept.append(given)
        return Section(name="keep", title="Keep", summary="Asked.")

    looked(net, x, y, keep, **options)
    return kept[0]


def test_the_subject_knows_its_models_and_its_ball() -> None:
    """Both models on the same examples, the largest radius of one norm, names of classes."""
    net, x = linear(), inside(6)
    before = LossModel(linear(seed=1))
    given = subject(net, x, labelled(net, x), before=before, class_names=["cat", "dog"])
    assert list(given.models) == ["before", ""] and given.models["before"].model is before
    assert given.models[""].model.module is net and given.models["before"].x is given.data.x
    assert given.ball == (0.02, math.inf) and given.classes == 2 and given.class_name(1) == "dog"
    two = replace(given, attacks={"a": PGD(eps=0.1), "b": PGD(eps=0.2)})
    assert two.ball == (0.2, math.inf)
    assert given.first(4).tolist() == [0, 1, 2, 3] and len(given.first(None)) == 6
    assert given.labels(given.first(None)).tolist() == labelled(net, x).tolist()
    assert given.sample(given.first(2)) == "the first 2 of 6 examples; seed 0"


def test_a_missing_need_is_named() -> None:
    """Attacks in two norms have no ball; the message names the analysis and the reason."""
    net, x = linear(), inside(6)
    given = subject(net, x, labelled(net, x))
    mixed = replace(given, attacks={"a": PGD(eps=0.1), "b": PGD(eps=0.2, norm=2.0)})
    with pytest.raises(ConfigurationError, match="counted does not apply: .* differ in theirs"):
        Counted().require(mixed, "ball")
    vague = replace(given, attacks={"a": PGD(eps=torch.full((12,), 0.1))})
    with pytest.raises(ConfigurationError, match="a radius that is one number"):
        Counted().require(vague, "ball")


def test_the_nearest_mistakes_of_a_linear_model() -> None:
    """No nearer than the boundary, close to it, zero where it is crossed already, and wrong."""
    net, x = linear(), inside(10)
    y = labelled(net, x, wrong=2)
    given = subject(net, x, y)
    attacks = [FAB(eps=0.1, steps=5), FAB(eps=0.1, steps=30)]
    batches = list(nearest_mistakes(given.data, attacks, given.first(None), seed=0, name="nearest"))
    lengths = torch.cat([batch.lengths for batch in batches]).numpy()
    exact = distances(net, x, math.inf)
    exact[:2] = 0
    assert (lengths >= exact - 1e-6).all() and np.allclose(lengths, exact, rtol=0.02)
    x_adv = torch.cat([batch.x_adv for batch in batches])
    assert (net(x_adv).argmax(1) != y).all()
    assert torch.equal(x_adv[:2], x[:2])
    nothing = nearest_mistakes(given.data, [], given.first(None), seed=0, name="nearest")
    assert next(nothing).lengths.tolist() == [0.0] * 2 + [math.inf] * 8
