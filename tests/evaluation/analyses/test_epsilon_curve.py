"""The curve over the radius: closed form, monotone, consistent with the report, ends at zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from artplus.attacks import PGD, Square
from artplus.errors import ConfigurationError
from artplus.evaluation import judge, wilson
from artplus.evaluation.analyses import EpsilonCurve
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import Classification, task_for
from tests.evaluation.analyses.subjects import (
    BOX,
    curve,
    distances,
    inside,
    labelled,
    linear,
    looked,
    section,
)

NORMS = [math.inf, 2.0, 1.0]


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_model_the_curve_is_the_distribution_of_the_margin(norm: float) -> None:
    """An example stands at a radius exactly if that is less than its distance to the boundary."""
    net, x = linear(), inside(60)
    y = labelled(net, x, wrong=5)
    far = distances(net, x, norm)
    far[:5] = 0
    radii = [0.0, *np.quantile(far, [0.2, 0.4, 0.6, 0.8]).tolist()]
    found = section(net, x, y, EpsilonCurve(eps=radii, steps=30), norm=norm, eps=radii[2])
    line = curve(found, "model")
    assert line.x == tuple(radii)
    expected = [(far > radius).mean() for radius in radii]
    assert line.y == pytest.approx(expected, abs=1 / 60 + 1e-9)


def test_bands_are_wilson_intervals() -> None:
    """Every point carries the interval of its own count."""
    net, x = linear(), inside(40)
    line = curve(section(net, x, labelled(net, x), EpsilonCurve(eps=[0.0, 0.03])), "model")
    for value, low, high in zip(line.y, line.low, line.high, strict=True):
        assert (low, high) == pytest.approx(wilson(round(value * 40), 40))


def test_by_default_the_curve_starts_clean_holds_the_report_and_ends_at_zero() -> None:
    """0, the report's radius and a radius where nothing is left are among the radii."""
    net, x = linear(), inside(30)
    report = looked(net, x, labelled(net, x, wrong=3), EpsilonCurve())
    line = curve(report.sections[0], "model")
    at = dict(zip(line.x, line.y, strict=True))
    assert at[0.0] == report.clean_accuracy
    assert at[0.02] <= report.robust_accuracy
    assert line.y[-1] == 0 and line.y[-2] > 0
    assert all(a >= b for a, b in zip(line.y, line.y[1:], strict=False))
    figures = dict(report.sections[0].figures)
    assert figures["none_at"] == line.x[-1]
    assert figures["robust_accuracy"] == at[0.02]


def test_what_the_report_found_counts() -> None:
    """A weak attack of the curve does not contradict a strong one of the report."""
    net, x = linear(), inside(40)
    blind = EpsilonCurve(eps=[0.02], attacks=[PGD(eps=1e-6, steps=1, step_size=1e-12)])
    report = looked(net, x, labelled(net, x), blind, attack=PGD(eps=0.02, steps=20))
    assert report.robust_accuracy < 1
    assert curve(report.sections[0], "model").y[0] == report.robust_accuracy


def test_the_radii_stop_at_the_range_of_valid_inputs() -> None:
    """A model that gradients cannot fool is followed to where every input is allowed."""

    class Deaf(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], 1)

    x = inside(10)
    found = section(Deaf(), x, torch.zeros(10, dtype=torch.long), EpsilonCurve(), eps=0.3,
                    attack=PGD(eps=0.3, steps=1))  # fmt: skip
    line = curve(found, "model")
    assert line.x[-1] == 1.0 and line.y[-1] == 1.0
    assert "hides its gradients" in found.notes[-1]
    assert "none_at" not in dict(found.figures)


def test_before_and_after_are_two_lines() -> None:
    """The model before is attacked by itself, with its own gradients."""
    net, other, x = linear(), linear(seed=1), inside(40)
    y = labelled(net, x)
    found = section(net, x, y, EpsilonCurve(eps=[0.0, 0.01]), before=LossModel(other))
    clean = (other(x).argmax(1) == y).float().mean().item()
    assert [block.model for block in found.blocks] == ["before", ""]
    assert curve(found, "model", 0).y[0] == pytest.approx(clean)
    assert curve(found, "model", 1).y[0] == 1.0


@dataclass(frozen=True)
class Cheat:
    """Moves every input by a fixed vector, whatever its radius allows."""

    by: torch.Tensor
    eps: float = 0.01
    norm: float = math.inf

    def __call__(self, model: object, x: torch.Tensor, y: object, **_: object) -> torch.Tensor:
        return x + self.by

    def with_eps(self, scale: float) -> Cheat:
        return self


def test_what_breaks_the_rules_does_not_count() -> None:
    """Mistakes outside the ball or outside the range of valid inputs are none."""
    net, x = linear(), inside(20)
    y = torch.zeros(20, dtype=torch.long)
    w = (net.weight[1] - net.weight[0]).detach().sign()
    x = x[net(x).argmax(1) == 0]
    y = y[: len(x)]
    inside_box = InputSpace(x.amin(0), x.amax(0))
    for by, eps, space in ((0.3, 0.01, InputSpace()), (0.3, 0.4, inside_box)):
        turned = (net(x + by * w).argmax(1) == 1).all()
        cheat = EpsilonCurve(eps=[eps], attacks=[Cheat(by * w, eps)])
        found = section(net, x, y, cheat, eps=1e-6, space=space)
        assert turned and curve(found, "model").y == (1.0,)
    honest = EpsilonCurve(eps=[0.4], attacks=[Cheat(0.3 * w, 0.4)])
    assert curve(section(net, x, y, honest, eps=1e-6, space=InputSpace()), "model").y == (0.0,)


