"""Several reports as one: mean, spread, the worst case over seeds, and what does not compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.evaluation import Report, judge, over_seeds, wilson
from artplus.evaluation.seeds import Spread
from artplus.model import LossModel
from artplus.tasks import task_for


@pytest.fixture
def reports() -> list[Report]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.rand(40, 6)
    y = net(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    attacks = {"a": PGD(eps=0.05, steps=1), "b": PGD(eps=0.05, steps=2)}
    return [judge(LossModel(net), x, y, attacks, seed=seed, progress=False) for seed in range(4)]


def test_figures_are_those_of_the_reports(reports: list[Report]) -> None:
    """Means, standard deviations with n - 1, per attack and in the worst case."""
    found = over_seeds(reports)
    robust = [report.robust_accuracy for report in reports]
    assert found.robust.values == tuple(robust)
    assert found.robust.mean == pytest.approx(np.mean(robust))
    assert found.robust.deviation == pytest.approx(np.std(robust, ddof=1))
    assert list(found.attacks) == ["a", "b"]
    assert found.attacks["b"].values == tuple(r.attacks[1].accuracy for r in reports)
    assert found.clean.deviation == 0 and found.clean.mean == reports[0].clean_accuracy
    assert found.seeds == (0, 1, 2, 3)


def test_worst_over_seeds_is_the_and(reports: list[Report]) -> None:
    """An example stands if it stands in every report: at most the least robust accuracy."""
    found = over_seeds(reports)
    together = np.logical_and.reduce([report.correct_robust for report in reports])
    assert np.array_equal(found.correct_worst, together)
    assert found.worst_accuracy <= found.robust.least
    assert found.worst_interval == wilson(int(together.sum()), 40)


def test_text(reports: list[Report]) -> None:
    """A table of the spreads, and a sentence."""
    text = str(over_seeds(reports))
    assert "sd" in text and "worst case" in text
    assert "Over 4 seeds robust accuracy is" in text


def test_students_interval() -> None:
    """Two values: half their distance times t(0.975, 1) over the root of two, by hand 12.706."""
    spread = Spread((0.4, 0.6))
    low, high = spread.interval
    half = 12.7062 * spread.deviation / np.sqrt(2)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)
    assert (spread.least, spread.greatest) == (0.4, 0.6)


def test_attacks_that_not_all_have_are_left_out(reports: list[Report]) -> None:
    """A mean over some of the reports would not compare; the note says which."""
    fewer = replace(reports[1], attacks=reports[1].attacks[:1])
    found = over_seeds([reports[0], fewer])
    assert list(found.attacks) == ["a"]
    assert "broken in one: b." in found.notes[0]


def test_the_same_seed_twice_is_noted(reports: list[Report]) -> None:
    """A repetition is no second seed."""
    found = over_seeds([reports[0], reports[0]])
    assert found.robust.deviation == 0
    assert "the same seed" in found.notes[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_hash": "other"}, "only on the same examples"),
        ({"eps": 0.3}, "only within the same ball"),
        ({"attacks": ()}, "hold an attack that worked; 1 of 2 do not"),
    ],
)
def test_what_does_not_compare(reports: list[Report], change: dict[str, Any], message: str) -> None:
    """Other examples, another ball, no attack that worked."""
    with pytest.raises(ConfigurationError, match=message):
        over_seeds([reports[0], replace(reports[1], **change)])


def test_one_report_has_no_spread(reports: list[Report]) -> None:
    """Nor have regressions an accuracy."""
    with pytest.raises(ConfigurationError, match="at least two reports, got 1"):
        over_seeds(reports[:1])
    model = LossModel(nn.Linear(3, 1), task_for(nn.MSELoss()))
    x, y = torch.rand(6, 3), torch.rand(6)
    other = [judge(model, x, y, {"p": PGD(eps=0.1)}, seed=s, progress=False) for s in (0, 1)]
    with pytest.raises(ConfigurationError, match="must be of a classifier"):
        over_seeds(other)
