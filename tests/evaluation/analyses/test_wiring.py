"""Analyses in an evaluation: chosen, asked before the attacks, run after them without harm."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD
from artplus.errors import ArtplusWarning, ConfigurationError, UnknownNameError
from artplus.evaluation import Report, Section, Subject, list_analyses, make_analysis
from artplus.evaluation.analyses import (
    Corruptions,
    EpsilonCurve,
    PerClass,
    Setting,
    register_analysis,
)
from artplus.evaluation.analyses._base import analyses as registry
from artplus.model import LossModel
from artplus.tasks import task_for
from tests.evaluation.analyses.subjects import inside, labelled, linear, looked
from tests.toys import arrays, classifier

OWN = ["calibration", "confusion", "corruptions", "epsilon_curve", "interval", "minimum_norm",
       "per_class", "smoothing", "transfer"]  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """An analysis that draws, and does what a test tells it to."""

    fail: Exception | None = None
    refuse: str = ""
    name: str = "planted"

    def check(self, setting: Setting) -> None:
        if self.refuse:
            raise ConfigurationError(self.refuse)

    def __call__(self, subject: Subject) -> Section:
        if self.fail is not None:
            raise self.fail
        drawn = (float(torch.rand(())), float(np.random.rand()), random.random())
        figures = tuple((str(k), value) for k, value in enumerate(drawn))
        return Section(name=self.name, title="T", summary="S", figures=figures)


@pytest.fixture
def data() -> tuple[nn.Linear, Tensor, Tensor]:
    net, x = linear(), inside(24)
    return net, x, labelled(net, x, wrong=3)


def test_names_and_objects_make_sections_in_order(data: tuple[Any, ...]) -> None:
    """A name alone, an object alone, or several of both; a second of a name is numbered."""
    report = looked(*data, "confusion", Planted(), PerClass(), Planted())
    assert [s.name for s in report.sections] == ["confusion", "planted", "per_class", "planted_2"]
    net, x, y = data
    for alone in ("per_class", PerClass(), ["per_class"]):
        found = artplus.evaluate(
            net, x, y, attacks=["fgsm"], eps=0.1, analyses=alone, progress=False
        )
        assert [s.name for s in found.sections] == ["per_class"]


def test_every_analysis_is_registered() -> None:
    """What has no setting without a default can be asked for by name."""
    assert set(OWN) <= set(list_analyses())
    assert isinstance(make_analysis("per_class", least=3), PerClass)


def test_unknown_names_and_what_is_no_analysis(data: tuple[Any, ...]) -> None:
    """The error lists what there is; a class in place of an object is told from one."""
    with pytest.raises(UnknownNameError, match="Did you mean 'confusion'.*per_class"):
        looked(*data, "confusian")
    with pytest.raises(ConfigurationError, match="got the class PerClass"):
        looked(*data, PerClass)
    with pytest.raises(ConfigurationError, match="objects such as .* got 3"):
        looked(*data, 3)
    with pytest.raises(
        ConfigurationError,
        match="analysis 'per_class': .*'nonsense'; known arguments: groups, group, least",
    ):
        make_analysis("per_class", nonsense=1)


def test_refusals_come_before_the_attacks(data: tuple[Any, ...]) -> None:
    """An analysis that does not apply stops the evaluation before it costs anything."""
    ran = []

    class Spy(PGD):
        def __call__(self, *given: object, **options: object) -> Tensor:
            ran.append(1)
            return super().__call__(*given, **options)

    with pytest.raises(ConfigurationError, match="no use here"):
        looked(*data, Planted(), Planted(refuse="no use here"), attack=Spy(eps=0.1))
    assert not ran


def test_a_failure_costs_its_own_section_only(data: tuple[Any, ...]) -> None:
    """The attacks' verdict reaches the user, with a section that says what went wrong."""
    with pytest.warns(ArtplusWarning, match="Planted failed .* RuntimeError: out of luck"):
        report = looked(*data, Planted(fail=RuntimeError("out of luck")), "per_class")
    failed, fine = report.sections
    assert "out of luck" in failed.summary and not failed.blocks
    assert fine.name == "per_class"
    assert report.robust_accuracy is not None