@dataclass(frozen=True)
class Late:
    """Finds a short way out, but only when it is allowed a long one."""

    by: torch.Tensor
    eps: float
    norm: float = math.inf

    def __call__(self, model: object, x: torch.Tensor, y: object, **_: object) -> torch.Tensor:
        return x + self.by if self.eps > 0.3 else x

    def with_eps(self, scale: float) -> Late:
        return replace(self, eps=self.eps * scale)


def test_a_mistake_counts_at_the_distance_it_has() -> None:
    """Found at a large radius, it lowers the curve from where it lies."""
    net, x = linear(), inside(20)
    x = x[net(x).argmax(1) == 0]
    w = (net.weight[1] - net.weight[0]).detach().sign()
    late = EpsilonCurve(eps=[0.1, 0.25, 0.4], attacks=[Late(0.2 * w, 0.1)])
    found = section(net, x, torch.zeros(len(x), dtype=torch.long), late, eps=1e-6)
    assert (net(x + 0.2 * w).argmax(1) == 1).all()
    assert curve(found, "model").y == (1.0, 0.0, 0.0)


def test_without_gradients_square_can_be_given() -> None:
    """A model that only answers is refused by default and drawn by an attack that only asks."""
    net, x = linear(), inside(20)

    def answers(x: torch.Tensor) -> torch.Tensor:
        return net(x).detach()

    model = LossModel(nn.Identity(), Classification(classes=2), forward=answers)
    attack = Square(eps=0.05, queries=20)
    y = labelled(net, x)
    with pytest.raises(ConfigurationError, match="epsilon_curve needs gradients"):
        looked(model, x, y, EpsilonCurve(), attack=attack)
    found = section(model, x, y, EpsilonCurve(attacks=[attack], eps=[0.0, 0.2]), attack=attack)
    assert curve(found, "model").y == (1.0, 0.0)


def test_refusals_come_before_any_attack_runs() -> None:
    """What cannot be drawn costs no attack: regressions, mixed norms, attacks of another norm."""
    ran = []

    class Spy(PGD):
        def __call__(self, *given: object, **options: object) -> torch.Tensor:
            ran.append(1)
            return super().__call__(*given, **options)

    net, x = linear(), inside(5)
    y = labelled(net, x)
    with pytest.raises(ConfigurationError, match="report is about L∞, but .* about L2"):
        looked(net, x, y, EpsilonCurve(attacks=[PGD(eps=1.0, norm=2)]), attack=Spy(eps=0.1))
    with pytest.raises(ConfigurationError, match="radius that is one number"):
        looked(net, x, y, EpsilonCurve(), attack=Spy(eps=np.full(12, 0.1)))
    regression = LossModel(nn.Linear(12, 1), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match="needs a classifier"):
        looked(regression, x, torch.rand(5), EpsilonCurve(), attack=Spy(eps=0.1))
    assert ran == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": [0.2, 0.1]}, "ascending radii"),
        ({"eps": []}, "ascending radii"),
        ({"eps": [-1.0]}, "eps must be a finite number >= 0"),
        ({"n": 0}, "n must be a whole number"),
        ({"steps": 0}, "steps must be"),
        ({"attacks": [PGD(eps=0.0)]}, "needs an eps that is a number > 0"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str) -> None:
    """Settings are refused where they are given."""
    with pytest.raises(ConfigurationError, match=message):
        EpsilonCurve(**options)


def test_unbounded_inputs_have_a_curve_too() -> None:
    """Without a range the multiples of the report's radius end the curve."""
    net, x = linear(), inside(10)
    found = section(net, x, labelled(net, x), EpsilonCurve(), space=InputSpace())
    assert curve(found, "model").y[-1] == 0
    assert BOX.width() == 1.0


def test_a_report_of_two_norms_has_no_one_curve() -> None:
    """Which norm the curve is about cannot be guessed."""
    net, x = linear(), inside(6)
    attacks = {"a": PGD(eps=0.1), "b": PGD(eps=0.5, norm=2)}
    with pytest.raises(ConfigurationError, match="the attacks differ in theirs"):
        judge(LossModel(net), x, labelled(net, x), attacks, space=BOX, analyses="epsilon_curve")


def test_falls_of_several_radii_count_at_their_own() -> None:
    """Two attacks of different radii: each fall at the smaller of the radii that made it, also
    where later attacks saw survivors only."""
    net, x = linear(), inside(60)
    y, far = labelled(net, x), distances(net, x, math.inf)
    near, wide = float(np.quantile(far, 0.3)), float(np.quantile(far, 0.7))
    blind = EpsilonCurve(eps=[near, wide], attacks=[PGD(eps=1e-6, steps=1, step_size=1e-12)])
    for order in (("near", "wide"), ("wide", "near")):
        radii = {"near": near, "wide": wide}
        attacks = {name: PGD(eps=radii[name], steps=20) for name in order}
        for survivors in (False, True):
            report = judge(LossModel(net), x, y, attacks, space=BOX, analyses=blind,
                           only_survivors=survivors, progress=False)  # fmt: skip
            low, high = curve(report.sections[0], "model").y
            assert high == report.robust_accuracy == pytest.approx(0.3, abs=0.03)
            # Survivors of the wide attack are none of the near one's: it tells nothing of them.
            told = not survivors or order[0] == "near"
            assert low == (pytest.approx(0.7, abs=0.03) if told else 1.0)
