"""The distribution of the nearest mistake: closed form, quartiles, classes, what is no mistake."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import FAB, FMN, PGD
from artplus.errors import ConfigurationError
from artplus.evaluation.analyses import MinimumNorms
from artplus.model import LossModel
from artplus.tasks import task_for
from tests.evaluation.analyses.subjects import (
    curve,
    distances,
    inside,
    labelled,
    linear,
    looked,
    section,
    table,
)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_on_a_linear_model_quartiles_are_those_of_the_margin(norm: float) -> None:
    """In every norm the distances are those to the boundary, 0 where the model is wrong."""
    net, x = linear(), inside(60)
    y = labelled(net, x, wrong=6)
    far = distances(net, x, norm)
    far[:6] = 0
    found = section(net, x, y, MinimumNorms(), norm=norm, eps=float(np.median(far)) / 50)
    expected = np.quantile(far, [0.25, 0.5, 0.75], method="lower")
    figures = dict(found.figures)
    assert [figures[k] for k in ("q25", "median", "q75")] == pytest.approx(expected, rel=0.02)
    line = curve(found, "model")
    assert line.y == pytest.approx([(far > r).mean() for r in line.x], abs=0.05)


def test_rows_by_class() -> None:
    """The table tells each class apart, and its median is that of the class."""
    net, x = linear(), inside(60)
    y, far = labelled(net, x), distances(net, x, 2.0)
    found = section(net, x, y, MinimumNorms(), norm=2.0, class_names=["cat", "dog"])
    rows = {row[0]: row for row in table(found).rows}
    for k, name in enumerate(["cat", "dog"]):
        own = far[(y == k).numpy()]
        assert rows[f"class {name}"][1] == len(own)
        expected = np.quantile(own, 0.5, method="lower")
        assert rows[f"class {name}"][3] == pytest.approx(expected, rel=0.02)


@dataclass(frozen=True)
class Liar:
    """Returns what it was told and claims that it is near."""

    x_adv: Tensor
    norm: float = math.inf

    def minimum(self, model: Any, x: Tensor, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        return self.x_adv, torch.zeros(len(x))


def test_claims_are_checked() -> None:
    """What is no mistake does not count, nor what leaves the range; lengths are measured."""
    net, x = linear(), inside(20)
    y = labelled(net, x)
    w = (net.weight[1] - net.weight[0]).detach()
    sign = torch.where(y == 1, -1.0, 1.0)[:, None] * w.sign()
    true = (x + 0.3 * sign).clamp(0, 1)
    for planted, median in ((x, None), (x + 3 * sign, None), (true, 0.3)):
        found = section(net, x, y, MinimumNorms(attacks=[Liar(planted)]), eps=1e-6)
        assert dict(found.figures).get("median") == (median and pytest.approx(median, abs=1e-6))


def test_the_report_counts_too() -> None:
    """A mistake of the report's attacks bounds the distance by their radius."""
    net, x = linear(), inside(30)
    y = labelled(net, x)
    strong = PGD(eps=0.05, steps=30)
    found = section(net, x, y, MinimumNorms(attacks=[Liar(x)]), attack=strong)
    far = distances(net, x, math.inf)
    line = curve(found, "model")
    at = dict(zip(line.x, line.y, strict=True))
    assert at[0.05] == pytest.approx((far > 0.05).mean(), abs=0.04)


def test_before_has_rows_and_a_line() -> None:
    """A model with half the margin lies half as far from its mistakes."""
    net, x = linear(), inside(40)
    y = labelled(net, x)
    near = linear()
    with torch.no_grad():  # shift the boundary towards the inputs
        near.bias.add_(torch.tensor([0.02, -0.02]))
    found = section(net, x, y, MinimumNorms(), before=LossModel(near), norm=2.0)
    assert [table(found, k).model for k in (0, 1)] == ["before", ""]
    assert [table(found, k).rows[0][0] for k in (0, 1)] == ["all", "all"]
    assert curve(found, "model", 0) != curve(found, "model", 1)


def test_refusals() -> None:
    """Regressions, other norms, and attacks that seek no nearest mistake."""
    net, x = linear(), inside(5)
    y = labelled(net, x)
    with pytest.raises(ConfigurationError, match="seek the nearest mistake .* got PGD"):
        MinimumNorms(attacks=[PGD(eps=0.1)])
    with pytest.raises(ConfigurationError, match="about L∞, but FAB .* about L2"):
        looked(net, x, y, MinimumNorms(attacks=[FAB(eps=0.1, norm=2)]))
    regression = LossModel(nn.Linear(12, 1), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match="needs a classifier"):
        looked(regression, x, torch.rand(5), MinimumNorms())
    assert MinimumNorms(attacks=[FMN(eps=0.1)]).attacks is not None