def test_an_interrupt_is_none_of_its_business(data: tuple[Any, ...]) -> None:
    """Ctrl-C in an analysis stops everything, as anywhere."""

    class Stop(BaseException):
        pass

    with pytest.raises(Stop):
        looked(*data, Planted(fail=Stop()))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rough:
    """Leaves the model in train mode, with gradients."""

    def __call__(self, subject: Subject) -> Section:
        module = subject.data.model.module.train()
        module(torch.rand(4, 12)).sum().backward()
        return Section(name="rough", title="T", summary="S")


def test_the_model_comes_back_whatever_an_analysis_does(data: tuple[Any, ...]) -> None:
    """Flags and gradients are those of before, the model's and those of the one before."""
    net, x, y = data
    other = linear(seed=1).eval()
    net.eval()
    net.weight.grad = torch.full_like(net.weight, 3.0)
    looked(net, x, y, Rough(), before=LossModel(other))
    assert not net.training
    assert (net.weight.grad == 3).all() and net.bias.grad is None


def test_draws_follow_from_the_seed_alone(data: tuple[Any, ...]) -> None:
    """An analysis says the same whatever runs beside it, and leaves the caller's streams alone."""
    alone = looked(*data, Planted(), seed=3).sections[0]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    beside = looked(*data, "epsilon_curve", Planted(), seed=3).sections[1]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert alone.figures == beside.figures
    assert looked(*data, Planted(), seed=4).sections[0].figures != alone.figures


@pytest.fixture
def images() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A small net on images, with train-mode flags and gradients that must come back."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(3 * 16, 3))  # fmt: skip
    x = torch.rand(24, 1, 6, 6)
    with torch.no_grad():
        y = net.eval()(x).argmax(1)
    net.train()
    net[1].eval()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    return net, x, y


@pytest.mark.parametrize("name", OWN)
def test_contract(name: str, images: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    """Each answers in a titled section with finite figures, repeatably, in strict JSON, and leaves
    the model as it was."""
    net, x, y = images
    before = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    flags = [child.training for child in net.modules()]
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    small: dict[str, dict[str, Any]] = {
        "smoothing": {"n": 40, "n0": 10, "examples": 6},
        "epsilon_curve": {"steps": 5},
        "minimum_norm": {"steps": 5},
    }
    analysis = make_analysis(name, **small.get(name, {}))
    report, again = (looked(net, x, y, analysis, before=LossModel(before)) for _ in range(2))
    (found,) = report.sections
    assert found.name == name and found.title and found.summary.endswith(".") and found.blocks
    assert np.isfinite([value for _, value in found.figures]).all()
    assert Report.from_json(report.to_json()).to_json() == report.to_json()
    assert again.sections == report.sections
    assert [child.training for child in net.modules()] == flags
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters())


@pytest.mark.parametrize("name", OWN)
def test_regressions_are_refused(name: str) -> None:
    """What asks for right and wrong says so of a model that has neither."""
    model = LossModel(nn.Linear(12, 1), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match=f"{name} needs a classifier"):
        looked(model, inside(4), torch.rand(4), name)


def test_an_estimator_goes_through_its_preprocessing() -> None:
    """Analyses see the model as the attacks do: raw inputs, the estimator's own normalisation."""
    x, y = arrays(40)
    estimator = classifier(nn.Linear(6, 3), preprocessing=(0.5, 0.5))
    report = artplus.evaluate(
        estimator, x, y, attacks=["fgsm"], eps=0.05, progress=False, before=estimator,
        analyses=[EpsilonCurve(steps=3), Corruptions(severities=(3,)), "transfer"],
    )  # fmt: skip
    curve, corrupted, transfer = report.sections
    for found in (curve, corrupted):
        assert dict(found.figures)["clean_accuracy"] == pytest.approx(report.clean_accuracy)
    assert dict(transfer.figures)["white_box"] == dict(transfer.figures)["best_transfer"]


def test_your_own(data: tuple[Any, ...]) -> None:
    """A registered analysis works by its name."""
    known = dict(registry._factories)
    try:
        register_analysis("planted")(Planted)
        assert looked(*data, "planted").sections[0].name == "planted"
    finally:
        registry._factories.clear()
        registry._factories.update(known)
